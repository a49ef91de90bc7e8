"""What the page knows: features, edges, modules, examples and curves of a run, as JSON values.

Per basis, features are rows of columns; edges refer to rows and are sorted by weight, so that the
strongest n are the first n. After the kept ones stand those that are only among the strongest of a
feature, which the page lists and does not draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from libgraph.graph.arrays import FloatArray, IndexArray
from libgraph.graph.columns import node_columns
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.summary import module_table
from libgraph.report.appearance import column_order, module_colour, relative_importance
from libgraph.report.page.packed import packed, strip_of
from libgraph.report.style import hex_colour
from libgraph.runs.examples import KINDS, Examples
from libgraph.runs.feature import graph_once
from libgraph.runs.metrics import BasisFigures
from libgraph.runs.run import Run

MOST_FEATURES, MOST_EDGES = 20_000, 100_000
"""Of each basis on the page; of more the strongest."""

LISTED, MOST_LISTED = 10, 4000
"""Inputs and outputs of each feature that are listed though not kept, in graphs up to a size."""

SMALLEST, LARGEST_DOT = 3.0, 15.0
"""Diameter of features in dots, by importance."""

FOOT = 0.12
"""Share of a column's height for features without edges."""

SPECTRUM = "spectrum, log₁₀ of importance"
"""What the page calls importance by rank."""

ROOM = 620.0
"""Height of a column in dots, about."""

Values = dict[str, Any]
"""JSON values that only the page reads."""


@dataclass(frozen=True)
class Rows:
    """Which features are on the page, and where.

    Args:
        row: Of each feature by node layer; −1 for those left out.
        count: Of rows.
    """

    row: Mapping[str, IndexArray]
    count: int


class EdgeRows(NamedTuple):
    """Edges between rows: the kept ones, strongest first, then those that are only listed."""

    source: IndexArray
    target: IndexArray
    weight: FloatArray
    interaction: FloatArray
    kept: int
    left_out: int


class LayerValues(TypedDict):
    """A node layer: its rows and what was measured of it."""

    name: str
    first: int
    size: int
    all: int
    isolated: int
    rotated: bool
    curve: dict[str, float]


def shown_graph(run: Run, name: str) -> InteractionGraph:
    """The graph of a basis as the page has it.

    Labels and modules are kept of the main basis alone, so that others have none, whether the run
    was just made or read back; what is left in its own coordinates is the same in all bases.
    """
    graph, main = graph_once(run, name), graph_once(run, run.basis)
    if name == run.basis:
        return graph
    names = {layer.name: layer.labels for layer in main.layers if not layer.rotated}
    layers = tuple(replace(layer, labels=names.get(layer.name)) for layer in graph.layers)
    return InteractionGraph(layers, graph.edges, graph.epsilon)


def contents(run: Run, graphs: Mapping[str, InteractionGraph]) -> Values:
    """All that the page shows of a run, whose graphs are these."""
    bases = {
        name: graph_values(graph, run.metrics.bases.get(name)) for name, graph in graphs.items()
    }
    examples = run.all_examples()
    metrics = run.metrics
    return {
        "title": metrics.backend,
        "concept": metrics.concept,
        "main": run.basis,
        "score": {"name": metrics.score.name, "test": metrics.score.test},
        "bases": bases,
        "examples": None if examples is None else _examples(run, examples, bases[run.basis]),
        "curves": curves(run),
    }


def graph_contents(graph: InteractionGraph, title: str) -> Values:
    """All that the page shows of a graph alone."""
    return {
        "title": title,
        "concept": "concept",
        "main": "graph",
        "score": None,
        "bases": {"graph": graph_values(graph, None)},
        "examples": None,
        "curves": {},
    }


def graph_values(graph: InteractionGraph, figures: BasisFigures | None) -> Values:
    """Features, edges and modules of a graph."""
    rows = _rows(graph)
    edges = _edges(graph, rows)
    columns = node_columns(graph)
    chosen = np.concatenate([rows.row[layer.name] for layer in graph.layers]) >= 0
    order = np.flatnonzero(chosen)
    x, y, size = _places(graph, rows)
    share, entering, leaving = _shares(graph)
    own = [layer for layer in graph.layers if layer.ids is not None]
    values: Values = {
        "layers": _layers(graph, rows, figures),
        "feature": packed(np.array(columns["feature"], dtype=np.int64)[chosen], "i4"),
        "label": [columns["description"][place] for place in order],
        "x": packed(x, "f4"),
        "y": packed(y, "f4"),
        "size": packed(size, "f4"),
        "module": packed(np.array(columns["community"], dtype=np.int64)[chosen], "i4"),
        "share": packed(share[chosen], "f4"),
        "entering": packed(entering[chosen], "f4"),
        "leaving": packed(leaving[chosen], "f4"),
        "edges": {
            "source": packed(edges.source, "i4"),
            "target": packed(edges.target, "i4"),
            "weight": packed(edges.weight, "f4"),
            "interaction": packed(edges.interaction, "f4"),
            "kept": edges.kept,
            "left_out": edges.left_out,
        },
        "left_out": int((~chosen).sum()),
        "modules": _modules(graph),
    }
    if own:
        values["id"] = [columns["id"][place] for place in order]
    return values


