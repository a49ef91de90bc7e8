"""Graphs read back: our JSON, GraphML and GEXF of ours and of others, attribution graphs.

GraphML and GEXF of others need a `layer` for every node, or edges that run in no circle: node
layers are then the steps of the longest paths. Weights count by their absolute value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from libgraph.errors import DataError
from libgraph.files.json_text import read_json_text
from libgraph.graph.arrays import FloatArray, Pair, no_edges
from libgraph.graph.features import FeatureLabel, LayerFeatures
from libgraph.graph.graph_json import graph_from_json
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.partition import Partition
from libgraph.report.attribution import from_attribution, is_attribution
from libgraph.report.graphml import WHOLE

if TYPE_CHECKING:
    import networkx

Attributes = Mapping[str, Any]
"""Of a node or an edge, as the file has them."""


def read_graph(path: str | Path) -> InteractionGraph:
    """Read a graph: `.graphml`, `.gexf`, or JSON, ours or an attribution graph.

    Edges that were not kept are zero, and what GraphML and GEXF of ours say comes back, but for
    shares of concepts, of which they have the name of the largest alone. Of attribution graphs
    each link becomes an edge of its absolute weight.

    Raises:
        DataError: If the file is missing, is no graph, or contradicts itself.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".graphml", ".gexf"):
        return _from_xml(path, suffix)
    document = read_document(path)
    if is_attribution(document):
        return from_attribution(document, f"'{path}'")  # type: ignore[arg-type]
    return graph_from_json(document, f"'{path}'")


def read_document(path: Path) -> object:
    """What a JSON file holds.

    Raises:
        DataError: If it is missing or no JSON.
    """
    try:
        return read_json_text(path)
    except (OSError, ValueError) as error:
        raise DataError(f"'{path}' cannot be read as JSON ({error}): check the path.") from error


def _from_xml(path: Path, suffix: str) -> InteractionGraph:
    import networkx

    kind = suffix.removeprefix(".")
    try:
        if kind == "graphml":
            graph = networkx.read_graphml(path)
            known = graph.graph.get(WHOLE)
        else:
            graph = networkx.read_gexf(path)
            known = _description(path)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        # Of encodings that nobody knows, lookup fails.
        raise DataError(f"'{path}' cannot be read ({error}): check the path.") from error
    except (networkx.NetworkXException, ElementTree.ParseError, SyntaxError) as error:
        raise DataError(f"'{path}' cannot be read as {kind} ({error}).") from error
    try:
        about = json.loads(known) if known else None
    except ValueError:
        about = None
    try:
        return _graph(graph, about if isinstance(about, dict) else None, f"'{path}'")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"'{path}' is no complete graph ({error!r}): write it again.") from error


def _description(path: Path) -> str | None:
    """What the meta data of a GEXF file say, where ours say what there is of the whole graph."""
    for _, element in ElementTree.iterparse(path):  # noqa: S314
        name = element.tag.rpartition("}")[2]
        if name == "description":
            return element.text
        if name == "node":
            return None
    return None


def _graph(
    graph: networkx.Graph[str], about: Mapping[str, Any] | None, source: str
) -> InteractionGraph:
    if not graph.number_of_nodes():
        raise DataError(f"{source} has no nodes.")
    names = _layers(graph, about, source)
    told = {entry["name"]: entry for entry in (about or {}).get("layers", [])}
    layers, place = [], dict[str, tuple[str, int]]()
    modules: dict[str, list[int]] = {}
    strength = dict(graph.degree(weight="weight"))
    for name, nodes in names.items():
        entry = told.get(_unescaped(name, told), {"isolated": 0, "rotated": True})
        attributes = [graph.nodes[node] for node in nodes]
        numbers = [int(a.get("feature", i)) for i, a in enumerate(attributes)]
        whole = nodes == [f"{name}/{index}" for index in range(len(nodes))]
        layers.append(
            LayerFeatures(
                name,
                np.array(
                    [
                        float(a.get("importance", strength[node]))
                        for node, a in zip(nodes, attributes, strict=True)
                    ]
                ),
                isolated=sum(number < entry["isolated"] for number in numbers),
                rotated=bool(entry["rotated"]),
                labels=_labels(attributes),
                ids=None if whole else tuple(nodes),
            )
        )
        modules[name] = [int(a.get("community", -1)) for a in attributes]
        place |= {node: (name, index) for index, node in enumerate(nodes)}
    edges = _edges(graph, layers, place, about, source)
    epsilon = {
        (entry["input"], entry["output"]): entry["epsilon"]
        for entry in (about or {}).get("pairs", [])
        if entry["epsilon"] is not None and (entry["input"], entry["output"]) in edges
    }
    found = (about or {}).get("partition")
    partition = None
    if found:
        membership = {name: np.array(values, dtype=np.int64) for name, values in modules.items()}
        known = {field.name for field in fields(Partition)}
        partition = Partition(
            **{key: value for key, value in found.items() if key in known}, membership=membership
        )
    return InteractionGraph(tuple(layers), edges, epsilon, partition)


