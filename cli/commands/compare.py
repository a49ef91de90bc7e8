"""`libgraph compare`: bases on identical data, or finished runs, side by side.

A backend is analysed once, with every basis measured in that analysis. Finished runs are read, and
nothing is computed. Both end in one table and one figure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from libgraph.bases.methods import METHODS
from libgraph.pipeline.options import COMPARED, DRAWS, AnalysisOptions
from libgraph_cli.commands.analyze import show_plan
from libgraph_cli.completing import complete_backends
from libgraph_cli.options import (
    GroupedCommand,
    dry_run_option,
    json_option,
    options_of,
    request_options,
)
from libgraph_cli.running import Request, Values, run_analysis

if TYPE_CHECKING:
    from libgraph.comparison.side_by_side import Comparison
    from libgraph.runs.computed_run import ComputedRun


BASES = ",".join(COMPARED)

PICTURE = "comparison.png"
"""The figure of a new run."""


FOR_RUNS = {"backend_or_runs", "basis", "figure", "as_json", "quiet", "verbose"}


EXAMPLES = """\
libgraph compare modular-addition
libgraph compare mlp --bases lib,pca,sparse --draws 0
libgraph compare runs/seed0 runs/seed1 --figure seeds.png"""


@click.command(cls=GroupedCommand, heading="Bases", epilog=EXAMPLES)
@click.argument(
    "backend_or_runs",
    metavar="BACKEND | RUN...",
    nargs=-1,
    required=True,
    shell_complete=complete_backends,
)
@click.option(
    "--bases",
    metavar="NAMES",
    help=f"Any of {', '.join(METHODS)}, and files, with commas between.  [{BASES}]",
)
@click.option(
    "--basis",
    metavar="NAME",
    help="Of finished runs: which to compare.  [all of one run, the main one of several]",
)
@click.option(
    "--figure",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to draw: .png, .svg or .pdf.  "
    "[comparison.png in a new run, nowhere for finished ones]",
)
@options_of(
    AnalysisOptions,
    without={"basis", "beside", "seeds", "curves", "halves"},
    defaults={"draws": DRAWS},
)
@dry_run_option
@json_option("Print the same numbers, or the plan.")
@request_options(
    out="Run directory.  [runs/BACKEND-TIME]",
    force="Replace the run directory, reusing what still holds.",
)
def compare(
    backend_or_runs: tuple[str, ...],
    bases: str | None,
    basis: str | None,
    figure: Path | None,
    options: Values,
    dry_run: bool,
    as_json: bool,
    request: Request,
) -> None:
    """Compare bases of BACKEND's model on the same data, or finished RUNs.

    A backend is analysed as by `libgraph analyze`, with all --bases and more measures of modules;
    the main basis is lib, or else the first. A RUN is a directory that such an analysis has
    written: of one all bases are compared, of several the main basis of each.
    """
    from libgraph.analysis.analysis import analyze
    from libgraph.analysis.compare import comparison_options, names_of
    from libgraph.comparison.side_by_side import compare_run, compare_runs
    from libgraph.pipeline.stages import may_be_left_out
    from libgraph.report.comparison_figure import draw_comparison
    from libgraph.report.style import figure_kind
    from libgraph.screen import Screen

    if figure is not None:
        figure_kind(figure)
    if not _is_backend(backend_or_runs):
        _refuse_analysis(request, backend_or_runs[0])
        _show(compare_runs(backend_or_runs, basis=basis), figure, as_json=as_json)
        return
    if basis is not None:
        raise click.UsageError(f"--basis is for finished runs: use --bases {basis}.")
    chosen = BASES if bases is None else bases
    if not chosen.replace(",", " ").strip():
        raise click.UsageError(f"--bases names no basis: give some of {BASES}.")
    options = {**options, **comparison_options(chosen, options.get("draws", DRAWS))}
    backend = backend_or_runs[0]
    if dry_run:
        show_plan(backend, options, request, as_json=as_json)
        return
    names = names_of(chosen)

    def draw(run: ComputedRun, directory: Path) -> None:
        with may_be_left_out(f"{PICTURE} was"):
            compared = compare_run(run, names)
            draw_comparison(compared.columns, directory / PICTURE, title=compared.title)

    beside = {} if figure is not None else {"beside_files": draw}
    run = run_analysis(analyze, backend, options, request, **beside)
    if run is None or run.directory is None:
        return
    _show(compare_run(run, names), figure, as_json=as_json)
    drawn = run.directory / PICTURE
    if figure is None and not as_json and drawn.exists():
        Screen().say(f"\nDrawn to {drawn}.")


def _is_backend(names: Sequence[str]) -> bool:
    """Whether that is a backend to analyse; a run of the same name comes first."""
    from libgraph.backend.options import near
    from libgraph.backend.registry import backend_names
    from libgraph.errors import UsageError
    from libgraph.files.reading import reading

    name, backends = names[0], backend_names()
    if len(names) > 1:
        return False
    with reading(name, UsageError):
        if (Path(name) / "run.json").is_file():
            return False
        exists = Path(name).exists() or Path(name + ".partial").exists()
    if name not in backends and not exists:
        raise UsageError(
            f"'{name}' is neither a run nor a backend{near(name, backends, 'installed are')}"
        )
    return name in backends


def _refuse_analysis(request: Request, first: str) -> None:
    """Options of an analysis say nothing about runs that are finished."""
    from click.core import ParameterSource

    context = click.get_current_context()
    # The environment may be set for every command of a session.
    wanted = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
    for parameter in context.command.params:
        name = parameter.name or ""
        told = context.get_parameter_source(name) in wanted or (
            name == "option" and request.settings
        )
        if told and parameter.expose_value and name not in FOR_RUNS:
            raise click.UsageError(
                f"{parameter.opts[-1]} is for a backend, and '{first}' is a run here: "
                "finished runs are compared as they are."
            )


def _show(comparison: Comparison, figure: Path | None, *, as_json: bool) -> None:
    from libgraph.comparison.side_by_side import print_comparison
    from libgraph.report.comparison_figure import draw_comparison
    from libgraph.screen import Screen

    if as_json:
        click.echo(json.dumps(comparison.as_dict(), indent=1))
    else:
        print_comparison(Screen(), comparison)
    if figure is not None:
        # Last, so that the numbers are not lost where there is no matplotlib.
        draw_comparison(comparison.columns, figure, title=comparison.title)
        if not as_json:
            Screen().say(f"\nDrawn to {figure}.")
