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


@click.command(cls=GroupedCommand, epilog="libgraph doctor\nlibgraph doctor runs/ma")
@click.argument("run", required=False, type=click.Path(path_type=Path))
@json_option("Print everything as JSON.")
@config_option
def doctor(run: Path | None, as_json: bool) -> None:
    """Say what libgraph has here and what is slow; or check every file of RUN.

    Without RUN: versions, threads, GPU, extras. Put what it prints into a report of a bug. With
    RUN: what is damaged, what can still be used, what interrupted commands have left, and what to
    do; it exits with 2 where something is damaged. Nothing is changed, and nobody is asked.
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
    """Every file of a run against the checksum that it was written with."""
    from libgraph.errors import DamagedFile
    from libgraph.runs.condition import run_condition
    from libgraph.screen import Screen
    from libgraph_cli.tables.doctor import print_condition

    condition = run_condition(run)
    if as_json:
        click.echo(json.dumps(condition.as_dict(), indent=1))
    else:
        print_condition(Screen(), condition)
    if not condition.well:
        raise DamagedFile(condition.sentence())
    if not as_json:
        Screen().say(condition.sentence())


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
    commands = [extra.command for extra in environment.extras]
    for remark in environment.remarks:
        command = next((each for each in commands if remark.endswith(each)), "")
        tell(screen, ("- ", "bold"), remark.removesuffix(command).rstrip())
        if command:
            # In a line of its own, that only the terminal breaks: it can be copied.
            screen.say(f"  {command}")
