"""Weighted layer pairs as a graph of igraph, whose edges always come in one order.

Leiden's partitions depend on the order of edges, so there is one place that sets it. By input
feature, because igraph is a third faster on edges that are sorted by their first vertex. Nothing
but numpy and igraph is needed here, so that processes which only run Leiden start quickly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from libgraph.graph.arrays import FloatArray, IndexArray

if TYPE_CHECKING:
    import igraph


def weighted_network(vertices: int, pairs: Iterable[tuple[int, int, FloatArray]]) -> igraph.Graph:
    """The undirected graph of all positive weights, its edges with the attribute ``weight``.

    Args:
        vertices: How many there are.
        pairs: Of each layer pair the first vertex of its inputs, the first of its outputs, and its
            weights, shape ``(out, in)``.
    """
    import igraph

    ends: list[IndexArray] = [np.empty((0, 2), dtype=np.int64)]
    weights: list[FloatArray] = [np.empty(0)]
    for source, target, matrix in pairs:
        inputs, outputs = np.nonzero(matrix.T)
        ends.append(np.stack([inputs + source, outputs + target], axis=1))
        weights.append(matrix[outputs, inputs])
    network = igraph.Graph(n=vertices)
    # Not through the constructor, which takes three times as long.
    network.add_edges(np.concatenate(ends))
    network.es["weight"] = np.concatenate(weights).tolist()
    return network
