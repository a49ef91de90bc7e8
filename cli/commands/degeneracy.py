"""`libgraph degeneracy`: what in a network does nothing, on screen and in a directory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from libgraph_cli.options import config_option, pairs_option, verbosity_options


@click.command()
@click.argument("backend")
@click.option(
    "--synchrony",
    type=float,
    metavar="TOL",
    help="Units are alike whose gates differ on less than this share of inputs.  [0.01]",
)
@click.option(
    "--truncate",
    metavar="rel:TOL|abs:TOL",
    help="Directions with smaller eigenvalues are free.  [rel:1e-10]",
)
@click.option(
    "--samples", type=int, help="For the behavioural loss and modules, which cost most.  [500]"
)
@click.option("--probes", type=int, help="Where eigenvalues are too many to find all.  [8]")
@click.option("--steps", type=int, help="Products with the Hessian that each probe takes.  [100]")
@click.option("--volume/--no-volume", default=None, help="Estimate N_eff by sampling, too.  [no]")
@click.option("--radius", type=float, help="Of the box that is sampled.  [1]")
@click.option("--basis", metavar="NAME", help="Whose modules the network is cut along.  [lib]")
@click.option("--draws", type=int, help="Of random modules to compare with.  [10]")
@click.option("--seed", type=int, help="Of probes, draws and chains.  [0]")
@click.option("--dtype", metavar="float32|float64", help="Of the network.  [float64]")
@click.option("--device", help="cpu, cuda, cuda:1, …  [cpu]")
@click.option("--batch-size", type=int, help="Samples in a batch.  [what fits, at most 1024]")
@click.option("--memory", metavar="BYTES", help="For batches.  [half of what is free]")
@click.option("--limit", type=int, help="Use only the first samples.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Directory.  [runs/BACKEND-degeneracy-TIME]"
)
@click.option("--force", is_flag=True, help="Replace the directory, reusing what still holds.")
@click.option("--json", "as_json", is_flag=True, help="Print degeneracy.json instead of tables.")
@pairs_option("Option of the backend")
@config_option
@verbosity_options
def degeneracy(
    backend: str,
    out: Path | None,
    force: bool,
    as_json: bool,
    option: dict[str, str],
    quiet: bool,
    verbose: bool,
    **given: Any,
) -> None:
    """Find what in BACKEND's model does nothing: parameters that are free to move.

    Writes degeneracy.json, graph.graphml of its units for Gephi, and figures: spectra.png,
    effective.png, units.png and heads.png. An interrupted run goes on with the same --out.
    """
    from rich.console import Console

    from libgraph.backend.registry import load_backend
    from libgraph.degeneracy.measure import measure_degeneracy
    from libgraph_cli.progress import ProgressDisplay
    from libgraph_cli.tables.degeneracy import print_degeneracy

    options = {name: value for name, value in given.items() if value is not None}
    model = load_backend(backend, **option)
    directory = out or Path("runs") / time.strftime(f"{backend}-degeneracy-%Y%m%d-%H%M%S")
    with ProgressDisplay(quiet=quiet, verbose=verbose) as progress:
        figures = measure_degeneracy(
            model, out=directory, force=force, progress=progress, **options
        )
    if as_json:
        click.echo(figures.text())
        return
    print_degeneracy(Console(), figures)
    click.echo(f"Written to {directory}: look at spectra.png and effective.png.")
