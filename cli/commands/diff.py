"""`libgraph diff`: finished runs compared, two in detail or several one after the other."""

from __future__ import annotations

import json
from pathlib import Path

import click

from libgraph_cli.configuration import config_option
from libgraph_cli.options import GroupedCommand, json_option


@click.command(
    cls=GroupedCommand,
    heading="What is compared",
    epilog="libgraph diff runs/a runs/b\n"
    "libgraph diff runs/ma --basis lib --basis-b pca\n"
    "libgraph diff runs/step-1 runs/step-2 runs/step-3 --figure steps.png",
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN…")
@click.option("--basis", metavar="NAME", help="One that the runs have.  [what each was asked for]")
@click.option("--basis-b", metavar="NAME", help="That of the second of two runs.  [--basis]")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.9,
    help="|cosine| of two directions from which on features count as matched.  [0.9]",
)
@click.option(
    "--coordinates",
    metavar="NAME",
    help="A linear basis of the first run in which directions are compared, such as lib, where "
    "they are as long as what they do.  [those of activations]",
)
@click.option(
    "--figure",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw score, edges, modules and features over the runs.",
)
@json_option("Print figures instead of tables.")
@config_option
def diff(
    runs: tuple[Path, ...],
    basis: str | None,
    basis_b: str | None,
    threshold: float,
    coordinates: str | None,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Compare finished RUNs in detail: checkpoints, seeds, or two bases.

    With --basis-b two bases are compared, also of one run. Of two runs: subspaces, matched
    features, edges and modules gained and lost. Of more: each with the one before it. Directions
    are compared in the coordinates of the activations, which two trainings from different seeds do
    not share: see the overlap by chance.
    """
    from libgraph.comparison.difference import print_difference
    from libgraph.comparison.series import diff_series, print_series
    from libgraph.errors import UsageError
    from libgraph.report.series_figure import draw_series
    from libgraph.report.style import figure_kind
    from libgraph.screen import Screen

    if len(runs) == 1 and basis_b:
        runs *= 2
    if len(runs) == 1:
        raise UsageError("There is one run only: give another, or --basis-b for another basis.")
    if len(runs) > 2 and basis_b:
        raise UsageError("--basis-b is for two runs: leave it out, or give two.")
    if figure is not None:
        figure_kind(figure)
    bases = [basis] * (len(runs) - 1) + [basis_b or basis]
    series = diff_series(runs, bases=bases, threshold=threshold, coordinates=coordinates)
    detailed = len(runs) == 2
    if as_json:
        # One object for every number of runs: `differences` are those of neighbours.
        figures = series.as_dict(figures=figure is not None or not detailed)
        click.echo(json.dumps(figures, indent=1))
    elif detailed:
        print_difference(Screen(), series.differences[0])
    else:
        print_series(Screen(), series)
    if figure is not None:
        # Last, so that the figures are not lost where there is no matplotlib.
        draw_series(series.figures, figure, concept=series.concept, title=series.title)
        if not as_json:
            Screen().say(f"Written to {figure}.")
