"""An interaction graph as JSON values: the same kept edges as the GraphML file, for scripts.

``{"schema": 1, "layers": [...], "edges": [...], "partition": ...}``. Edges are columns of equal
length, ``in``, ``out`` and ``interaction``, one set per layer pair, with the pair's ε or null.
Only kept edges are here (see :meth:`InteractionGraph.kept_edges`): the full matrices of a run
are in its ``edges.safetensors``. What is here comes back exactly, to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np

from libgraph.errors import DataError
from libgraph.graph.arrays import Pair, no_edges
from libgraph.graph.features import FeatureLabel, LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.partition import Partition

SCHEMA = 1

Json = Mapping[str, Any]
"""An object of JSON of which nothing is known yet."""


class LabelValues(TypedDict):
    """A :class:`FeatureLabel`."""

    text: str
    concepts: dict[str, float]


class LayerValues(TypedDict):
    """A :class:`LayerFeatures`."""

    name: str
    isolated: int
    rotated: bool
    importance: list[float]
    labels: list[LabelValues] | None
    ids: NotRequired[list[str]]


# Written as a call, because `in` is a keyword.
EdgeValues = TypedDict(
    "EdgeValues",
    {
        "input": str,
        "output": str,
        "epsilon": float | None,
        "in": list[int],
        "out": list[int],
        "interaction": list[float],
    },
)
"""The kept edges of a layer pair."""


class PartitionValues(TypedDict):
    """A :class:`Partition`."""

    membership: dict[str, list[int]]
    resolution: float
    quality: float
    modularity: float
    agreement: float
    seed: int
    seeds: int
    consensus: bool
    objective: str


class GraphValues(TypedDict):
    """An :class:`InteractionGraph`."""

    schema: int
    layers: list[LayerValues]
    edges: list[EdgeValues]
    partition: PartitionValues | None


def graph_to_json(graph: InteractionGraph) -> GraphValues:
    """The graph as numbers, texts, lists and dictionaries, in an order that is always the same."""
    return {
        "schema": SCHEMA,
        "layers": [_layer_values(layer) for layer in graph.layers],
        "edges": [_edge_values(graph, pair) for pair in graph.edges],
        "partition": None if graph.partition is None else _partition_values(graph.partition),
    }


def graph_from_json(document: object, source: str) -> InteractionGraph:
    """The graph that :func:`graph_to_json` was given; edges that were not kept are zero.

    Args:
        document: What was read as JSON.
        source: What it was read from, for messages.

    Raises:
        DataError: If the values are not of this schema, or contradict themselves.
        TooLarge: If all edges that there could be do not fit into memory.
    """
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(document, dict) or schema != SCHEMA:
        raise DataError(
            f"{source} has graph schema {schema}, this version reads {SCHEMA}: write it again."
        )
    try:
        return _graph(document, source)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(f"{source} is not a complete graph ({error!r}): write it again.") from error


def _layer_values(layer: LayerFeatures) -> LayerValues:
    labels = layer.labels
    values: LayerValues = {
        "name": layer.name,
        "isolated": layer.isolated,
        "rotated": layer.rotated,
        "importance": layer.importance.tolist(),
        "labels": None
        if labels is None
        else [{"text": label.text, "concepts": dict(label.concepts)} for label in labels],
    }
    if layer.ids is not None:
        values["ids"] = list(layer.ids)
    return values


def _edge_values(graph: InteractionGraph, pair: Pair) -> EdgeValues:
    kept = graph.kept_edges(pair)
    epsilon = graph.epsilon.get(pair)
    return {
        "input": pair[0],
        "output": pair[1],
        "epsilon": None if epsilon is None else float(epsilon),
        "in": kept.inputs.tolist(),
        "out": kept.outputs.tolist(),
        "interaction": kept.interaction.tolist(),
    }


def _partition_values(partition: Partition) -> PartitionValues:
    return {
        "membership": {name: array.tolist() for name, array in partition.membership.items()},
        "resolution": partition.resolution,
        "quality": partition.quality,
        "modularity": partition.modularity,
        "agreement": partition.agreement,
        "seed": partition.seed,
        "seeds": partition.seeds,
        "consensus": partition.consensus,
        "objective": partition.objective,
    }


def _graph(document: Json, source: str) -> InteractionGraph:
    layers = tuple(_layer(entry) for entry in document["layers"])
    sizes = {layer.name: layer.size for layer in layers}
    pairs = [(entry["input"], entry["output"]) for entry in document["edges"]]
    edges = no_edges(sizes, pairs, source)
    for pair, entry in zip(pairs, document["edges"], strict=True):
        outputs, inputs = (np.array(entry[end], dtype=np.int64) for end in ("out", "in"))
        edges[pair][outputs, inputs] = entry["interaction"]
    epsilon = {
        (entry["input"], entry["output"]): entry["epsilon"]
        for entry in document["edges"]
        if entry["epsilon"] is not None
    }
    stored = document["partition"]
    partition = None if stored is None else _partition(stored)
    return InteractionGraph(layers, edges, epsilon, partition)


def _layer(entry: Json) -> LayerFeatures:
    labels = entry["labels"]
    return LayerFeatures(
        name=entry["name"],
        importance=np.array(entry["importance"], dtype=np.float64),
        isolated=entry["isolated"],
        rotated=entry["rotated"],
        labels=None
        if labels is None
        else tuple(FeatureLabel(label["text"], label["concepts"]) for label in labels),
        ids=tuple(entry["ids"]) if "ids" in entry else None,
    )


def _partition(stored: Json) -> Partition:
    membership = {
        name: np.array(values, dtype=np.int64) for name, values in stored["membership"].items()
    }
    return Partition(**{**stored, "membership": membership})
