"""A network that was trained, and whose concepts are known: frequencies of modular addition.

A transformer that adds modulo a prime computes with a few frequencies, each by itself (Nanda et
al., arXiv 2301.05217). Nobody knows its features; but how much of one varies with which frequency
can be measured, and a basis is the better, the more features and interactions keep to one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from libgraph.backend.contract import Backend
from libgraph.backend.data import Data
from libgraph.backend.registry import load_backend
from libgraph.benchmark.known import Known
from libgraph.edges.graph_of import graph_of
from libgraph.edges.interactions import interactions
from libgraph.graph.features import POSITION, FeatureLabel
from libgraph.modules.agreement import agreement_with_concepts
from libgraph.modules.communities import find_communities
from libgraph.network.basis import Bases, Basis
from libgraph.network.network import Network
from libgraph.sections.quadrature import Quadrature

RUNS = 5
"""Of Leiden."""


def frequencies() -> Known:
    """The bundled model of modular addition.

    Raises:
        BackendError: if its backend is not installed.
    """
    backend = load_backend("modular-addition")
    inputs = next(iter(Data(backend, "train", 1))).inputs
    return Known("frequencies", backend.network().double(), inputs, {}, labelled=backend)


def keeping_to_concepts(
    network: Network, backend: Backend, data: Data, bases: Bases, seed: int
) -> dict[str, dict[str, float]]:
    """How far features, interactions and modules keep to one concept, by measure and place.

    Purity is the share of a feature's variance, what differs between positions left out, that its
    first concept has, features weighted by their importance; then the share of all interactions
    that is between features of one concept, and the homogeneity of modules (1: of one concept).

    Args:
        network: in double precision.
        backend: that labels features.
        data: for interactions.
        bases: of all node layers.
        seed: of Leiden.
    """
    labels = backend.labels(lambda inputs: _features(network, bases, inputs), bases)
    edges = interactions(network, {"it": bases}, data, Quadrature.gradient())["it"]
    free = {name: labels[name][bases[name].isolated :] for name in labels}
    within = {}
    for (a, b), matrix in edges.items():
        if a in free and b in free:
            inner = matrix[bases[b].isolated :, bases[a].isolated :]
            within[f"{a}->{b}"] = _within(inner, free[b], free[a])
    graph = graph_of(bases, edges, labels=labels)
    graph = graph.with_partition(find_communities(graph, 1.0, seed, RUNS))
    homogeneity = agreement_with_concepts(graph)["homogeneity"]
    return {
        "purity": {name: _purity(free[name], bases[name]) for name in free},
        "interactions within": within,
        "homogeneity of modules": {"": float("nan") if homogeneity is None else homogeneity},
    }


def _features(network: Network, bases: Bases, inputs: Tensor) -> Mapping[str, Tensor]:
    with torch.no_grad():
        activations = network.activations(inputs)
        return {
            layer.name: bases[layer.name].features(x)
            for layer, x in zip(network.node_layers, activations, strict=True)
            if layer.rotated
        }


def _purity(labels: Sequence[FeatureLabel], basis: Basis) -> float:
    weights = basis.importance[basis.isolated :].double().numpy()
    if not weights.sum():
        return float("nan")
    return float(np.average([_of_first_concept(label) for label in labels], weights=weights))


def _of_first_concept(label: FeatureLabel) -> float:
    """Of the variance that is not between positions; 0 where there is no concept."""
    shares = [share for concept, share in label.concepts.items() if concept != POSITION]
    left = 1 - label.concepts.get(POSITION, 0.0)
    return max(shares, default=0.0) / left if left > 0 else 0.0


def _within(
    edges: Tensor, targets: Sequence[FeatureLabel], sources: Sequence[FeatureLabel]
) -> float:
    concepts = [
        np.array([label.concept or f"none of {side}" for label in labels])
        for side, labels in (("targets", targets), ("sources", sources))
    ]
    same = concepts[0][:, None] == concepts[1]
    total = float(edges.sum())
    return float((edges.numpy() * same).sum()) / total if total else float("nan")
