"""`libgraph diff`: finished runs compared, two in detail or several one after the other."""

from __future__ import annotations

import json
from pathlib import Path

import click

from libgraph_cli.options import config_option, json_option


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN…")
@click.option("--basis", metavar="NAME", help="One that the runs have.  [what each was asked for]")
@click.option("--basis-b", metavar="NAME", help="That of the second of two runs.  [--basis]")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.9,
    show_default=True,
    help="|cosine| of two directions from which on features count as matched.",
)
@click.option(
    "--figure",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help="Draw score, edges, modules and features over the runs.",
)
@json_option("Print figures instead of tables.")
@config_option
def diff(
    runs: tuple[Path, ...],
    basis: str | None,
    basis_b: str | None,
    threshold: float,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Compare finished RUNs in detail: checkpoints, seeds, or two bases.

    With --basis-b two bases are compared, also of one run. Of two runs: subspaces, matched
    features, edges and modules gained and lost. Of more: each with the one before it. Directions
    are compared in the coordinates of the activations, which two trainings from different seeds do
    not share: see the overlap by chance.
    """
    from dataclasses import asdict
    from itertools import pairwise

    from rich.console import Console

    from libgraph.comparison.difference import compare, side
    from libgraph.comparison.series import run_figures
    from libgraph.errors import UsageError
    from libgraph.report.series_figure import draw_series
    from libgraph.report.style import check_figure
    from libgraph.runs.saved_run import SavedRun
    from libgraph_cli.tables.difference import print_difference, print_series

    if len(runs) == 1 and basis_b:
        runs *= 2
    if len(runs) == 1:
        raise UsageError("There is one run only: give another, or --basis-b for another basis.")
    if len(runs) > 2 and basis_b:
        raise UsageError("--basis-b is for two runs: leave it out, or give two.")
    if figure is not None:
        check_figure(figure)
    saved = [SavedRun(path) for path in runs]
    chosen = [basis] * (len(saved) - 1) + [basis_b or basis]
    sides = [side(each, name) for each, name in zip(saved, chosen, strict=True)]
    found = [compare(a, b, threshold) for a, b in pairwise(sides)]
    detailed = len(saved) == 2
    rows = []
    if figure is not None or not detailed:
        rows = [run_figures(*each, sides[-1]) for each in zip(saved, sides, strict=True)]
    if as_json:
        # One object for every number of runs: `differences` are those of neighbours.
        about = [{"run": each.title, "basis": each.basis} for each in sides]
        figures = {
            "runs": [
                {**each, **(asdict(rows[index]) if rows else {})}
                for index, each in enumerate(about)
            ],
            "differences": [each.metrics() for each in found],
        }
        click.echo(json.dumps(figures, indent=1))
    elif detailed:
        print_difference(Console(), found[0], *sides)
    else:
        print_series(Console(), rows, found, saved[-1].concept)
    if figure is not None:
        # Last, so that the figures are not lost where there is no matplotlib.
        bases = " and ".join(dict.fromkeys(each.basis.upper() for each in sides))
        title = f"{saved[-1].backend}: {len(runs)} runs in the {bases} basis"
        draw_series(rows, figure, concept=saved[-1].concept, title=title)
        if not as_json:
            click.echo(f"Written to {figure}.")
