"""What is in each module: features, layers, weight, and the concept that its labels share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from libgraph.errors import UsageError
from libgraph.graph.features import FeatureLabel
from libgraph.graph.interaction_graph import InteractionGraph


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
