"""The graph in the hands of other libraries: pandas, networkx and igraph, with all attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from libgraph.errors import MissingExtra
from libgraph.graph.columns import edge_columns, node_columns
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.installed import pip_install

if TYPE_CHECKING:
    import igraph
    import networkx
    import pandas


class Frames(NamedTuple):
    """Features and kept edges as data frames.

    Attributes:
        nodes: a row for each feature, by its id.
        edges: a row for each kept edge.
    """

    nodes: pandas.DataFrame
    edges: pandas.DataFrame


def to_pandas(graph: InteractionGraph) -> Frames:
    """Features and kept edges as data frames.

    Raises:
        MissingExtra: If pandas is missing.
    """
    try:
        import pandas
    except ImportError as error:
        raise MissingExtra(f"Data frames need pandas: run {pip_install('pandas')}.") from error
    nodes = pandas.DataFrame(node_columns(graph))
    return Frames(nodes.set_index("id"), pandas.DataFrame(edge_columns(graph)))


def to_networkx(graph: InteractionGraph) -> networkx.DiGraph[str]:
    """A directed graph of features by their ids, from input to output.

    Raises:
        MissingExtra: If networkx is missing, which comes with torch.
    """
    try:
        import networkx
    except ImportError as error:
        raise MissingExtra(f"This needs networkx: run {pip_install('networkx')}.") from error
    nodes, edges = node_columns(graph), edge_columns(graph)
    made: networkx.DiGraph[str] = networkx.DiGraph()
    names = [name for name in nodes if name != "id"]
    rows = zip(*(nodes[name] for name in names), strict=True)
    made.add_nodes_from(
        (key, dict(zip(names, row, strict=True)))
        for key, row in zip(nodes["id"], rows, strict=True)
    )
    made.add_edges_from(
        (source, target, {"weight": weight, "interaction": interaction})
        for source, target, weight, interaction in zip(*edges.values(), strict=True)
    )
    return made


def to_igraph(graph: InteractionGraph) -> igraph.Graph:
    """A directed graph whose vertices are features, with their ids as ``name``."""
    import igraph
    import numpy as np

    nodes = node_columns(graph)
    made = igraph.Graph(n=len(nodes["id"]), directed=True)
    sizes = [layer.size for layer in graph.layers]
    starts = dict(
        zip((layer.name for layer in graph.layers), np.cumsum([0, *sizes]).tolist(), strict=False)
    )
    kept = [(pair, graph.kept_edges(pair)) for pair in graph.edges]
    ends = [
        np.stack([edges.inputs + starts[pair[0]], edges.outputs + starts[pair[1]]], axis=1)
        for pair, edges in kept
    ]
    if ends:
        made.add_edges(np.concatenate(ends))
    for name, column in nodes.items():
        made.vs["name" if name == "id" else name] = column
    made.es["weight"] = [w for _, edges in kept for w in edges.weight.tolist()]
    made.es["interaction"] = [e for _, edges in kept for e in edges.interaction.tolist()]
    return made
