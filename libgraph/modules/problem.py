"""What a run of Leiden starts from, as arrays that another process can be sent.

From the same blocks every process makes the same graphs, down to the order of their edges and the
last digit of their weights, so a seed finds the same partition wherever it runs. As bytes a problem
is a list of arrays in numpy's own format, read without pickle; the first holds a line of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from libgraph.graph.arrays import IndexArray
from libgraph.graph.networks import weighted_network
from libgraph.modules.engines import (
    BipartiteBlock,
    Search,
    leidenalg_search,
    modularity_search,
    multiplex_search,
    signed_search,
)
from libgraph.modules.objectives import LAYERED, WITHOUT_RESOLUTION, ObjectiveName

if TYPE_CHECKING:
    import igraph

Engine = Literal["igraph", "leidenalg"]


@dataclass(frozen=True, eq=False)
class Problem:
    """A graph, what to optimise on it and with which library.

    Args:
        vertices: Features of the graph, those without edges included.
        blocks: The layer pairs that have edges.
        objective: What is optimised, see ``libgraph.modules.objectives``.
        engine: The library that does it.
    """

    vertices: int
    blocks: Sequence[BipartiteBlock]
    objective: ObjectiveName
    engine: Engine

    @cached_property
    def network(self) -> igraph.Graph:
        """The whole graph, made when it is needed: of millions of edges it takes seconds."""
        return weighted_network(
            self.vertices,
            ((block.inputs.start, block.outputs.start, block.weights) for block in self.blocks),
        )

    @cached_property
    def joined(self) -> igraph.Graph:
        """The graph of the features that have edges."""
        return self.network.induced_subgraph(np.flatnonzero(self.connected).tolist())

    @cached_property
    def connected(self) -> NDArray[np.bool_]:
        """Which features have an edge, shape ``(features,)``."""
        found = np.zeros(self.vertices, dtype=bool)
        for block in self.blocks:
            found[block.inputs] |= block.weights.any(0)
            found[block.outputs] |= block.weights.any(1)
        return found

    @cached_property
    def edges(self) -> int:
        """What the engine counts as edges: all pairs of features where it needs those."""
        if self.objective in LAYERED and self.engine == "igraph":
            return pairs_of_features(self.blocks)
        return sum(int(np.count_nonzero(block.weights)) for block in self.blocks)

    def search(self, resolution: float, iterations: int) -> Search:
        """Runs of the engine, prepared for any seed.

        Args:
            resolution: γ.
            iterations: How many at most; −1: until nothing improves.
        """
        if self.objective in LAYERED:
            equal = self.objective == "layered-equal"
            if self.engine == "igraph":
                return signed_search(
                    self.vertices, self.blocks, resolution, iterations, equal=equal
                )
            return multiplex_search(self.network, self.blocks, resolution, iterations, equal=equal)
        if self.engine == "igraph":
            return modularity_search(self.network, resolution, iterations)
        if self.objective in WITHOUT_RESOLUTION:
            # These depend on the number of features: those without edges take no part.
            search = leidenalg_search(self.joined, self.objective, resolution, iterations)
            return lambda seed: self.of_all(search(seed))
        return leidenalg_search(self.network, self.objective, resolution, iterations)

    def of_all(self, members: IndexArray) -> IndexArray:
        """A partition of all features from one of those with edges."""
        everything = np.zeros(self.vertices, dtype=np.int64)
        everything[self.connected] = members
        return everything


def pairs_of_features(blocks: Sequence[BipartiteBlock]) -> int:
    """How many pairs of features with edges there are in all layer pairs."""
    return sum(
        int(np.count_nonzero(block.weights.any(1)) * np.count_nonzero(block.weights.any(0)))
        for block in blocks
    )


def packed(problem: Problem, resolution: float, iterations: int) -> memoryview:
    """A problem and the arguments of its search as bytes."""
    head = {
        "vertices": problem.vertices,
        "objective": problem.objective,
        "engine": problem.engine,
        "starts": [(block.outputs.start, block.inputs.start) for block in problem.blocks],
        # Numbers of numpy have no JSON.
        "resolution": float(resolution),
        "iterations": iterations,
    }
    stream = BytesIO()
    np.save(stream, np.frombuffer(json.dumps(head).encode(), dtype=np.uint8), allow_pickle=False)
    for block in problem.blocks:
        np.save(stream, block.weights, allow_pickle=False)
    return stream.getbuffer()


def unpacked(data: bytes) -> tuple[Problem, float, int]:
    """What :func:`packed` has packed."""
    stream = BytesIO(data)
    head = json.loads(np.load(stream, allow_pickle=False).tobytes())
    blocks = []
    for output, source in head["starts"]:
        weights = np.load(stream, allow_pickle=False)
        rows, columns = weights.shape
        outputs, inputs = range(output, output + rows), range(source, source + columns)
        blocks.append(BipartiteBlock(outputs, inputs, weights))
    problem = Problem(head["vertices"], blocks, head["objective"], head["engine"])
    return problem, head["resolution"], head["iterations"]
