"""`libgraph faithfulness`: how much of a run's network its largest interactions are."""

from __future__ import annotations

import json
from pathlib import Path

import click

from libgraph.interventions.options import FaithfulnessOptions
from libgraph_cli.configuration import config_option
from libgraph_cli.options import GroupedCommand, json_option, options_of
from libgraph_cli.running import Values, display

EXAMPLES = """\
libgraph faithfulness runs/mod --limit 500
libgraph faithfulness runs/mod --basis lib --restore 100 --figure f.png"""


@click.command(cls=GroupedCommand, heading="Bases", epilog=EXAMPLES)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--basis",
    "bases",
    metavar="NAME",
    multiple=True,
    help="One that the run has; can be repeated.  [all]",
)
@options_of(FaithfulnessOptions)
@click.option(
    "--figure",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw the curves: .png, .svg or .pdf.",
)
@json_option("Print all figures instead of tables.")
@config_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def faithfulness(
    run: Path,
    bases: tuple[str, ...],
    options: Values,
    figure: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure how much of RUN's network its largest interactions do alone.

    The k largest edges of all layer pairs are kept together, all others at a baseline, for ever
    more of them: f is 0 without edges and 1 for the network. CPR is the area under f, CMD that
    between f and 1. Scores are those of the test split.
    """
    from libgraph.report.faithfulness_figure import draw_faithfulness
    from libgraph.report.style import figure_kind
    from libgraph.runs.saved_run import open_run
    from libgraph.screen import Screen

    if figure is not None:
        figure_kind(figure)
    saved = open_run(run)
    with display(quiet=quiet) as progress:
        figures = saved.faithfulness(bases or None, progress=progress, **options)
    if as_json:
        click.echo(json.dumps(figures.as_dict(), indent=1))
    else:
        figures.print(Screen())
    if figure is not None:
        # Last, so that the figures are not lost where there is no matplotlib.
        draw_faithfulness(figures, figure, title=figures.title)
        if not as_json:
            Screen().say(f"Written to {figure}.")
