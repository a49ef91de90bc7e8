"""`libgraph doctor`: whether a run is whole, file by file."""

from __future__ import annotations

import json
from pathlib import Path

import click

from libgraph_cli.options import json_option


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@json_option("Print the same as JSON.")
def doctor(run: Path, as_json: bool) -> None:
    """Check RUN: every file of it against the checksum that it was written with.

    Says what is damaged, what can still be used, what interrupted commands have left, and what to
    do. Nothing is changed. Exits with 2 where something is damaged.
    """
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
