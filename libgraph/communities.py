"""Modules of an interaction graph: Leiden on the clustering weights, and what is in each module.

Leiden is random, so it runs from several seeds; the best partition is kept and the agreement of
all of them is reported beside it, because modules that another seed would not find mean little.
Numbering is by size, so the same graph and seed always give the same numbers.
Source: Traag, Waltman & van Eck (2019), doi:10.1038/s41598-019-41695-z; quality function of
Reichardt & Bornholdt (2006), doi:10.1103/PhysRevE.74.016110.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libgraph.errors import UsageError
from libgraph.features import FeatureLabel
from libgraph.graph import InteractionGraph

IndexArray = NDArray[np.int64]

CONVERGED_EDGES = 1_000_000
"""Largest number of edges for which each run goes on until nothing improves."""


@dataclass(frozen=True, eq=False)
class Partition:
    """Features divided into modules numbered 0, 1, … by decreasing number of features.

    Args:
        membership: By layer, module of each feature, shape ``(features,)``; -1 for features that
            take no part in clustering or have no edge.
        resolution: The γ that was optimised: larger values give smaller modules.
        quality: Weighted modularity at that γ.
        modularity: Weighted modularity at γ = 1, whatever γ was optimised.
        agreement: Mean adjusted Rand index over all pairs of seeds: 1 if all found the same
            partition, 0 if they agree no more than by chance.
        seed: The first seed.
        seeds: How many seeds were tried.
    """

    membership: Mapping[str, IndexArray]
    resolution: float
    quality: float
    modularity: float
    agreement: float
    seed: int
    seeds: int

    @property
    def size(self) -> int:
        """Number of modules."""
        return 1 + max((int(m.max(initial=-1)) for m in self.membership.values()), default=-1)


@dataclass(frozen=True)
class ModuleSummary:
    """What one module is made of.

    Args:
        index: Number of the module.
        size: Number of its features.
        features: Number of its features by layer, layers without any left out.
        weight: Total clustering weight of the edges inside it.
        concept: Its dominant concept, ``None`` if no member is labelled.
        concept_share: Mean share of that concept over the members, each counted by the weight of
            its edges inside the module; a member without label has share 0.
        within_concept: Share of ``weight`` that lies between two features whose own dominant
            concept is the module's; ``None`` without concept or weight.
    """

    index: int
    size: int
    features: Mapping[str, int]
    weight: float
    concept: str | None
    concept_share: float
    within_concept: float | None


def find_communities(
    graph: InteractionGraph, resolution: float = 1.0, seed: int = 0, seeds: int = 10
) -> Partition:
    r"""Find the partition of largest quality over several runs of Leiden.

    .. math:: Q_γ = \frac{1}{2m} \sum_{ij} \left(w_{ij} - γ \frac{k_i k_j}{2m}\right) δ(c_i, c_j)

    with the undirected weights w of :meth:`InteractionGraph.weights`, degrees k and total weight
    m. Each run iterates until nothing improves, or twice above ``CONVERGED_EDGES`` edges, where
    further iterations take minutes. Features without edges belong to no
    module.

    Args:
        graph: The graph; a partition it may have is ignored.
        resolution: γ.
        seed: First seed; the runs use ``seed, seed + 1, …``.
        seeds: Number of runs.

    Raises:
        UsageError: If the resolution is not positive or there is no seed.
    """
    if not (np.isfinite(resolution) and resolution > 0):
        raise UsageError(f"The resolution is {resolution}: choose a positive number.")
    if seeds < 1:
        raise UsageError(f"The number of seeds is {seeds}: choose at least 1.")
    network = graph.to_igraph()
    connected = np.asarray(network.degree()) > 0
    candidates: list[IndexArray] = []
    qualities: list[float] = []
    if connected.any():
        import leidenalg

        partition = leidenalg.RBConfigurationVertexPartition(
            network, weights="weight", resolution_parameter=resolution
        )
        iterations = -1 if network.ecount() <= CONVERGED_EDGES else 2
        optimiser = leidenalg.Optimiser()
        for run in range(seeds):
            partition.set_membership(list(range(network.vcount())))
            optimiser.set_rng_seed(seed + run)
            optimiser.optimise_partition(partition, n_iterations=iterations)
            candidates.append(_renumber(np.asarray(partition.membership), connected))
            qualities.append(partition.quality())
    else:
        candidates.append(np.full(network.vcount(), -1, dtype=np.int64))
        qualities.append(0.0)
    best = candidates[int(np.argmax(qualities))]
    starts = np.cumsum([layer.size for layer in graph.layers])[:-1]
    blocks = np.split(best, starts) if graph.layers else []
    return Partition(
        membership={layer.name: block for layer, block in zip(graph.layers, blocks, strict=True)},
        resolution=resolution,
        quality=_modularity(network, best, resolution),
        modularity=_modularity(network, best, 1.0),
        agreement=_agreement(candidates),
        seed=seed,
        seeds=seeds,
    )


def module_table(graph: InteractionGraph) -> list[ModuleSummary]:
    """Summarise each module of the graph's partition, largest first.

    Raises:
        UsageError: If the graph has no partition.
    """
    if graph.partition is None:
        raise UsageError(
            "This graph has no modules yet: attach find_communities(graph) by with_partition."
        )
    count = graph.partition.size
    member_weight = {layer.name: np.zeros(layer.size) for layer in graph.layers}
    names: dict[str, int] = {}
    dominant = {
        layer.name: np.array(
            [_number(names, label.concept) for label in layer.labels]
            if layer.labels is not None
            else [-1] * layer.size,
            dtype=np.int64,
        )
        for layer in graph.layers
    }
    # Weight inside each module, and that part of it between two features of one concept.
    inside = np.zeros(count)
    agreeing = np.zeros((count, len(names)))
    for (source, target), weights in graph.weights().items():
        outputs, inputs = np.nonzero(weights)
        module = graph.membership(target)[outputs]
        same = (module >= 0) & (module == graph.membership(source)[inputs])
        outputs, inputs, module = outputs[same], inputs[same], module[same]
        weight = weights[outputs, inputs]
        np.add.at(inside, module, weight)
        np.add.at(member_weight[target], outputs, weight)
        np.add.at(member_weight[source], inputs, weight)
        concept = dominant[target][outputs]
        equal = (concept >= 0) & (concept == dominant[source][inputs])
        np.add.at(agreeing, (module[equal], concept[equal]), weight[equal])

    summaries = []
    for index in range(count):
        members = {
            layer.name: np.flatnonzero(graph.membership(layer.name) == index)
            for layer in graph.layers
        }
        labels = [
            (layer.labels[feature] if layer.labels is not None else None)
            for layer in graph.layers
            for feature in members[layer.name]
        ]
        importance = np.concatenate(
            [member_weight[layer.name][members[layer.name]] for layer in graph.layers]
        )
        concept_name, share = _dominant_concept(labels, importance)
        within = None
        if concept_name is not None and inside[index] > 0:
            # A concept may lead in the mean without leading in any single member.
            number = names.get(concept_name)
            within = 0.0 if number is None else float(agreeing[index, number] / inside[index])
        summaries.append(
            ModuleSummary(
                index=index,
                size=len(labels),
                features={name: len(m) for name, m in members.items() if len(m)},
                weight=float(inside[index]),
                concept=concept_name,
                concept_share=share,
                within_concept=within,
            )
        )
    return summaries


def _renumber(membership: IndexArray, connected: NDArray[np.bool_]) -> IndexArray:
    """Number modules by decreasing size, ties by first member; unconnected vertices get -1."""
    numbered = np.full(len(membership), -1, dtype=np.int64)
    _, first, inverse, sizes = np.unique(
        membership[connected], return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    numbered[connected] = rank[inverse]
    return numbered


def _modularity(network: Any, membership: IndexArray, resolution: float) -> float:
    if not network.ecount():
        return 0.0
    # Any number will do for vertices without edges: they add nothing.
    membership = np.maximum(membership, 0)
    value = network.modularity(membership.tolist(), weights="weight", resolution=resolution)
    return float(value)


def _agreement(candidates: list[IndexArray]) -> float:
    import igraph

    values = [
        # Checked first because the index is 0/0 when both are one module, or all singletons.
        1.0
        if np.array_equal(a, b)
        else igraph.compare_communities(
            a[a >= 0].tolist(), b[b >= 0].tolist(), method="adjusted_rand"
        )
        for a, b in combinations(candidates, 2)
    ]
    return float(np.mean(values)) if values else 1.0


def _number(names: dict[str, int], name: str | None) -> int:
    return -1 if name is None else names.setdefault(name, len(names))


def _dominant_concept(
    labels: list[FeatureLabel | None], importance: NDArray[np.float64]
) -> tuple[str | None, float]:
    """The concept with the largest weighted mean share over members, and that share."""
    total = importance.sum()
    portions = importance / total if total > 0 else np.full(len(labels), 1 / max(len(labels), 1))
    shares: dict[str, float] = {}
    for label, portion in zip(labels, portions.tolist(), strict=True):
        for name, share in label.concepts.items() if label is not None else ():
            shares[name] = shares.get(name, 0.0) + portion * share
    concept = max(shares, key=shares.__getitem__, default=None)
    return concept, shares[concept] if concept is not None else 0.0
