"""Modules of an interaction graph: Leiden on the clustering weights, and what is in each module.

Leiden is random, so it runs from several seeds; the best partition is kept and the agreement of
all of them is reported beside it, because modules that another seed would not find mean little.
Numbering is by size, so the same graph and seed always give the same numbers. The runs themselves
are in :mod:`libgraph.leiden`, modules that most runs agree on in :mod:`libgraph.consensus`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from libgraph.agreement import mean_agreement
from libgraph.errors import UsageError
from libgraph.features import FeatureLabel
from libgraph.graph import InteractionGraph
from libgraph.leiden import Leiden

IndexArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Partition:
    """Features divided into modules numbered 0, 1, … by decreasing number of features.

    Args:
        membership: By layer, module of each feature, shape ``(features,)``; -1 for features that
            take no part in clustering or have no edge.
        resolution: The γ that was optimised: larger values give smaller modules.
        quality: Weighted modularity at that γ.
        modularity: Weighted modularity at γ = 1, whatever γ was optimised.
        agreement: Mean adjusted mutual information over all pairs of seeds: 1 if all found the
            same partition, 0 if they agree no more than by chance.
        seed: The first seed.
        seeds: How many seeds were tried.
        consensus: Whether it is what the seeds agree on, and not the best of them.
    """

    membership: Mapping[str, IndexArray]
    resolution: float
    quality: float
    modularity: float
    agreement: float
    seed: int
    seeds: int
    consensus: bool = False

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

    The quality is Q_γ of :class:`libgraph.leiden.Leiden`. Each run iterates until nothing improves,
    or twice above ``libgraph.leiden.CONVERGED_EDGES`` edges. Features without edges belong to no
    module.

    Args:
        graph: The graph; a partition it may have is ignored.
        resolution: γ.
        seed: First seed; the runs use ``seed, seed + 1, …``.
        seeds: Number of runs.

    Raises:
        UsageError: If the resolution is not positive or there is no seed.
    """
    return best_partition(Leiden(graph), resolution, seed, seeds)


def best_partition(leiden: Leiden, resolution: float, seed: int, seeds: int) -> Partition:
    """What :func:`find_communities` finds, on a graph that is prepared already."""
    found = leiden.runs(resolution, seed, seeds)
    qualities = [leiden.quality(each, resolution) for each in found]
    first = int(np.argmax(qualities))
    return Partition(
        membership=leiden.by_layer(found[first]),
        resolution=resolution,
        quality=qualities[first],
        modularity=leiden.quality(found[first]),
        agreement=mean_agreement(found),
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
