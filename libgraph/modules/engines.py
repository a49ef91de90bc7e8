"""The libraries that run Leiden: igraph and leidenalg, behind one function of a seed.

igraph is faster, and optimises layered modularity on the graph of what is more or less than
expected, which has an edge between any two features of a layer pair. leidenalg knows more
objectives, and layered modularity on the graph as it is: 2 K K' is n(n − 1) of both sides together
less n(n − 1) of each, with nodes as large as their degrees (docs/math.md §7), which makes three
layers without edges for every layer pair. Source of both: Traag, Waltman & van Eck (2019),
doi:10.1038/s41598-019-41695-z.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from libgraph.graph.arrays import FloatArray, IndexArray

# They are imported where they are used: igraph brings matplotlib along, and plans need neither.
if TYPE_CHECKING:
    import igraph

ROUNDING = 1e-14
"""A gain of so small a share of all weight is none."""


TIES = 1e-9
"""So much less than expected is taken off edges, so that features join where it makes no
difference: a node layer of one feature says nothing of modules and should not cut them."""


MOST_ITERATIONS = 100
"""Of a run with weights of both signs, should it not end before; a handful is usual."""


Search = Callable[[int], IndexArray]
"""A run of Leiden: from a seed to the module of every vertex."""


class BipartiteBlock(NamedTuple):
    """The edges of one layer pair, features as vertices of the whole graph.

    Args:
        outputs: Vertices of the output features, a range.
        inputs: Vertices of the input features.
        weights: Clustering weights, shape ``(out, in)``.
    """

    outputs: range
    inputs: range
    weights: FloatArray

    @property
    def total(self) -> float:
        """m, the weight of all edges."""
        return float(self.weights.sum())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Have igraph draw from a generator of this seed, afterwards from Python's global one again."""
    import igraph

    igraph.set_random_number_generator(random.Random(seed))  # noqa: S311
    try:
        yield
    finally:
        igraph.set_random_number_generator(random)


def modularity_search(network: igraph.Graph, resolution: float, iterations: int) -> Search:
    """igraph on the modularity of the whole graph."""

    def iterate(members: IndexArray) -> IndexArray:
        clusters = network.community_leiden(
            objective_function="modularity",
            weights="weight",
            resolution=resolution,
            n_iterations=1,
            initial_membership=members.tolist(),
        )
        return np.asarray(clusters.membership, dtype=np.int64)

    def quality(members: IndexArray) -> float:
        partition = members.tolist()
        return float(network.modularity(partition, weights="weight", resolution=resolution))

    return lambda seed: improved(network.vcount(), iterate, quality, iterations, seed)


def improved(
    vertices: int,
    iterate: Callable[[IndexArray], IndexArray],
    quality: Callable[[IndexArray], float],
    iterations: int,
    seed: int,
) -> IndexArray:
    """Iterations of igraph's Leiden, from singletons on, as long as there is a gain.

    igraph does not find the end by itself: rounding may let it exchange partitions of one quality
    for ever.

    Args:
        vertices: How many there are.
        iterate: One iteration from a partition.
        quality: Of a partition, at most about 1.
        iterations: How many at most; −1: until nothing improves.
        seed: Of igraph's generator.
    """
    members, best = np.arange(vertices, dtype=np.int64), -np.inf
    with seeded(seed):
        for _ in range(iterations if iterations > 0 else MOST_ITERATIONS):
            found = iterate(members)
            value = quality(found)
            if value <= best + ROUNDING:
                break
            members, best = found, value
    return members


def signed_search(
    vertices: int,
    blocks: Sequence[BipartiteBlock],
    resolution: float,
    iterations: int,
    *,
    equal: bool,
) -> Search:
    """igraph on layered modularity: w − γ k k'/m as weights, and nothing else that counts."""
    import igraph

    resolution *= 1 - TIES
    ends: list[IndexArray] = [np.empty((0, 2), dtype=np.int64)]
    weights: list[FloatArray] = [np.empty(0)]
    for block in blocks:
        total = block.total
        out_degrees, in_degrees = block.weights.sum(1), block.weights.sum(0)
        outputs, inputs = np.flatnonzero(out_degrees), np.flatnonzero(in_degrees)
        excess = block.weights[np.ix_(outputs, inputs)] - (resolution / total) * np.outer(
            out_degrees[outputs], in_degrees[inputs]
        )
        # By input feature, because igraph is a third faster on edges sorted by first vertex.
        columns = np.repeat(inputs + block.inputs.start, len(outputs))
        rows = np.tile(outputs + block.outputs.start, len(inputs))
        ends.append(np.stack([columns, rows], axis=1))
        weights.append((excess / total if equal else excess).T.ravel())
    signed = igraph.Graph(n=vertices)
    edges, excess_weight = np.concatenate(ends), np.concatenate(weights)
    signed.add_edges(edges)
    signed.es["weight"] = excess_weight.tolist()

    scale = float(np.abs(excess_weight).sum()) or 1.0

    def iterate(members: IndexArray) -> IndexArray:
        clusters = signed.community_leiden(
            objective_function="CPM",
            weights="weight",
            resolution=0,
            n_iterations=1,
            initial_membership=members.tolist(),
        )
        return np.asarray(clusters.membership, dtype=np.int64)

    def quality(members: IndexArray) -> float:
        inside = members[edges[:, 0]] == members[edges[:, 1]]
        return float(excess_weight[inside].sum()) / scale

    return lambda seed: improved(vertices, iterate, quality, iterations, seed)