def _rows(graph: InteractionGraph) -> Rows:
    """The features that are shown: all, or those with the strongest edges, then by importance."""
    sizes = [layer.size for layer in graph.layers]
    total = sum(sizes)
    shown = np.ones(total, dtype=bool)
    if total > MOST_FEATURES:
        strength = np.concatenate(
            [relative_importance(layer.importance, layer.isolated) - 2.0 for layer in graph.layers]
        )
        starts = dict(
            zip((layer.name for layer in graph.layers), np.cumsum([0, *sizes]), strict=False)
        )
        for (source, target), kept in ((pair, graph.kept_edges(pair)) for pair in graph.edges):
            for name, ends in ((source, kept.inputs), (target, kept.outputs)):
                np.maximum.at(strength, ends + starts[name], kept.weight)
        shown = np.zeros(total, dtype=bool)
        shown[np.argsort(-strength, kind="stable")[:MOST_FEATURES]] = True
    numbers = np.where(shown, np.cumsum(shown) - 1, -1)
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    row = {layer.name: part for layer, part in zip(graph.layers, parts, strict=True)}
    return Rows(row, int(shown.sum()))


def _edges(graph: InteractionGraph, rows: Rows) -> EdgeRows:
    kept, listed = [], []
    for pair, matrix in graph.edges.items():
        edges = graph.kept_edges(pair)
        source, target = rows.row[pair[0]], rows.row[pair[1]]
        kept.append((source[edges.inputs], target[edges.outputs], edges.weight, edges.interaction))
        if rows.count <= MOST_LISTED:
            i, j = _listed(graph, pair, edges.inputs, edges.outputs)
            listed.append((source[i], target[j], np.zeros(len(i)), matrix[j, i]))
    source, target, weight, interaction = _joined(kept)
    inside = (source >= 0) & (target >= 0)
    order = np.argsort(-weight[inside], kind="stable")[:MOST_EDGES]
    columns = [column[inside][order] for column in (source, target, weight, interaction)]
    beside = _joined(listed)
    start, end, weights, all_ = (
        np.concatenate(parts) for parts in zip(columns, beside, strict=True)
    )
    return EdgeRows(start, end, weights, all_, len(order), len(weight) - len(order))


def _joined(parts: Sequence[tuple[NDArray[Any], ...]]) -> list[NDArray[Any]]:
    empty = [np.empty(0, dtype=kind) for kind in (np.int64, np.int64, np.float64, np.float64)]
    return [np.concatenate(columns) for columns in zip(empty, *parts, strict=True)]


def _listed(
    graph: InteractionGraph, pair: tuple[str, str], inputs: IndexArray, outputs: IndexArray
) -> tuple[IndexArray, IndexArray]:
    """Inputs and outputs of edges that are among the strongest of a feature and not kept."""
    matrix = graph.edges[pair].copy()
    matrix[:, : graph.layer(pair[0]).isolated] = 0
    matrix[: graph.layer(pair[1]).isolated] = 0
    wanted = np.zeros(matrix.shape, dtype=bool)
    for axis in (0, 1):
        count = min(LISTED, matrix.shape[axis])
        top = np.argsort(-matrix, axis=axis, kind="stable")
        np.put_along_axis(wanted, np.take(top, range(count), axis=axis), values=True, axis=axis)
    wanted &= matrix > 0
    wanted[outputs, inputs] = False
    j, i = np.nonzero(wanted)
    return i, j


def _places(graph: InteractionGraph, rows: Rows) -> tuple[FloatArray, FloatArray, FloatArray]:
    """x, y from 0 at the bottom to 1, and diameter of each row."""
    kept = {pair: graph.kept_edges(pair) for pair in graph.edges}
    shown = {name: np.flatnonzero(row >= 0) for name, row in rows.row.items()}
    order = column_order(graph, kept, shown)
    joined = {layer.name: np.zeros(layer.size, dtype=bool) for layer in graph.layers}
    for (source, target), edges in kept.items():
        joined[source][edges.inputs] = True
        joined[target][edges.outputs] = True
    x, y, size = (np.zeros(rows.count) for _ in range(3))
    for place, layer in enumerate(graph.layers):
        features = order[layer.name]
        here = rows.row[layer.name][features]
        x[here] = place
        # Features without edges come last, and have the foot of the column.
        count = int(joined[layer.name][features].sum())
        foot = FOOT if count < len(features) else 0.0
        y[here[:count]] = 1 - (1 - foot) * (np.arange(count) + 0.5) / max(count, 1)
        lonely = len(features) - count
        y[here[count:]] = 0.75 * foot * (1 - (np.arange(lonely) + 0.5) / max(lonely, 1))
        scale = relative_importance(layer.importance, layer.isolated)[features]
        largest = float(np.clip(1.5 * ROOM / max(count, 1), SMALLEST + 1, LARGEST_DOT))
        size[here] = np.where(
            joined[layer.name][features], SMALLEST + (largest - SMALLEST) * scale, SMALLEST
        )
    return x, y, size


