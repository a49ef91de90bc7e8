"""Where the picture of an interaction graph puts things: columns, lanes of modules, heights.

Layers are columns. A module has the same height in every column, so that its edges run level;
modules that share no column share a lane. Within a module, the order of features keeps crossings
few. All lengths are in inches, with the top of the first lane at height 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from libgraph.graph.arrays import FloatArray, IndexArray, Pair
from libgraph.graph.interaction_graph import InteractionGraph, KeptEdges
from libgraph.report.appearance import column_order

WIDTH, MARGIN = 10.0, 0.3
ROW, NARROWEST_ROW, TALLEST = 0.145, 0.05, 11.0
PILL, NARROWEST_PILL = 1.38, 0.75
BAND_GAP = 0.9


@dataclass(frozen=True)
class Layout:
    """Where things stand, in inches: shown features by layer from top to bottom, and heights.

    A node reaches from ``left`` to ``right``, which are equal where nodes have no room for text.
    A band is ``(left, right, top, bottom)``.
    """

    shown: Mapping[str, IndexArray]
    left: Mapping[str, float]
    right: Mapping[str, float]
    y: Mapping[str, FloatArray]
    bands: Mapping[int, tuple[float, float, float, float]]
    row: float
    height: float


def choose_features(
    graph: InteractionGraph, kept: Mapping[Pair, KeptEdges], max_features: int
) -> dict[str, IndexArray]:
    """The features to show: with kept edges, at most ``max_features`` of a rotated layer."""
    strength = {layer.name: np.zeros(layer.size) for layer in graph.layers}
    for (source, target), edges in kept.items():
        np.add.at(strength[source], edges.inputs, edges.weight)
        np.add.at(strength[target], edges.outputs, edges.weight)
    shown = {}
    for layer in graph.layers:
        most = np.argsort(-strength[layer.name], kind="stable")
        most = most[strength[layer.name][most] > 0]
        shown[layer.name] = np.sort(most[:max_features] if layer.rotated else most)
    return shown


def arrange(
    graph: InteractionGraph, kept: Mapping[Pair, KeptEdges], shown: dict[str, IndexArray]
) -> Layout:
    """Place the shown features; see :class:`Layout`."""
    order = column_order(graph, kept, shown)
    names = [layer.name for layer in graph.layers]
    left, right = _columns(graph)
    modules = {
        layer.name: graph.membership(layer.name)[order[layer.name]]
        for layer in graph.layers
        if layer.rotated
    }
    lanes = share_lanes([modules.get(name, np.empty(0, dtype=np.int64)) for name in names])
    fullest = {
        m: max(int((c == m).sum()) for c in modules.values()) for lane in lanes for m in lane
    }
    rows = [max(fullest[module] for module in lane) for lane in lanes]
    row = ROW
    if all(left[name] == right[name] for name in names):
        row = float(np.clip(TALLEST / (sum(rows) + BAND_GAP * len(rows) + 1), NARROWEST_ROW, ROW))

    y = {name: np.zeros(len(order[name])) for name in names}
    bands, top = {}, 0.0
    for lane, count in zip(lanes, rows, strict=True):
        for module in lane:
            columns = [name for name in modules if (modules[name] == module).any()]
            for name in columns:
                members = np.flatnonzero(modules[name] == module)
                y[name][members] = top - (count / 2 + _centred(len(members))) * row
            ends = left[columns[0]] - 0.14, right[columns[-1]] + 0.14
            bands[module] = (*ends, top, top - count * row)
        top -= (count + BAND_GAP) * row
    height = max(-top - BAND_GAP * row, 0.6)
    for name in names:
        if name not in modules:
            step = min(0.08, height / max(len(y[name]), 1))
            y[name] = -height / 2 - _centred(len(y[name])) * step
    return Layout(order, left, right, y, bands, row, height)


def _columns(graph: InteractionGraph) -> tuple[dict[str, float], dict[str, float]]:
    """Left and right end of each layer's nodes: wide enough for labels if there is room."""
    names = [layer.name for layer in graph.layers]
    inner = WIDTH - 2 * (MARGIN + 0.2)
    pill = min(PILL, 0.6 * inner / max(sum(layer.rotated for layer in graph.layers), 1))
    pill = pill if pill >= NARROWEST_PILL else 0.0
    widths = np.array([pill if layer.rotated else 0.0 for layer in graph.layers])
    gap = (inner - widths.sum()) / max(len(names) - 1, 1)
    left = MARGIN + 0.2 + np.cumsum(widths) - widths + gap * np.arange(len(names))
    if len(names) == 1:
        left += gap / 2
    right = left + widths
    return (
        dict(zip(names, left.tolist(), strict=True)),
        dict(zip(names, right.tolist(), strict=True)),
    )


def share_lanes(columns: list[IndexArray]) -> list[list[int]]:
    """Share out modules to lanes from top to bottom, so that no two of a lane share a column.

    In a deep network most modules span few layers: those that do not overlap stand side by side.
    Features outside modules, -1, have the last lane to themselves.
    """
    spans: dict[int, tuple[int, int]] = {}
    for index, column in enumerate(columns):
        for module in np.unique(column).tolist():
            spans[module] = (spans.get(module, (index, index))[0], index)
    lanes: list[list[int]] = []
    for module in sorted(spans.keys() - {-1}):
        first, last = spans[module]
        for lane in lanes:
            if all(last < spans[other][0] or spans[other][1] < first for other in lane):
                lane.append(module)
                break
        else:
            lanes.append([module])
    return [*lanes, [-1]] if -1 in spans else lanes


def _centred(count: int) -> FloatArray:
    return np.arange(count, dtype=np.float64) - (count - 1) / 2
