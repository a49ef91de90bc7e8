"""Features and kept edges as columns: what tables, files and libraries of graphs are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from libgraph.graph.features import LayerFeatures, feature_ids, feature_numbers
from libgraph.graph.interaction_graph import InteractionGraph

Column = Sequence[str] | Sequence[int] | Sequence[float] | Sequence[bool]


def label_of(layer: LayerFeatures, feature: int, name: str) -> str:
    """The id of a feature, with the first term of its label."""
    label = layer.labels[feature] if layer.labels is not None else None
    return name if label is None else f"{name}  {label.text.split(' | ')[0]}"


def node_columns(graph: InteractionGraph) -> dict[str, list[str] | list[int] | list[float]]:
    """One row for each feature, node layer by node layer.

    Columns are ``id``, ``label``, ``layer``, ``feature`` (its index), ``community`` (−1 without),
    ``importance``, ``isolated`` (0 or 1), ``concept`` and ``description``, empty where there is
    none.
    """
    names, labels, layers, concepts, texts = ([] for _ in range(5))
    numbers: list[int] = []
    communities: list[int] = []
    isolated: list[int] = []
    importance: list[float] = []
    for layer in graph.layers:
        ids = feature_ids(layer)
        names += ids
        labels += [label_of(layer, place, name) for place, name in enumerate(ids)]
        layers += [layer.name] * layer.size
        numbers += feature_numbers(layer)
        communities += graph.membership(layer.name).tolist()
        importance += layer.importance.tolist()
        isolated += [int(place < layer.isolated) for place in range(layer.size)]
        known = layer.labels or [None] * layer.size
        concepts += [(label.concept or "") if label is not None else "" for label in known]
        texts += [label.text if label is not None else "" for label in known]
    return {
        "id": names,
        "label": labels,
        "layer": layers,
        "feature": numbers,
        "community": communities,
        "importance": importance,
        "isolated": isolated,
        "concept": concepts,
        "description": texts,
    }


def edge_columns(graph: InteractionGraph) -> dict[str, list[str] | list[float]]:
    """One row for each kept edge: ``source``, ``target``, ``weight`` and ``interaction`` E."""
    names = {layer.name: np.array(feature_ids(layer), dtype=object) for layer in graph.layers}
    sources: list[str] = []
    targets: list[str] = []
    weights: list[float] = []
    interactions: list[float] = []
    for pair in graph.edges:
        kept = graph.kept_edges(pair)
        sources += names[pair[0]][kept.inputs].tolist()
        targets += names[pair[1]][kept.outputs].tolist()
        weights += kept.weight.tolist()
        interactions += kept.interaction.tolist()
    return {
        "source": sources,
        "target": targets,
        "weight": weights,
        "interaction": interactions,
    }
