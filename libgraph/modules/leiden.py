"""Leiden on the clustering weights of an interaction graph, for any objective, resolution and seed.

igraph's implementation draws from a generator of Python's, by default the global one; here every
run has its own, so that a seed gives the same partition always and the user's random numbers stay
as they were. What is optimised is in `objectives`, by which library in `engines`, in which
processes in `side_by_side`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from libgraph.errors import UsageError
from libgraph.files.limits import available_memory
from libgraph.graph.arrays import FloatArray, IndexArray
from libgraph.graph.interaction_graph import InteractionGraph, check_graph
from libgraph.modules.engines import BipartiteBlock, leidenalg_quality, resolution_profile
from libgraph.modules.objectives import (
    LAYERED,
    WITHOUT_RESOLUTION,
    ObjectiveName,
    check_objective,
)
from libgraph.modules.problem import Engine, Problem, pairs_of_features
from libgraph.modules.quality import layered_modularity
from libgraph.modules.side_by_side import side_by_side

CONVERGED_EDGES = 1_000_000
"""Largest number of edges for which each run goes on until nothing improves."""


LARGE_ITERATIONS = 2
"""Iterations above that; later ones improve the fourth digit of the modularity at most."""


SIGNED_EDGES = 2**24
"""Pairs of features that igraph takes for layered modularity whatever memory there is, 2.3 GB."""


BYTES_PER_PAIR = 140
"""Of memory that igraph takes for each of them; measured on 13 × 768 features."""


class Leiden:
    """Runs of Leiden on one graph, and the quality of what they find.

    Args:
        graph: The graph; a partition it may have is ignored.
        objective: What is optimised, see `objectives`.
        engine: The library that does it; by default igraph where it can: for modularity, and for
            layered modularity of up to ``SIGNED_EDGES`` pairs of features, or as many as fit into
            half of the memory that is free. leidenalg takes far less memory, and far longer.

    Raises:
        UsageError: If there is no such objective, or the engine does not know it.
    """

    def __init__(
        self,
        graph: InteractionGraph,
        objective: ObjectiveName = "layered",
        engine: Engine | None = None,
    ) -> None:
        check_graph(graph)
        check_objective(objective, 1.0)
        if engine == "igraph" and objective in WITHOUT_RESOLUTION:
            raise UsageError(f"igraph does not know the objective '{objective}': use leidenalg.")
        self.graph, self.objective = graph, objective
        self.connected = self._with_edges()
        self.engine = engine or self._usual_engine()

    def runs(self, resolution: float, seed: int, seeds: int) -> list[IndexArray]:
        """The partitions that runs with `seed, seed + 1, …` find, shape ``(features,)`` each.

        Modules are numbered by decreasing size, ties by first member; features without edges are
        in none, −1. Where it pays, other processes take some of the seeds, see `side_by_side`.

        Raises:
            UsageError: If the resolution is not positive, or not 1 for an objective that has none,
                or there is no seed.
        """
        check_objective(self.objective, resolution)
        if seeds < 1:
            raise UsageError(f"The number of seeds is {seeds}: choose at least 1.")
        if not self.connected.any():
            return [np.full(len(self.connected), -1, dtype=np.int64)] * seeds
        edges = self._problem.edges
        iterations = LARGE_ITERATIONS if edges > CONVERGED_EDGES else -1
        found = side_by_side(
            self._problem, resolution, iterations, range(seed, seed + seeds), edges * BYTES_PER_PAIR
        )
        return [renumber(members, self.connected) for members in found]

    def profile(
        self, resolutions: Sequence[float] | FloatArray, seed: int
    ) -> list[IndexArray | None]:
        """At each resolution the partition of the exact profile, by leidenalg; None without edges.

        Raises:
            UsageError: If the objective is not modularity, for which alone there is one.
        """
        if self.objective != "modularity":
            raise UsageError(
                f"There is no exact profile of the objective '{self.objective}': "
                "use objective='modularity', or leave exact=True out."
            )
        if not self.connected.any():
            return [None] * len(resolutions)
        found = resolution_profile(self._problem.joined, min(resolutions), max(resolutions), seed)
        starts = [start for start, _ in found]
        partitions: list[IndexArray | None] = []
        for gamma in resolutions:
            place = max(int(np.searchsorted(starts, gamma, side="right")) - 1, 0)
            partitions.append(renumber(self._problem.of_all(found[place][1]), self.connected))
        return partitions

    def quality(self, membership: IndexArray, resolution: float = 1.0) -> float:
        """What the objective says of a partition at a resolution; 0 without edges."""
        if not self.connected.any():
            return 0.0
        if self.objective in LAYERED:
            return layered_modularity(
                self.graph.weights(),
                self.by_layer(membership),
                resolution,
                equal=self.objective == "layered-equal",
            )
        if self.objective in WITHOUT_RESOLUTION:
            members = membership[self.connected]
            return leidenalg_quality(self._problem.joined, self.objective, members)
        # Any number will do for vertices without edges: they add nothing.
        members = np.maximum(membership, 0).tolist()
        return float(
            self._problem.network.modularity(members, weights="weight", resolution=resolution)
        )

    def modularity(self, membership: IndexArray) -> float:
        """The modularity at γ = 1: of the objective or, where it is none, the layered one."""
        if self.objective not in WITHOUT_RESOLUTION:
            return self.quality(membership)
        return layered_modularity(self.graph.weights(), self.by_layer(membership))

    def by_layer(self, membership: IndexArray) -> dict[str, IndexArray]:
        """A partition of all features, cut into the node layers."""
        layers = self.graph.layers
        starts = np.cumsum([layer.size for layer in layers])[:-1]
        blocks = np.split(membership, starts) if layers else []
        return {layer.name: block for layer, block in zip(layers, blocks, strict=True)}

    def _with_edges(self) -> NDArray[np.bool_]:
        """Which features have an edge."""
        joined = {layer.name: np.zeros(layer.size, dtype=bool) for layer in self.graph.layers}
        for (source, target), weights in self.graph.weights().items():
            joined[source] |= weights.any(0)
            joined[target] |= weights.any(1)
        return np.concatenate([np.zeros(0, dtype=bool), *joined.values()])

    @cached_property
    def _blocks(self) -> list[BipartiteBlock]:
        """The layer pairs that have edges."""
        starts = np.cumsum([0, *(layer.size for layer in self.graph.layers)]).tolist()
        vertices = {
            layer.name: range(start, start + layer.size)
            for layer, start in zip(self.graph.layers, starts, strict=False)
        }
        return [
            BipartiteBlock(vertices[target], vertices[source], weights)
            for (source, target), weights in self.graph.weights().items()
            if weights.any()
        ]

    @cached_property
    def _problem(self) -> Problem:
        """What the runs start from."""
        return Problem(len(self.connected), self._blocks, self.objective, self.engine)

    def _usual_engine(self) -> Engine:
        if self.objective in WITHOUT_RESOLUTION:
            return "leidenalg"
        pairs = pairs_of_features(self._blocks) if self.objective in LAYERED else 0
        if pairs > SIGNED_EDGES and pairs * BYTES_PER_PAIR > available_memory() / 2:
            return "leidenalg"
        return "igraph"


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
