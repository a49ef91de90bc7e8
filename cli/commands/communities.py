"""`libgraph communities`: the modules of a finished run found again, at other resolutions."""

from __future__ import annotations

import json
from pathlib import Path

import click

from libgraph_cli.options import config_option

SWEEP_SEEDS = 5


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--basis", metavar="NAME", help="One that the run has.  [the one it was asked for]")
@click.option("--resolution", type=float, help="γ of Leiden: larger, smaller modules.  [the run's]")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    help=f"Runs of Leiden.  [the run's; {SWEEP_SEEDS} at each γ of --sweep]",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="The first seed.  [the run's]")
@click.option("--sweep", is_flag=True, help="Modules at γ from 0.1 to 10; draws resolution.png.")
@click.option(
    "--consensus", is_flag=True, help="What the seeds agree on, instead of the best of them."
)
@click.option(
    "--write", is_flag=True, help="Replace the modules of the run by these, in all its files."
)
@click.option("--json", "as_json", is_flag=True, help="Print figures instead of tables.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@config_option
def communities(
    run: Path,
    basis: str | None,
    resolution: float | None,
    seeds: int | None,
    seed: int | None,
    sweep: bool,
    consensus: bool,
    write: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find the modules of RUN again: a directory that `libgraph analyze` has written.

    Reads all interactions and takes seconds. Without --write nothing of the run changes, but for
    resolution.png with --sweep.
    """
    from rich.console import Console

    from libgraph.errors import UsageError
    from libgraph.modules.communities import find_communities
    from libgraph.modules.consensus import consensus_communities
    from libgraph.modules.resolution import sweep_resolutions
    from libgraph.report.graph_files import write_modules
    from libgraph.report.resolution_figure import draw_resolutions
    from libgraph.runs.measures import module_metrics, partition_metrics
    from libgraph.runs.metrics import SweepFigures
    from libgraph.runs.saved_run import open_run
    from libgraph.runs.tables import print_modules
    from libgraph_cli.progress import ProgressDisplay
    from libgraph_cli.tables.plan import print_sweep

    saved = open_run(run)
    name = basis or saved.basis
    graph = saved.graph(name)
    if write and name != saved.basis:
        raise UsageError(
            f"The files of '{run}' show the {saved.basis} basis: leave out --write to see the "
            f"modules of {name}, or analyse again with --basis {name}."
        )
    before = saved.partition
    gamma = resolution if resolution is not None else before.resolution if before else 1.0
    first = seed if seed is not None else before.seed if before else 0
    find = consensus_communities if consensus else find_communities
    found = find(graph, gamma, first, seeds or (before.seeds if before else 10))
    graph = graph.with_partition(found)
    known = saved.modules_known and name == saved.basis
    modules = module_metrics(graph, modules_known=known)
    if sweep:
        with ProgressDisplay(quiet=quiet) as progress:
            swept = sweep_resolutions(
                graph, seed=first, seeds=seeds or SWEEP_SEEDS, progress=progress
            )
        resolutions = SweepFigures(
            seed=first, seeds=seeds or SWEEP_SEEDS, rows=swept.rows, plateaus=swept.plateaus
        )
        modules = modules.model_copy(update={"resolutions": resolutions})
    if write:
        write_modules(saved, graph, modules)
    console = Console()
    if as_json:
        partition = partition_metrics(graph, name, modules_known=known)
        click.echo(json.dumps({**modules.as_dict(), **partition.as_dict()}, indent=1))
    else:
        if sweep:
            print_sweep(console, swept, name)
        print_modules(console, modules, name, saved.layers, saved.concept)
    if sweep:
        # Last, so that the figures are not lost where there is no matplotlib.
        file = run / ("resolution.png" if name == saved.basis else f"resolution-{name}.png")
        draw_resolutions(
            swept, file, title=f"{saved.metrics.backend}: modules in the {name.upper()} basis"
        )
    if not as_json and (write or sweep):
        what = ["the modules in its files"] * write + ["a picture of the resolutions"] * sweep
        click.echo(f"Written to {run}: {' and '.join(what)}.")
