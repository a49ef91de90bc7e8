"""`libgraph analyze`: the whole pipeline, its result on screen and in a run directory."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from libgraph_cli.options import config_option, pairs_option, verbosity_options


@click.command()
@click.argument("backend")
@click.option(
    "--basis", metavar="NAME", help="neuron, pca or lib; PCA is measured beside it.  [lib]"
)
@click.option(
    "--integration",
    metavar="RULE",
    help="gradient, trapezoid[:POINTS] or gauss-legendre[:POINTS].  [gradient]",
)
@click.option(
    "--signs", type=int, help="Estimate interactions from this many random signs; 0: exact.  [0]"
)
@click.option(
    "--truncate",
    metavar="rel:TOL|abs:TOL",
    help="Drop directions with smaller eigenvalues.  [rel:1e-10]",
)
@click.option("--resolution", type=float, help="γ of Leiden: larger, smaller modules.  [1]")
@click.option("--seed", type=int, help="Seed of Leiden and of random signs.  [0]")
@click.option("--dtype", metavar="float32|float64", help="Of bases and edges.  [float64]")
@click.option("--score-dtype", metavar="float32|float64", help="Of ablations.  [float32]")
@click.option("--device", help="cpu, cuda, cuda:1, …  [cpu]")
@click.option("--batch-size", type=int, help="Samples in a batch.  [what fits, at most 1024]")
@click.option(
    "--memory",
    metavar="BYTES",
    help="For batches and kept activations: 4GiB, 500MB, …  [half of what is free]",
)
@click.option("--limit", type=int, help="Use only the first samples of each split.")
@click.option(
    "--tolerance",
    type=float,
    multiple=True,
    help="Δ: how much score edges may cost; can be repeated.  [0.001, or 0.05 nats]",
)
@click.option("--no-ablation", is_flag=True, help="Skip ablations; modules then use all edges.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run directory.  [runs/BACKEND-TIME]",
)
@click.option("--force", is_flag=True, help="Replace the run directory, reusing what still holds.")
@click.option("--dry-run", is_flag=True, help="Show layers and estimated cost, compute nothing.")
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

    from libgraph.analysis import analyze as run_analysis
    from libgraph.backend import load_backend
    from libgraph.plan import plan
    from libgraph_cli.progress import ProgressDisplay
    from libgraph_cli.tables import print_metrics, print_plan

    options = {name: value for name, value in given.items() if value is not None}
    if tolerance:
        options["tolerances"] = tolerance
    if no_ablation:
        options["ablate"] = False
    main_rank = _join_ranks(options.get("device", "cpu"))
    model = load_backend(backend, **option)
    if dry_run:
        planned = plan(model, **options)
        if as_json:
            click.echo(json.dumps(asdict(planned), indent=1))
        else:
            print_plan(Console(), planned)
        return
    directory = out or Path("runs") / time.strftime(f"{backend}-%Y%m%d-%H%M%S")
    with ProgressDisplay(quiet=quiet or not main_rank) as progress:
        _log_to(progress, verbose)
        run = run_analysis(model, out=directory, force=force, progress=progress, **options)
    _leave_ranks()
    if not main_rank:
        return
    if as_json:
        click.echo(json.dumps(run.metrics, indent=1))
        return
    print_metrics(Console(), run.metrics, model.concept)
    click.echo(f"Written to {directory}: open graph.graphml in Gephi, look at graph.png.")


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


def _log_to(progress: Any, verbose: bool) -> None:
    from rich.logging import RichHandler

    log = logging.getLogger("libgraph")
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    log.handlers = [
        RichHandler(console=progress.console, show_time=False, show_level=False, show_path=False)
    ]
