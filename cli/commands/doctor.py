"""`libgraph doctor`: what there is to work with, what is missing, and what is slow."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from libgraph_cli.configuration import config_option
from libgraph_cli.options import GroupedCommand, json_option

if TYPE_CHECKING:
    from libgraph.screen import Screen
    from libgraph_cli.environment import Environment


@click.command(cls=GroupedCommand, epilog="libgraph doctor\nlibgraph doctor --json")
@click.argument("run", required=False, type=click.Path(path_type=Path))
@json_option("Print everything as JSON.")
@config_option
def doctor(run: Path | None, as_json: bool) -> None:
    """Say what libgraph has here: versions, threads, GPU, extras, and what is slow.

    Nothing is changed, and nobody is asked. Put what it prints into a report of a bug.
    """
    if run is not None:
        _check_run(run, as_json=as_json)
        return
    from libgraph.screen import Screen
    from libgraph_cli.environment import examine

    environment = examine()
    if as_json:
        click.echo(json.dumps(asdict(environment), indent=1))
    else:
        _print(Screen(), environment)


def _check_run(run: Path, *, as_json: bool) -> None:
    """Whether what a finished run says can be relied on."""
    from libgraph.errors import UsageError

    raise UsageError(f"Runs cannot be checked yet, such as '{run}': leave it out.")


def _print(screen: Screen, environment: Environment) -> None:
    from libgraph.screen import PlainTable, show, tell

    versions = PlainTable(("version of", ""), left={1})
    for name, version in environment.versions.items():
        versions.add_row(name, version)
    versions.add_row("in", environment.installed)
    computing = environment.computing
    table = PlainTable(("to compute with", ""), left={1}, words={1})
    cores = "" if computing.cores is None else f", of {computing.cores} cores"
    table.add_row("processors", f"{computing.processors}{cores}")
    table.add_row("threads", str(computing.threads))
    if computing.load is not None:
        table.add_row("load", f"{computing.load:.1f}")
    table.add_row("memory", f"{computing.memory / 2**30:.1f} GiB free")
    table.add_row("disk", f"{computing.disk / 2**30:.1f} GiB free here")
    table.add_row("products", f"{computing.products / 1e9:.0f} thousand million a second, float64")
    for device, name in computing.devices.items():
        table.add_row(device, name)
    for name, value in computing.variables.items():
        table.add_row(name, value)
    added = PlainTable(("extra", ""), left={1}, words={1})
    for extra in environment.extras:
        added.add_row(
            extra.name, f"missing: {', '.join(extra.missing)}" if extra.missing else "yes"
        )
    plugins = PlainTable(("plug-in", "of"), left={1}, words={1})
    for name, distribution in environment.plugins.items():
        plugins.add_row(name, distribution)
    for part in (versions, table, added, plugins):
        if part.rows:
            show(screen, part)
            screen.print()
    if not environment.remarks:
        tell(screen, "Nothing is missing, and nothing is slow.")
    for remark in environment.remarks:
        tell(screen, ("- ", "bold"), remark, whole=True)
