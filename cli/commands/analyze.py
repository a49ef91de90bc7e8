"""`libgraph analyze`: the whole pipeline, its result on screen and in a run directory."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from libgraph_cli.options import (
    analysis_options,
    analysis_values,
    config_option,
    pairs_option,
    verbosity_options,
)

if TYPE_CHECKING:
    from libgraph.runs.run import ComputedRun


@click.command()
@click.argument("backend")
@click.option(
    "--basis",
    metavar="NAME",
    help="neuron, pca, random, global, lib, sparse, or a file of directions.  [lib]",
)
@analysis_options
@click.option(
    "--json", "as_json", is_flag=True, help="Print metrics.json, or the plan, instead of tables."
)
@pairs_option("Option of the backend")
@config_option
@verbosity_options
def analyze(
    backend: str,
    out: Path | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
    tolerance: tuple[float, ...],
    no_ablation: bool,
    option: dict[str, str],
    quiet: bool,
    verbose: bool,
    **given: Any,
) -> None:
    """Find the features of BACKEND's model, their interactions and their modules.

    Writes bases and edges (safetensors), ablation.json, metrics.json, run.json, graph.graphml for
    Gephi, graph.json and graph.png. An interrupted run goes on with the same --out.
    """
    from rich.console import Console

    from libgraph.runs.tables import print_metrics

    options = analysis_values(given, tolerance, no_ablation)
    if dry_run:
        show_plan(backend, option, options, as_json=as_json)
        return
    run = run_analysis(backend, option, options, out, force=force, quiet=quiet, verbose=verbose)
    if run is None:
        return
    if as_json:
        click.echo(run.metrics.text())
        return
    print_metrics(Console(), run.metrics)
    click.echo(f"Written to {run.directory}: open graph.graphml in Gephi, look at graph.png.")


def show_plan(
    backend: str, option: dict[str, str], options: dict[str, Any], *, as_json: bool
) -> None:
    """Print what an analysis would take."""
    from rich.console import Console

    from libgraph.analysis.plan import plan
    from libgraph.backend.registry import load_backend
    from libgraph_cli.tables.plan import print_plan

    planned = plan(load_backend(backend, **option), **options)
    if as_json:
        click.echo(json.dumps(asdict(planned), indent=1))
    else:
        print_plan(Console(), planned)


def run_analysis(
    backend: str,
    option: dict[str, str],
    options: dict[str, Any],
    out: Path | None,
    *,
    force: bool,
    quiet: bool,
    verbose: bool,
) -> ComputedRun | None:
    """Analyse with progress, into a directory named after the time if none is given.

    Returns:
        The run, on the rank that speaks; nothing on the others of a `torchrun` job.
    """
    from libgraph.analysis.analysis import analyze as analyze_model
    from libgraph.backend.registry import load_backend
    from libgraph_cli.progress import ProgressDisplay

    main_rank = _join_ranks(options.get("device", "cpu"))
    model = load_backend(backend, **option)
    directory = out or Path("runs") / time.strftime(f"{backend}-%Y%m%d-%H%M%S")
    with ProgressDisplay(quiet=quiet or not main_rank, verbose=verbose) as progress:
        run = analyze_model(model, out=directory, force=force, progress=progress, **options)
    _leave_ranks()
    return run if main_rank else None


def _join_ranks(device: str) -> bool:
    """In a `torchrun` job take part in it; says whether this is the rank that speaks."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    from torch import distributed

    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return distributed.get_rank() == 0


def _leave_ranks() -> None:
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
