"""`libgraph analyze`: the whole pipeline, its result on screen and in a run directory."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from libgraph.pipeline.options import AnalysisOptions
from libgraph_cli.completing import complete_backends
from libgraph_cli.options import (
    GroupedCommand,
    check_figure,
    dry_run_option,
    figure_options,
    json_option,
    options_of,
    request_options,
)
from libgraph_cli.running import Request, Values, run_analysis

FOR_COMPARISONS = {"beside", "seeds", "curves", "halves", "draws"}
"""Options that `analyze` leaves alone: more bases and measures are what `compare` is for."""


EXAMPLES = """\
libgraph analyze modular-addition
libgraph analyze mlp -o seed=1 --no-ablation --out runs/mlp"""


@click.command(cls=GroupedCommand, epilog=EXAMPLES)
@click.argument("backend", shell_complete=complete_backends)
@options_of(AnalysisOptions, without=FOR_COMPARISONS)
@dry_run_option
@json_option("Print metrics.json, or the plan, instead of tables.")
@figure_options
@request_options(
    out="Run directory.  [runs/BACKEND-TIME]",
    force="Replace the run directory, reusing what still holds.",
)
def analyze(
    backend: str,
    options: Values,
    dry_run: bool,
    as_json: bool,
    figure: Path | None,
    max_features: int | None,
    request: Request,
) -> None:
    """Find the features of BACKEND's model, their interactions and their modules.

    Writes bases, edges and examples (safetensors), ablation.json, metrics.json, run.json,
    graph.graphml for Gephi, graph.json, graph.png, modules.png and report.html, a page to look
    around in. An interrupted run goes on with the same --out.
    """
    check_figure(figure, max_features)
    # A plan needs nothing of what draws and writes.
    if dry_run:
        show_plan(backend, options, request, as_json=as_json)
        return
    from libgraph.analysis.analysis import analyze as analyze_model
    from libgraph.report.graph_files import graph_title
    from libgraph.report.graph_picture import draw
    from libgraph.report.page.page import PAGE
    from libgraph.runs.tables import print_metrics, print_survey
    from libgraph.screen import Screen

    run = run_analysis(analyze_model, backend, options, request)
    if run is None:
        return
    screen = Screen()
    if as_json:
        click.echo(run.metrics.text())
    else:
        print_metrics(screen, run.metrics)
        survey = run.lesions()
        if survey is not None:
            print_survey(screen, survey, run.metrics)
        # Without the extra `report` there is no page.
        page = "report.html, or " if run.directory and (run.directory / PAGE).exists() else ""
        screen.say(f"Written to {run.directory}: open {page}graph.graphml in Gephi.")
    if figure is not None:
        title = graph_title(run.metrics.backend, run.basis)
        draw(run.graph(), figure, title=title, concept=run.concept, max_features=max_features)
        if not as_json:
            screen.say(f"Drawn to {figure}.")


def show_plan(backend: str, options: Values, request: Request, *, as_json: bool) -> None:
    """Print what an analysis would take."""
    from libgraph.analysis.plan import plan
    from libgraph.screen import Screen
    from libgraph_cli.tables.plan import print_plan

    planned = plan(request.backend(backend), **options)
    if as_json:
        click.echo(json.dumps(asdict(planned), indent=1))
    else:
        print_plan(Screen(), planned)
