"""GraphML for Gephi: the kept edges of an interaction graph, one column of nodes per layer.

Gephi reads position, size and colour only from keys of exactly these names, ignores defaults,
drops edges of weight zero and draws none of negative weight; so every value is written, every
weight is positive, and coordinates stay within 5000 of the centre. Sizes, which Gephi takes for
radii, run from 4 to 100, or all less where nodes of that size would overlap.
Written edge by edge and then renamed, so a file is complete or not there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any
from xml.sax.saxutils import XMLGenerator
from xml.sax.saxutils import escape as escape_xml
from xml.sax.xmlreader import AttributesImpl

import numpy as np
from numpy.typing import NDArray

from libgraph.errors import DataError
from libgraph.files.atomic import writing
from libgraph.graph.arrays import FloatArray, Pair
from libgraph.graph.columns import label_of
from libgraph.graph.features import feature_ids, feature_numbers
from libgraph.graph.interaction_graph import InteractionGraph, KeptEdges, check_graph
from libgraph.report.appearance import column_order, module_colour, relative_importance
from libgraph.visible import escape

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

HALF_WIDTH, COLUMN_SPACING = 4500.0, 2000.0
"""How far nodes stand from the centre at most, and columns from each other if there is room."""

SIZES = 4.0, 100.0
"""Of the least and the most important feature of a node layer, where they do not overlap."""

BETWEEN, APART = 0.25, 12.0
"""Room between two nodes of a column, as a share of their sizes; and between those with edges and
those without, in the mean size of the column."""

WHOLE = "libgraph"
"""Key of what is known of the whole graph; see :func:`about`."""

AT_ONCE = 4096
"""Edges made into text at a time."""

QUOTED = {'"': "&quot;", "\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}
"""What stands in attributes for characters that end or change them, beside &, < and >."""

EDGE = (
    '\n<edge source="%s" target="%s" id="%s-&gt;%s">'
    '<data key="weight">%r</data><data key="interaction">%r</data></edge>'
)

_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Attributes = Mapping[str, Mapping[str, NDArray[Any]]]
"""Further attributes of nodes: by name, and node layer, one number a feature."""


def write_graphml(
    graph: InteractionGraph,
    path: str | Path,
    attributes: Attributes | None = None,
    *,
    connected: bool = False,
) -> None:
    """Write the graph as directed GraphML; the same graph always gives the same bytes.

    All features are nodes, with id ``ln1.0/17``, labelled by it and the first term of their label,
    with the whole of it as ``description``. Those without an edge stand apart, below the others of
    their column, or are left out if only `connected` ones are asked for. Edges are
    :meth:`InteractionGraph.kept_edges`, from input to output layer, with ``weight`` and the raw
    ``interaction`` E. ``community`` is -1 outside modules. Further attributes are integers or
    numbers, and left out at node layers that have none. Characters that XML cannot hold are escaped
    as Python does, ``\\x1b``.

    Args:
        graph: to write.
        path: of the file.
        attributes: further ones of nodes, by name and node layer, arrays ``(features,)``.
        connected: whether to leave out features without an edge.

    Raises:
        DataError: If two node layers have one name when theirs are escaped.
        UsageError: If the file cannot be written.
    """
    check_graph(graph)
    kept = {pair: graph.kept_edges(pair) for pair in graph.edges}
    check_names(graph, "GraphML")
    with writing(Path(path)) as temporary, temporary.open("wb") as file:
        xml = XMLGenerator(file, "utf-8", short_empty_elements=True)
        xml.startDocument()
        _start(xml, "graphml", {"xmlns": "http://graphml.graphdrawing.org/xmlns"})
        further = attributes or {}
        for kind, keys in (("node", NODE_KEYS | _types(further)), ("edge", EDGE_KEYS)):
            for name, value_type in keys.items():
                described = {"id": name, "for": kind, "attr.name": name, "attr.type": value_type}
                _newline(xml)
                _start(xml, "key", described)
                xml.endElement("key")
        # Gephi reads keys of nodes and edges alone, and leaves this to those who read it all.
        described = {"id": WHOLE, "for": "graph", "attr.name": WHOLE, "attr.type": "string"}
        _newline(xml)
        _start(xml, "key", described)
        xml.endElement("key")
        _newline(xml)
        _start(xml, "graph", {"id": "libgraph", "edgedefault": "directed"})
        _write_nodes(xml, graph, kept, further, connected=connected)
        for lines in edge_lines(graph, kept, EDGE):
            xml.ignorableWhitespace(lines)
        _newline(xml)
        _start(xml, "data", {"key": WHOLE})
        xml.characters(about(graph))
        xml.endElement("data")
        _newline(xml)
        xml.endElement("graph")
        xml.endElement("graphml")
        _newline(xml)
        xml.endDocument()


def check_names(graph: InteractionGraph, form: str) -> None:
    """Raise a :class:`DataError` if two node layers have one name when theirs are escaped."""
    names = [legal(layer.name) for layer in graph.layers]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"Two node layers are called '{name}' in {form}: rename one of them.")


def about(graph: InteractionGraph) -> str:
    """What nodes and edges do not say, as JSON: node layers, ε, and how modules were found."""
    layers = [
        {"name": layer.name, "isolated": layer.isolated, "rotated": layer.rotated}
        for layer in graph.layers
    ]
    epsilon = [
        {"input": pair[0], "output": pair[1], "epsilon": graph.epsilon.get(pair)}
        for pair in graph.edges
    ]
    found: dict[str, object] | None = None
    if graph.partition is not None:
        found = {
            field.name: getattr(graph.partition, field.name)
            for field in fields(graph.partition)
            if field.name != "membership"
        }
    whole = {"layers": layers, "pairs": epsilon, "partition": found}
    return json.dumps(whole, separators=(",", ":"))


def edge_lines(graph: InteractionGraph, kept: Mapping[Pair, KeptEdges], form: str) -> Iterator[str]:
    """The edges as lines, some thousands at a time, so that memory does not grow with them.

    Args:
        graph: whose features they join.
        kept: the edges.
        form: of a line, for source, target, both again, weight and interaction.
    """
    names = {
        layer.name: [escape_xml(legal(name), QUOTED) for name in feature_ids(layer)]
        for layer in graph.layers
    }
    for (source, target), edges in kept.items():
        sources, targets = names[source], names[target]
        for start in range(0, len(edges.weight), AT_ONCE):
            columns = (column[start : start + AT_ONCE].tolist() for column in edges)
            yield "".join(
                [
                    form % (sources[i], targets[j], sources[i], targets[j], weight, e)
                    for i, j, e, weight in zip(*columns, strict=True)
                ]
            )


def _types(attributes: Attributes) -> dict[str, str]:
    kinds = {
        name: {values.dtype.kind for values in by_layer.values()}
        for name, by_layer in attributes.items()
    }
    return {name: "int" if of <= set("iub") else "double" for name, of in kinds.items()}


def _write_nodes(
    xml: XMLGenerator,
    graph: InteractionGraph,
    kept: Mapping[Pair, KeptEdges],
    attributes: Attributes,
    *,
    connected: bool,
) -> None:
    placed = places(graph, kept, connected=connected)
    for layer in graph.layers:
        community = graph.membership(layer.name).tolist()
        numbers = feature_numbers(layer)
        for feature, name in enumerate(feature_ids(layer)):
            x, y, size = placed[layer.name][feature].tolist()
            if size == 0:
                continue
            label = layer.labels[feature] if layer.labels is not None else None
            r, g, b = module_colour(community[feature])
            values: dict[str, str | float] = {
                "label": label_of(layer, feature, name),
                "x": x,
                "y": y,
                "size": size,
                "r": r,
                "g": g,
                "b": b,
                "layer": layer.name,
                "feature": numbers[feature],
                "community": community[feature],
                "importance": float(layer.importance[feature]),
                "concept": (label.concept or "") if label is not None else "",
                "description": label.text if label is not None else "",
            }
            values |= {
                key: by_layer[layer.name][feature].item()
                for key, by_layer in attributes.items()
                if layer.name in by_layer
            }
            _element(xml, "node", {"id": legal(name)}, values)


def places(
    graph: InteractionGraph, kept: Mapping[Pair, KeptEdges], *, connected: bool
) -> dict[str, FloatArray]:
    """x, y and size of every feature of a layer, ``(features, 3)``; size 0 if it is left out.

    In a column two nodes stand as far from each other as their sizes, and a little more; where that
    makes a column too high, or two columns come too near, all sizes shrink together.
    """
    everything = {layer.name: np.arange(layer.size) for layer in graph.layers}
    joined = {name: np.zeros(len(features), dtype=bool) for name, features in everything.items()}
    for (source, target), edges in kept.items():
        joined[source][edges.inputs] = True
        joined[target][edges.outputs] = True
    shown = {name: np.flatnonzero(joined[name]) for name in joined} if connected else everything
    order = column_order(graph, kept, shown)
    count = len(graph.layers)
    step = min(COLUMN_SPACING, 2 * HALF_WIDTH / max(count - 1, 1))
    least, most = SIZES
    columns = {}
    for layer in graph.layers:
        features = order[layer.name]
        scale = relative_importance(layer.importance, layer.isolated)[features]
        sizes = least + (most - least) * scale
        gaps = (1 + BETWEEN) * (sizes[:-1] + sizes[1:])
        # Features without an edge come last.
        lonely = ~joined[layer.name][features]
        gaps[lonely[1:] & ~lonely[:-1]] += APART * sizes.mean() if len(sizes) else 0
        heights = -np.cumsum(np.concatenate([np.zeros(min(len(sizes), 1)), gaps]))
        columns[layer.name] = features, sizes, heights
    tallest = max((-heights.min(initial=0) for _, _, heights in columns.values()), default=0)
    widest = max((sizes.max(initial=0) for _, sizes, _ in columns.values()), default=0)
    shrink = min(1.0, 2 * HALF_WIDTH / max(tallest, 1), step / max(2.5 * widest, 1))
    places = {}
    for column, layer in enumerate(graph.layers):
        features, sizes, heights = columns[layer.name]
        middle = (heights.min(initial=0) + heights.max(initial=0)) / 2 if len(heights) else 0
        table = np.zeros((layer.size, 3))
        table[features, 0] = (column - (count - 1) / 2) * step
        table[features, 1] = (heights - middle) * shrink
        table[features, 2] = sizes * shrink
        places[layer.name] = table
    return places


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
        xml.characters(legal(value) if isinstance(value, str) else repr(value))
        xml.endElement("data")
    xml.endElement(name)


def _start(xml: XMLGenerator, name: str, attributes: Mapping[str, str]) -> None:
    xml.startElement(name, AttributesImpl(attributes))


def legal(text: str) -> str:
    """The text with escapes for characters that XML cannot hold."""
    return _ILLEGAL.sub(lambda match: escape(match.group()), text)


def _newline(xml: XMLGenerator) -> None:
    xml.characters("\n")
