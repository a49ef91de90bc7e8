"""GraphML for Gephi: the kept edges of an interaction graph, one column of nodes per layer.

Gephi reads position, size and colour only from keys of exactly these names, ignores defaults,
drops edges of weight zero and draws none of negative weight; so every value is written, every
weight is positive, sizes run from 4 to 100 and coordinates stay within 5000 of the centre.
Written edge by edge and then renamed, so a file is complete or not there.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

import numpy as np

from libgraph.errors import DataError
from libgraph.features import FloatArray, feature_ids
from libgraph.files import writing
from libgraph.graph import IndexArray, InteractionGraph, KeptEdges, Pair

NODE_KEYS = {
    "label": "string",
    "x": "double",
    "y": "double",
    "size": "double",
    "r": "int",
    "g": "int",
    "b": "int",
    "layer": "string",
    "feature": "int",
    "community": "int",
    "importance": "double",
    "concept": "string",
    "description": "string",
}
EDGE_KEYS = {"weight": "double", "interaction": "double"}

COLOURS = (
    (46, 110, 184), (226, 111, 44), (47, 145, 92), (201, 62, 92), (128, 93, 184), (217, 164, 32),
    (38, 158, 171), (214, 106, 170), (139, 98, 64), (122, 155, 46), (84, 96, 150), (237, 138, 122),
)  # fmt: skip
NO_MODULE = (176, 176, 180)

HALF_WIDTH = 4500.0
COLUMN_SPACING = 2000.0
NODE_SPACING = 60.0
DECADES = 4.0

_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_graphml(graph: InteractionGraph, path: str | Path) -> None:
    """Write the graph as directed GraphML; the same graph always gives the same bytes.

    All features are nodes, with id ``ln1.0/17``, labelled by the first term of their label, with
    the whole of it as ``description``; edges are :meth:`InteractionGraph.kept_edges`,
    from input to output layer, with ``weight`` and the raw ``interaction`` E. ``community`` is -1
    outside modules.

    Raises:
        DataError: If a name or label has a character that XML cannot hold.
        UsageError: If the file cannot be written.
    """
    kept = {pair: graph.kept_edges(pair) for pair in graph.edges}
    for layer in graph.layers:
        labels = layer.labels or ()
        texts = [layer.name, *(text for label in labels for text in (label.text, *label.concepts))]
        for text in texts:
            if _ILLEGAL.search(text):
                raise DataError(
                    f"{text!r} has a character that XML cannot hold: rename or relabel it."
                )
    with writing(Path(path)) as temporary, temporary.open("wb") as file:
        xml = XMLGenerator(file, "utf-8", short_empty_elements=True)
        xml.startDocument()
        _start(xml, "graphml", {"xmlns": "http://graphml.graphdrawing.org/xmlns"})
        for kind, keys in (("node", NODE_KEYS), ("edge", EDGE_KEYS)):
            for name, value_type in keys.items():
                attributes = {"id": name, "for": kind, "attr.name": name, "attr.type": value_type}
                _newline(xml)
                _start(xml, "key", attributes)
                xml.endElement("key")
        _newline(xml)
        _start(xml, "graph", {"id": "libgraph", "edgedefault": "directed"})
        _write_nodes(xml, graph, kept)
        for (source, target), edges in kept.items():
            columns = (column.tolist() for column in edges)
            for i, j, interaction, weight in zip(*columns, strict=True):
                ends = {"source": f"{source}/{i}", "target": f"{target}/{j}"}
                ends["id"] = f"{ends['source']}->{ends['target']}"
                _element(xml, "edge", ends, {"weight": weight, "interaction": interaction})
        _newline(xml)
        xml.endElement("graph")
        xml.endElement("graphml")
        _newline(xml)
        xml.endDocument()


def _write_nodes(
    xml: XMLGenerator, graph: InteractionGraph, kept: Mapping[Pair, KeptEdges]
) -> None:
    order = column_order(graph, kept, {layer.name: np.arange(layer.size) for layer in graph.layers})
    columns = len(graph.layers)
    tallest = max((layer.size for layer in graph.layers), default=1)
    column_step = min(COLUMN_SPACING, 2 * HALF_WIDTH / max(columns - 1, 1))
    node_step = min(NODE_SPACING, 2 * HALF_WIDTH / max(tallest - 1, 1))
    for column, layer in enumerate(graph.layers):
        row = np.empty(layer.size)
        row[order[layer.name]] = np.arange(layer.size)
        y = ((layer.size - 1) / 2 - row) * node_step
        size = 4 + 96 * relative_importance(layer.importance, layer.isolated)
        community = graph.membership(layer.name).tolist()
        for feature, name in enumerate(feature_ids(layer)):
            label = layer.labels[feature] if layer.labels is not None else None
            r, g, b = module_colour(community[feature])
            values = {
                "label": label.text.split(" | ")[0] if label is not None else name,
                "x": (column - (columns - 1) / 2) * column_step,
                "y": float(y[feature]),
                "size": float(size[feature]),
                "r": r,
                "g": g,
                "b": b,
                "layer": layer.name,
                "feature": feature,
                "community": community[feature],
                "importance": float(layer.importance[feature]),
                "concept": (label.concept or "") if label is not None else "",
                "description": label.text if label is not None else "",
            }
            _element(xml, "node", {"id": name}, values)


def column_order(
    graph: InteractionGraph, kept: Mapping[Pair, KeptEdges], shown: Mapping[str, IndexArray]
) -> dict[str, IndexArray]:
    """Order each layer's shown features from top to bottom: by module, with few crossings.

    Inside a module, features are sorted by the weighted mean height of their neighbours, going
    through the layers to and fro (Sugiyama, Tagawa & Toda 1981, the barycentre method). Features
    outside modules come last, those of them without edges at the very end.
    """
    height = {layer.name: np.full(layer.size, np.nan) for layer in graph.layers}
    module = {}
    for layer in graph.layers:
        community = graph.membership(layer.name)
        module[layer.name] = np.where(community < 0, np.iinfo(np.int64).max, community)
    order = {name: features[np.argsort(module[name][features], kind="stable")]
             for name, features in shown.items()}  # fmt: skip
    names = [layer.name for layer in graph.layers]
    for name in names:
        height[name][order[name]] = _spread(len(order[name]))
    for sweep in range(6):
        for name in names if sweep % 2 == 0 else names[::-1]:
            total, weight = np.zeros((2, len(height[name])))
            for (source, target), edges in kept.items():
                if target == name:
                    here, there, other = edges.outputs, edges.inputs, source
                elif source == name:
                    here, there, other = edges.inputs, edges.outputs, target
                else:
                    continue
                seen = ~np.isnan(height[other][there])
                part = edges.weight[seen]
                np.add.at(total, here[seen], part * height[other][there[seen]])
                np.add.at(weight, here[seen], part)
            centre = np.divide(total, weight, out=np.full_like(total, np.inf), where=weight > 0)
            features = shown[name]
            keys = (features, centre[features], module[name][features])
            order[name] = features[np.lexsort(keys)]
            height[name][order[name]] = _spread(len(features))
    return order


def module_colour(community: int) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a module; grey for -1. The picture uses the same."""
    if community < 0:
        return NO_MODULE
    if community < len(COLOURS):
        return COLOURS[community]
    # Golden-ratio steps of hue never repeat and keep neighbours apart.
    shade = colorsys.hls_to_rgb(community * 0.618034 % 1, 0.35 + 0.1 * (community % 3), 0.5)
    red, green, blue = (round(255 * channel) for channel in shade)
    return red, green, blue


def relative_importance(importance: FloatArray, isolated: int) -> FloatArray:
    """Importance on a logarithmic scale from 0 to 1, shape ``(features,)``.

    1 is the layer's most important feature, 0 one that is four decades below it or isolated.
    """
    scaled = np.zeros_like(importance)
    positive = importance > 0
    positive[:isolated] = False
    decades = np.log10(importance[positive])
    scaled[positive] = 1 + (decades - decades.max(initial=-np.inf)) / DECADES
    return np.clip(scaled, 0, 1)


def _element(
    xml: XMLGenerator,
    name: str,
    attributes: Mapping[str, str],
    values: Mapping[str, str | float],
) -> None:
    _newline(xml)
    _start(xml, name, attributes)
    for key, value in values.items():
        _start(xml, "data", {"key": key})
        xml.characters(value if isinstance(value, str) else repr(value))
        xml.endElement("data")
    xml.endElement(name)


def _start(xml: XMLGenerator, name: str, attributes: Mapping[str, str]) -> None:
    xml.startElement(name, AttributesImpl(attributes))


def _newline(xml: XMLGenerator) -> None:
    xml.characters("\n")


def _spread(count: int) -> FloatArray:
    return (np.arange(count) + 0.5) / max(count, 1)
