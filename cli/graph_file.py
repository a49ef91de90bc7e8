"""Modules of a graph that stands alone: of other programs, such as circuit-tracer, or exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import click

if TYPE_CHECKING:
    from libgraph.graph.interaction_graph import InteractionGraph
    from libgraph.graph.partition import Partition
    from libgraph.modules.objectives import ObjectiveName
    from libgraph.modules.significance import Significance

DRAWS, NULL = 99, "strengths"
"""Graphs of as strong features, but joined by chance, that modularity is compared with."""

MOST_EDGES = 20_000
"""Edges up to which that takes seconds."""


class Finder(Protocol):
    """What looks for modules, as the command was told to."""

    def modules(self, graph: InteractionGraph, before: Partition | None) -> InteractionGraph:
        """The graph with the modules that are found."""


def file_communities(path: Path, finder: Finder, *, write: bool, as_json: bool) -> None:
    """Find the modules of a graph file, say how stable and how significant they are.

    Args:
        path: of the graph.
        finder: what looks for them.
        write: whether the file gets them: supernodes of an attribution graph, else modules.
        as_json: print figures instead of tables.
    """
    from libgraph.report.reading import read_graph
    from libgraph.runs.measures import module_metrics, partition_metrics
    from libgraph.runs.tables import print_modules
    from libgraph.screen import Screen, tell

    graph = read_graph(path)
    graph = finder.modules(graph, graph.partition)
    found = _significance(graph)
    modules = module_metrics(graph, modules_known=False)
    modules = modules.model_copy(update={"significance": found})
    if write:
        _write(graph, path)
    if as_json:
        partition = partition_metrics(graph, "graph", modules_known=False)
        click.echo(json.dumps({**modules.as_dict(), **partition.as_dict()}, indent=1, default=vars))
        return
    screen = Screen()
    layers = [layer.name for layer in graph.layers]
    print_modules(screen, modules, "graph", layers, "concept")
    if found is None:
        tell(screen, f"More than {MOST_EDGES} edges: significance is not computed.")
    else:
        z = "" if found.z is None else f", z = {found.z:.1f}"
        tell(
            screen,
            f"Modularity {found.modularity:.3f} for {found.mean:.3f} ± {found.deviation:.3f} of "
            f"{found.draws} graphs of as strong features{z}, p = {found.p:.3g}.",
        )
    if write:
        screen.say(f"Written to {path}.")


def _significance(graph: InteractionGraph) -> Significance | None:
    from libgraph.modules.significance import significance

    edges = sum(int((weights > 0).sum()) for weights in graph.weights().values())
    if edges > MOST_EDGES or graph.partition is None:
        return None
    objective = cast("ObjectiveName", graph.partition.objective)
    return significance(
        graph, NULL, draws=DRAWS, resolution=graph.partition.resolution, objective=objective
    )


def _write(graph: InteractionGraph, path: Path) -> None:
    from libgraph.report.attribution import is_attribution, with_supernodes, write_document
    from libgraph.report.gexf import write_gexf
    from libgraph.report.graph_files import write_graph
    from libgraph.report.graphml import write_graphml
    from libgraph.report.reading import read_document

    if path.suffix.lower() == ".graphml":
        write_graphml(graph, path)
    elif path.suffix.lower() == ".gexf":
        write_gexf(graph, path)
    else:
        document = read_document(path)
        if is_attribution(document):
            write_document(with_supernodes(document, graph), path)  # type: ignore[arg-type]
        else:
            write_graph(graph, path)
