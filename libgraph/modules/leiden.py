"""Leiden on the clustering weights of an interaction graph, for any resolution and seed.

igraph's implementation draws from a generator of Python's, by default the global one; here every
run has its own, so that a seed gives the same partition always and the user's random numbers stay
as they were.
Source: Traag, Waltman & van Eck (2019), doi:10.1038/s41598-019-41695-z.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import igraph
import numpy as np
from numpy.typing import NDArray

from libgraph.errors import UsageError
from libgraph.graph.arrays import IndexArray

if TYPE_CHECKING:
    from libgraph.graph.interaction_graph import InteractionGraph


CONVERGED_EDGES = 1_000_000
"""Largest number of edges for which each run goes on until nothing improves."""


LARGE_ITERATIONS = 2
"""Iterations above that; later ones improve the fourth digit of the modularity at most."""


class Leiden:
    r"""Runs of Leiden on one graph, and the quality of what they find.

    .. math:: Q_γ = \frac{1}{2m} \sum_{ij} \left(w_{ij} - γ \frac{k_i k_j}{2m}\right) δ(c_i, c_j)

    with the undirected weights w of :meth:`InteractionGraph.weights`, degrees k and total weight m.
    Source: Reichardt & Bornholdt (2006), doi:10.1103/PhysRevE.74.016110.

    Args:
        graph: The graph; a partition it may have is ignored.
    """

    def __init__(self, graph: InteractionGraph) -> None:
        self.graph = graph
        self.network = graph.to_igraph()
        self.connected = np.asarray(self.network.degree(), dtype=np.int64) > 0

    def runs(self, resolution: float, seed: int, seeds: int) -> list[IndexArray]:
        """The partitions that runs with `seed, seed + 1, …` find, shape ``(features,)`` each.

        Modules are numbered by decreasing size, ties by first member; features without edges are
        in none, −1.

        Raises:
            UsageError: If the resolution is not positive or there is no seed.
        """
        if not (np.isfinite(resolution) and resolution > 0):
            raise UsageError(f"The resolution is {resolution}: choose a positive number.")
        if seeds < 1:
            raise UsageError(f"The number of seeds is {seeds}: choose at least 1.")
        if not self.connected.any():
            return [np.full(len(self.connected), -1, dtype=np.int64)] * seeds
        large = self.network.ecount() > CONVERGED_EDGES
        memberships = []
        for number in range(seed, seed + seeds):
            with seeded(number):
                clusters = self.network.community_leiden(
                    objective_function="modularity",
                    weights="weight",
                    resolution=resolution,
                    n_iterations=LARGE_ITERATIONS if large else -1,
                )
            membership = np.asarray(clusters.membership, dtype=np.int64)
            memberships.append(renumber(membership, self.connected))
        return memberships

    def quality(self, membership: IndexArray, resolution: float = 1.0) -> float:
        """The weighted modularity Q of a partition at a resolution; 0 without edges."""
        if not self.network.ecount():
            return 0.0
        # Any number will do for vertices without edges: they add nothing.
        members = np.maximum(membership, 0).tolist()
        return float(self.network.modularity(members, weights="weight", resolution=resolution))

    def by_layer(self, membership: IndexArray) -> dict[str, IndexArray]:
        """A partition of all features, cut into the node layers."""
        layers = self.graph.layers
        starts = np.cumsum([layer.size for layer in layers])[:-1]
        blocks = np.split(membership, starts) if layers else []
        return {layer.name: block for layer, block in zip(layers, blocks, strict=True)}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Have igraph draw from a generator of this seed, afterwards from Python's global one again."""
    igraph.set_random_number_generator(random.Random(seed))  # noqa: S311
    try:
        yield
    finally:
        igraph.set_random_number_generator(random)


def renumber(membership: IndexArray, connected: NDArray[np.bool_]) -> IndexArray:
    """Number modules by decreasing size, ties by first member; unconnected vertices get -1."""
    numbered = np.full(len(membership), -1, dtype=np.int64)
    _, first, inverse, sizes = np.unique(
        membership[connected], return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    numbered[connected] = rank[inverse]
    return numbered
