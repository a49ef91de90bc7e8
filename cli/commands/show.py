"""`libgraph show`: one feature, one module or one node layer of a finished run."""

from __future__ import annotations

import json
from pathlib import Path

import click

from libgraph_cli.configuration import config_option
from libgraph_cli.options import GroupedCommand, json_option


@click.command(
    cls=GroupedCommand,
    heading="What is shown",
    epilog="libgraph show runs/ma ln2.0/5\n"
    "libgraph show runs/ma module:1\n"
    "libgraph show runs/ma cos(21 --top 30",
)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("what")
@click.option("--basis", metavar="NAME", help="One that the run has.  [the one it was asked for]")
@click.option(
    "--top", type=click.IntRange(min=1), default=10, help="Inputs and outputs shown.  [10]"
)
@json_option("Print everything as JSON.")
@config_option
def show(run: Path, what: str, basis: str | None, top: int, as_json: bool) -> None:
    """Show a feature of RUN, such as ln2.0/5: what feeds it, and where it leads.

    WHAT is a feature, a module (module:3), a node layer (ln2.0), or a text to search labels for.
    """
    from libgraph.errors import UsageError
    from libgraph.runs.saved_run import open_run
    from libgraph.runs.shown import (
        feature_values,
        layer_values,
        module_values,
        print_feature,
        print_layer,
        print_module,
    )
    from libgraph.runs.subject import MODULE
    from libgraph.screen import PlainTable, Screen
    from libgraph.screen import show as show_table

    saved, screen = open_run(run), Screen()
    name = saved.chosen(basis)
    module = MODULE.fullmatch(what)
    if what in saved.layers:
        if as_json:
            click.echo(json.dumps(layer_values(saved, what, name), indent=1))
        else:
            print_layer(screen, saved, what, name)
        return
    if module is not None:
        found = saved.module(int(module[1]), name)
        if as_json:
            click.echo(json.dumps(module_values(found), indent=1))
        else:
            print_module(screen, saved, found)
        return
    try:
        feature = saved.feature(what, name)
    except UsageError:
        matches = saved.search(what, name)
        if not matches:
            raise
        if as_json:
            click.echo(json.dumps([feature_values(each, top) for each in matches], indent=1))
            return
        table = PlainTable(["feature", "label"], words=[1], left=[1])
        for each in matches:
            table.add_row(each.id, "" if each.label is None else each.label.text)
        show_table(screen, table)
        return
    if as_json:
        click.echo(json.dumps(feature_values(feature, top), indent=1))
    else:
        print_feature(screen, feature, top)
