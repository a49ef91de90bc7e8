"""`libgraph benchmark`: bases on networks whose answers are known."""

from __future__ import annotations

import json

import click

from libgraph.benchmark.options import BenchmarkOptions
from libgraph_cli.configuration import config_option
from libgraph_cli.options import GroupedCommand, json_option, options_of
from libgraph_cli.running import Values, display

EXAMPLES = """\
libgraph benchmark
libgraph benchmark --bases topk-lib,dictionary --seeds 10 --json"""


@click.command(cls=GroupedCommand, epilog=EXAMPLES)
@options_of(BenchmarkOptions)
@json_option("Print all scores instead of tables.")
@config_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def benchmark(options: Values, as_json: bool, quiet: bool) -> None:
    """Measure bases on networks whose features and interactions are known.

    Planted networks have more features than dimensions, which interact in modules; separate ones
    as many dimensions; random ones have the same inputs and random weights; toy models of
    superposition are trained here; frequencies are those of modular addition. Scores are means over
    seeds with their standard deviation.
    """
    from libgraph.benchmark.benchmark import benchmark as measure
    from libgraph.screen import Screen

    with display(quiet=quiet) as progress:
        found = measure(progress, **options)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=1))
    else:
        found.print(Screen())