def multiplex_search(
    network: igraph.Graph,
    blocks: Sequence[BipartiteBlock],
    resolution: float,
    iterations: int,
    *,
    equal: bool,
) -> Search:
    """leidenalg on layered modularity: the graph as it is, and what is expected as empty layers."""
    import igraph
    import leidenalg

    resolution *= 1 - TIES
    vertices = network.vcount()
    empty = igraph.Graph(n=vertices)
    edges = network
    if equal:
        edges = network.copy()
        edges.es["weight"] = _equal_weights(network, blocks)
    everything = sum(edges.es["weight"])

    def search(seed: int) -> IndexArray:
        layers = [leidenalg.CPMVertexPartition(edges, weights="weight", resolution_parameter=0.0)]
        signs = [1.0]
        for block in blocks:
            total = block.total
            sizes = np.zeros((2, vertices))
            sizes[0, block.outputs] = block.weights.sum(1)
            sizes[1, block.inputs] = block.weights.sum(0)
            scale = resolution / total / (total if equal else 1.0)
            for side, sign in ((sizes.sum(0), 1.0), (sizes[0], -1.0), (sizes[1], -1.0)):
                layers.append(
                    leidenalg.CPMVertexPartition(
                        empty, node_sizes=side.tolist(), resolution_parameter=scale
                    )
                )
                signs.append(sign)
        optimiser = leidenalg.Optimiser()
        optimiser.set_rng_seed(seed)
        for _ in range(iterations if iterations > 0 else MOST_ITERATIONS):
            gain = optimiser.optimise_partition_multiplex(
                layers, layer_weights=signs, n_iterations=1
            )
            if gain <= ROUNDING * everything:
                break
        return np.asarray(layers[0].membership, dtype=np.int64)

    return search


def leidenalg_search(
    network: igraph.Graph, objective: str, resolution: float, iterations: int
) -> Search:
    """leidenalg on an objective of the whole graph."""
    import leidenalg

    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "modularity": (
            leidenalg.RBConfigurationVertexPartition,
            {"weights": "weight", "resolution_parameter": resolution},
        ),
        "surprise": (leidenalg.SurpriseVertexPartition, {"weights": "weight"}),
        "significance": (leidenalg.SignificanceVertexPartition, {}),
    }
    kind, options = kinds[objective]

    def search(seed: int) -> IndexArray:
        partition = kind(network, **options)
        optimiser = leidenalg.Optimiser()
        optimiser.set_rng_seed(seed)
        for _ in range(iterations if iterations > 0 else MOST_ITERATIONS):
            gain = optimiser.optimise_partition(partition, n_iterations=1)
            if gain <= ROUNDING * abs(partition.quality()):
                break
        return np.asarray(partition.membership, dtype=np.int64)

    return search


def resolution_profile(
    network: igraph.Graph, lowest: float, highest: float, seed: int
) -> list[tuple[float, IndexArray]]:
    """The partitions of modularity from one γ to another, each with the γ from which on it is best.

    Bisection between γ whose partitions differ (Traag, Krings & Van Dooren 2013).
    """
    import leidenalg

    optimiser = leidenalg.Optimiser()
    optimiser.set_rng_seed(seed)
    # It draws a progress bar, whoever calls.
    with redirect_stderr(StringIO()):
        partitions = optimiser.resolution_profile(
            network,
            leidenalg.RBConfigurationVertexPartition,
            resolution_range=(lowest, highest),
            weights="weight",
        )
    return sorted(
        (
            (float(part.resolution_parameter), np.asarray(part.membership, dtype=np.int64))
            for part in partitions
        ),
        key=lambda part: part[0],
    )


def leidenalg_quality(network: igraph.Graph, objective: str, membership: IndexArray) -> float:
    """Surprise or significance of a partition, in leidenalg's units."""
    import leidenalg

    members = membership.tolist()
    if objective == "surprise":
        partition = leidenalg.SurpriseVertexPartition(network, members, weights="weight")
    else:
        partition = leidenalg.SignificanceVertexPartition(network, members)
    return float(partition.quality())


def _equal_weights(network: igraph.Graph, blocks: Sequence[BipartiteBlock]) -> list[float]:
    """The weights of the network's edges as shares of those of their layer pair."""
    totals = {(block.inputs.start, block.outputs.start): block.total for block in blocks}
    starts = sorted({start for pair in totals for start in pair})
    ends = np.asarray(network.get_edgelist(), dtype=np.int64).reshape(-1, 2)
    place = np.asarray(starts)[np.searchsorted(starts, ends, side="right") - 1]
    shares = np.asarray(network.es["weight"])
    for (source, target), total in totals.items():
        shares[(place[:, 0] == source) & (place[:, 1] == target)] /= total
    divided: list[float] = shares.tolist()
    return divided