def _unescaped(name: str, told: Mapping[str, object]) -> str:
    """A node layer as the graph calls it, from what XML can hold of that."""
    from libgraph.report.graphml import legal

    return next((known for known in told if legal(known) == name), name)


def _labels(attributes: list[Attributes]) -> tuple[FeatureLabel, ...] | None:
    texts = [str(a.get("description") or "") for a in attributes]
    if not any(texts):
        # Files of others have what they have as label.
        texts = [str(a.get("label") or "") for a in attributes]
        if "layer" in attributes[0] or not any(texts):
            return None
    concepts = [str(a.get("concept") or "") for a in attributes]
    return tuple(
        FeatureLabel(text, {concept: 1.0} if concept else {})
        for text, concept in zip(texts, concepts, strict=True)
    )


def _layers(
    graph: networkx.Graph[str], about: Mapping[str, Any] | None, source: str
) -> dict[str, list[str]]:
    """Nodes by node layer, in order."""
    import networkx

    layers: dict[str, list[str]] = {}
    if all("layer" in attributes for _, attributes in graph.nodes(data=True)):
        for node, attributes in graph.nodes(data=True):
            layers.setdefault(str(attributes["layer"]), []).append(node)
        if about is None and not all(map(_is_number, layers)):
            return _sorted_layers(graph, layers, source)
        if about is None:
            return {name: layers[name] for name in sorted(layers, key=float)}
        return layers
    if not graph.is_directed() or not networkx.is_directed_acyclic_graph(graph):
        raise DataError(
            f"{source} has no 'layer' at each node, and edges that are not directed or run in a "
            "circle: give each node its layer."
        )
    for step, nodes in enumerate(networkx.topological_generations(graph)):
        layers[f"step {step}"] = list(nodes)
    return layers


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _sorted_layers(
    graph: networkx.Graph[str], layers: dict[str, list[str]], source: str
) -> dict[str, list[str]]:
    """Node layers from input to output, as directed edges have it; else as the file has them."""
    import networkx

    if not graph.is_directed():
        return layers
    of = {node: name for name, nodes in layers.items() for node in nodes}
    order: networkx.DiGraph[str] = networkx.DiGraph()
    order.add_nodes_from(layers)
    order.add_edges_from((of[a], of[b]) for a, b in graph.edges())
    try:
        return {name: layers[name] for name in networkx.lexicographical_topological_sort(
            order, key=list(layers).index
        )}  # fmt: skip
    except networkx.NetworkXUnfeasible as error:
        raise DataError(f"{source} has edges in a circle between its layers.") from error


def _edges(
    graph: networkx.Graph[str],
    layers: list[LayerFeatures],
    place: Mapping[str, tuple[str, int]],
    about: Mapping[str, Any] | None,
    source: str,
) -> dict[Pair, FloatArray]:
    sizes = {layer.name: layer.size for layer in layers}
    order = {layer.name: number for number, layer in enumerate(layers)}
    told = [(entry["input"], entry["output"]) for entry in (about or {}).get("pairs", [])]
    pairs = [(a, b) for a, b in told if a in sizes and b in sizes]
    for start, end in graph.edges():
        a, b = sorted((place[start][0], place[end][0]), key=order.__getitem__)
        pairs.append((a, b))
    edges = no_edges(sizes, pairs, source)
    for start, end, attributes in graph.edges(data=True):
        (a, i), (b, j) = place[start], place[end]
        if order[a] > order[b] and not graph.is_directed():
            (a, i), (b, j) = (b, j), (a, i)
        if order[a] >= order[b]:
            raise DataError(
                f"{source} has an edge {start} -> {end} that does not lead to a later layer."
            )
        value = abs(float(attributes.get("interaction", attributes.get("weight", 1.0))))
        edges[a, b][j, i] += value
    return dict(sorted(edges.items(), key=lambda item: (order[item[0][0]], order[item[0][1]])))