def _shares(graph: InteractionGraph) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Of each feature, its share of importance (−1: none), and all that enters and leaves it."""
    entering = {layer.name: np.zeros(layer.size) for layer in graph.layers}
    leaving = {layer.name: np.zeros(layer.size) for layer in graph.layers}
    for (source, target), matrix in graph.edges.items():
        first, second = graph.layer(source).isolated, graph.layer(target).isolated
        entering[target] += matrix[:, first:].sum(1)
        leaving[source] += matrix[second:].sum(0)
    shares = []
    for layer in graph.layers:
        importance = np.where(
            np.arange(layer.size) < layer.isolated, 0, layer.importance.clip(min=0)
        )
        share = importance / max(importance.sum(), 1e-300)
        share[: layer.isolated] = -1
        shares.append(share if layer.rotated else np.full(layer.size, -1.0))
    names = [layer.name for layer in graph.layers]
    return (
        np.concatenate(shares),
        np.concatenate([entering[name] for name in names]),
        np.concatenate([leaving[name] for name in names]),
    )


def _layers(graph: InteractionGraph, rows: Rows, figures: BasisFigures | None) -> list[LayerValues]:
    layers = []
    for layer in graph.layers:
        here = rows.row[layer.name]
        here = here[here >= 0]
        curve = figures.curves.nodes.get(layer.name, {}) if figures is not None else {}
        layers.append(
            LayerValues(
                name=layer.name,
                first=int(here.min(initial=rows.count)),
                size=len(here),
                all=layer.size,
                isolated=layer.isolated,
                rotated=layer.rotated,
                curve={str(number): score for number, score in curve.items()},
            )
        )
    return layers


def _modules(graph: InteractionGraph) -> list[Values]:
    if graph.partition is None:
        return []
    return [
        {
            "colour": hex_colour(module_colour(module.index)),
            "concept": module.concept,
            "share": module.concept_share,
            "size": module.size,
            "layers": dict(module.features),
            "within": module.within_concept,
        }
        for module in module_table(graph)
    ]


def _examples(run: Run, examples: Examples, basis: Values) -> Values:
    graph = graph_once(run, run.basis)
    layers = {}
    outputs = graph.layers[-1]
    # By name: files have them in another order than those that have just been found.
    for name, stored in sorted(examples.layers.items()):
        windows = stored.windows.numpy()
        most = np.abs(windows).max(axis=(1, 2), keepdims=True)
        shades = np.rint(127 * windows / np.maximum(most, 1e-30))
        values: Values = {
            "length": examples.lengths[name],
            "width": windows.shape[2],
            "samples": packed(stored.samples, "i4"),
            "positions": packed(stored.positions, "i4"),
            "values": packed(stored.values, "f4"),
            "starts": packed(stored.starts, "i4"),
            "shades": packed(shades, "i1"),
        }
        if stored.position_share is not None:
            values["position_share"] = packed(stored.position_share, "f4")
        if stored.means is not None:
            values["means"] = packed(stored.means.T, "f4")
        if stored.outputs is not None and stored.effects is not None:
            values["outputs"] = packed(stored.outputs, "i4")
            values["effects"] = packed(stored.effects, "f4")
            values["moved"] = stored.outputs.shape[1]
        layers[name] = values
    pictures = examples.pictures
    names = [label.text for label in outputs.labels] if outputs.labels is not None else []
    return {
        "pool": examples.pool,
        "kinds": list(KINDS),
        "numbers": packed(examples.numbers, "i4"),
        "texts": [list(text) for text in examples.texts],
        "strip": None if pictures is None else strip_of(pictures.numpy()),
        "layers": layers,
        "outputs": names or [f"{outputs.name}/{number}" for number in range(outputs.size)],
    }


def curves(run: Run) -> Values:
    """Curves by kind, place and basis: x and y."""
    kinds: dict[str, Values] = {SPECTRUM: {}, "features kept": {}, "edges kept": {}}
    for name in run.basis_names:
        graph, figures = graph_once(run, name), run.metrics.bases[name]
        ablation = run.ablation(name)
        for layer in graph.layers:
            spectrum = np.sort(layer.importance[layer.isolated :])[::-1]
            spectrum = spectrum[spectrum > 0]
            if layer.rotated and len(spectrum):
                ranks = list(range(1, len(spectrum) + 1))
                kinds[SPECTRUM].setdefault(layer.name, {})[name] = [ranks, spectrum.tolist()]
        nodes = figures.curves.nodes or ({} if ablation is None else ablation.nodes)
        for place, curve in nodes.items():
            points = sorted((number, score) for number, score in curve.items() if number > 0)
            kinds["features kept"].setdefault(place, {})[name] = _columns(points)
        if ablation is not None:
            for pair, found in ablation.edges.items():
                points = sorted((number, score) for number, score in found.score.items() if number)
                place = " → ".join(pair)
                kinds["edges kept"].setdefault(place, {})[name] = _columns(points)
    return {kind: places for kind, places in kinds.items() if places}


def _columns(points: list[tuple[int, float]]) -> list[list[float]]:
    return [[float(number) for number, _ in points], [score for _, score in points]]
