"""`libgraph communities`: the modules of a finished run found again, at other resolutions."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from libgraph.modules.objectives import OBJECTIVES, ObjectiveName
from libgraph_cli.configuration import config_option
from libgraph_cli.options import GroupedCommand, check_figure, figure_options, json_option
from libgraph_cli.running import display

if TYPE_CHECKING:
    from libgraph.graph.interaction_graph import InteractionGraph
    from libgraph.graph.partition import Partition
    from libgraph.modules.resolution import Sweep

SWEEP_SEEDS = 5


@dataclass(frozen=True)
class Search:
    """How modules are looked for; what is None is as it was when the run's were found."""

    resolution: float | None
    seed: int | None
    seeds: int | None
    consensus: bool
    objective: ObjectiveName | None

    def modules(self, graph: InteractionGraph, before: Partition | None) -> InteractionGraph:
        """The graph with the modules that are found."""
        from libgraph.modules.communities import find_communities
        from libgraph.modules.consensus import consensus_communities

        resolution = self.resolution
        if resolution is None:
            resolution = before.resolution if before else 1.0
        seeds = self.seeds or (before.seeds if before else 10)
        find = consensus_communities if self.consensus else find_communities
        first, objective = self.first(before), self.chosen(before)
        return graph.with_partition(find(graph, resolution, first, seeds, objective))

    def chosen(self, before: Partition | None) -> ObjectiveName:
        """What is optimised."""
        if self.objective is not None:
            return self.objective
        return cast("ObjectiveName", before.objective) if before else "layered"

    def first(self, before: Partition | None) -> int:
        """The first seed."""
        if self.seed is not None:
            return self.seed
        return before.seed if before else 0

    def sweep(
        self, graph: InteractionGraph, before: Partition | None, *, exact: bool, quiet: bool
    ) -> Sweep:
        """Modules at other resolutions."""
        from libgraph.modules.resolution import sweep_resolutions

        with display(quiet=quiet) as progress:
            return sweep_resolutions(
                graph,
                seed=self.first(before),
                seeds=self.seeds or SWEEP_SEEDS,
                objective=self.chosen(before),
                exact=exact,
                progress=progress,
            )


@click.command(
    cls=GroupedCommand,
    heading="How modules are looked for",
    epilog="libgraph communities runs/ma --resolution 1.5\n"
    "libgraph communities runs/ma --sweep\n"
    "libgraph communities circuit.json --write",
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--basis", metavar="NAME", help="One that the run has.  [the one it was asked for]")
@click.option(
    "--objective", type=click.Choice(OBJECTIVES), help="What Leiden optimises.  [the run's]"
)
@click.option(
    "--resolution",
    type=float,
    help="γ of Leiden: the larger, the smaller the modules.  [the run's]",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    help=f"Runs of Leiden.  [the run's; {SWEEP_SEEDS} at each γ of --sweep]",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="The first seed.  [the run's]")
@click.option("--sweep", is_flag=True, help="Modules at γ from 0.1 to 10; draws resolution.png.")
@click.option(
    "--exact", is_flag=True, help="With --sweep, of modularity: the exact profile as well; slow."
)
@click.option(
    "--consensus", is_flag=True, help="What the seeds agree on, instead of the best of them."
)
@click.option(
    "--write", is_flag=True, help="Replace the modules of the run by these, in all its files."
)
@click.option(
    "--connected",
    is_flag=True,
    help="With --write: no features without an edge in the file for Gephi.",
)
@figure_options
@json_option("Print figures instead of tables.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@config_option
def communities(
    run: Path,
    basis: str | None,
    sweep: bool,
    exact: bool,
    write: bool,
    connected: bool,
    figure: Path | None,
    max_features: int | None,
    as_json: bool,
    quiet: bool,
    **search: Any,
) -> None:
    """Find the modules of RUN again, or of a graph file.

    Reads all interactions and takes seconds. Without --write nothing of the run changes, but for
    resolution.png with --sweep. A graph file is JSON, GraphML, GEXF, or an attribution graph of
    circuit-tracer or Neuronpedia, which --write gives supernodes.
    """
    from libgraph.errors import UsageError
    from libgraph.files.manifest import changing
    from libgraph.report.graph_files import graph_title, write_modules
    from libgraph.report.graph_picture import draw
    from libgraph.report.resolution_figure import draw_resolutions
    from libgraph.runs.measures import module_metrics, partition_metrics
    from libgraph.runs.metrics import SweepFigures
    from libgraph.runs.saved_run import open_run
    from libgraph.runs.tables import print_modules
    from libgraph.screen import Screen
    from libgraph_cli.tables.plan import print_sweep

    check_figure(figure, max_features)
    if exact and not sweep:
        raise click.UsageError("--exact is for --sweep: one γ has no profile.")
    if connected and not write:
        raise click.UsageError("--connected is for --write: nothing is written without.")
    alone = False
    # What may not be looked at is no graph file; `open_run` says why it cannot be read.
    with suppress(OSError):
        alone = run.is_file()
    if alone:
        if basis is not None or sweep or figure is not None or connected:
            raise click.UsageError(
                "--basis, --sweep, --figure and --connected are for runs: this is a graph file."
            )
        from libgraph_cli.graph_file import file_communities

        file_communities(run, Search(**search), write=write, as_json=as_json)
        return
    saved, wanted = open_run(run), Search(**search)
    name, before = basis or saved.basis, saved.partition
    graph = saved.graph(name)
    if write and name != saved.basis:
        raise UsageError(
            f"The files of '{run}' show the {saved.basis} basis: leave out --write to see the "
            f"modules of {name}, or analyse again with --basis {name}."
        )
    graph = wanted.modules(graph, before)
    truth = saved.modules_known and name == saved.basis
    modules = module_metrics(graph, modules_known=truth)
    if sweep:
        swept = wanted.sweep(graph, before, exact=exact, quiet=quiet)
        resolutions = SweepFigures(
            seed=wanted.first(before),
            seeds=wanted.seeds or SWEEP_SEEDS,
            rows=swept.rows,
            plateaus=swept.plateaus,
        )
        modules = modules.model_copy(update={"resolutions": resolutions})
    if write:
        write_modules(saved, graph, modules, connected=connected)
    if as_json:
        partition = partition_metrics(graph, name, modules_known=truth)
        click.echo(json.dumps({**modules.as_dict(), **partition.as_dict()}, indent=1))
    else:
        console = Screen()
        if sweep:
            print_sweep(console, swept, name)
        print_modules(console, modules, name, saved.layers, saved.concept)
    if sweep:
        # Last, so that the figures are not lost where there is no matplotlib.
        file = "resolution.png" if name == saved.basis else f"resolution-{name}.png"
        title = f"{saved.metrics.backend}: modules in the {name.upper()} basis"
        with changing(run) as staged:
            draw_resolutions(swept, staged / file, title=title)
    if figure is not None:
        title = graph_title(saved.metrics.backend, name)
        draw(graph, figure, title=title, concept=saved.concept, max_features=max_features)
        if not as_json:
            Screen().say(f"Drawn to {figure}.")
    if not as_json and (write or sweep):
        parts = ["the modules in its files"] * write + ["a picture of the resolutions"] * sweep
        Screen().say(f"Written to {run}: {' and '.join(parts)}.")
