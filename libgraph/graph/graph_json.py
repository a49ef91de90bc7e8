"""JSON of an interaction graph: the same kept edges as the GraphML file, for scripts.

``{"schema": 1, "layers": [...], "edges": [...], "partition": ...}``. Edges are columns of equal
length, ``in``, ``out`` and ``interaction``, one set per layer pair, with the pair's ε or null.
Only kept edges are here (see :meth:`InteractionGraph.kept_edges`): the full matrices of a run
are in its ``edges.safetensors``. What is here comes back exactly, to the last bit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from libgraph.errors import DataError
from libgraph.files.atomic import writing
from libgraph.graph.features import FeatureLabel, LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.partition import Partition

SCHEMA = 1


def write_json(graph: InteractionGraph, path: str | Path) -> None:
    """Write the graph; the same graph always gives the same bytes.

    Raises:
        UsageError: If the file cannot be written.
    """
    document = {
        "schema": SCHEMA,
        "layers": [_layer(layer) for layer in graph.layers],
        "edges": [_edges(graph, pair) for pair in graph.edges],
        "partition": None if graph.partition is None else _partition(graph.partition),
    }
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    with writing(Path(path)) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> InteractionGraph:
    """Read what :func:`write_json` wrote; edges that were not kept are zero.

    Raises:
        DataError: If the file is missing, is not of this schema, or contradicts itself.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): check the path.") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise DataError(
            f"{path} has graph schema {schema}, this version reads {SCHEMA}: write it again."
        )
    try:
        return _graph(document)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(f"{path} is not a complete graph ({error!r}): write it again.") from error


def _layer(layer: LayerFeatures) -> dict[str, Any]:
    labels = layer.labels
    return {
        "name": layer.name,
        "isolated": layer.isolated,
        "rotated": layer.rotated,
        "importance": layer.importance.tolist(),
        "labels": None
        if labels is None
        else [{"text": label.text, "concepts": dict(label.concepts)} for label in labels],
    }


def _edges(graph: InteractionGraph, pair: tuple[str, str]) -> dict[str, Any]:
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


def _partition(partition: Partition) -> dict[str, Any]:
    return {
        "membership": {name: array.tolist() for name, array in partition.membership.items()},
        "resolution": partition.resolution,
        "quality": partition.quality,
        "modularity": partition.modularity,
        "agreement": partition.agreement,
        "seed": partition.seed,
        "seeds": partition.seeds,
        "consensus": partition.consensus,
    }


def _graph(document: dict[str, Any]) -> InteractionGraph:
    layers = []
    for entry in document["layers"]:
        labels = entry["labels"]
        layers.append(
            LayerFeatures(
                name=entry["name"],
                importance=np.array(entry["importance"], dtype=np.float64),
                isolated=entry["isolated"],
                rotated=entry["rotated"],
                labels=None
                if labels is None
                else tuple(FeatureLabel(label["text"], label["concepts"]) for label in labels),
            )
        )
    sizes = {layer.name: layer.size for layer in layers}
    edges, epsilon = {}, {}
    for entry in document["edges"]:
        pair = (entry["input"], entry["output"])
        matrix = np.zeros((sizes[pair[1]], sizes[pair[0]]))
        outputs, inputs = (np.array(entry[end], dtype=np.int64) for end in ("out", "in"))
        matrix[outputs, inputs] = entry["interaction"]
        edges[pair] = matrix
        if entry["epsilon"] is not None:
            epsilon[pair] = entry["epsilon"]
    stored = document["partition"]
    partition = None
    if stored is not None:
        membership = {
            name: np.array(values, dtype=np.int64) for name, values in stored["membership"].items()
        }
        partition = Partition(**{**stored, "membership": membership})
    return InteractionGraph(tuple(layers), edges, epsilon, partition)
