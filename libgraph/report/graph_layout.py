"""Where the picture of an interaction graph puts things: columns, lanes of modules, heights.

Layers are columns. A module has the same height in every column, so that its edges run level;
modules that share no column share a lane. Within a module, the order of features keeps crossings
few. A page is as wide as labels need, up to a limit, and shows as many features as it has room for.
All lengths are in inches, with the top of the first lane at height 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from libgraph.graph.arrays import FloatArray, IndexArray, Pair
from libgraph.graph.interaction_graph import InteractionGraph, KeptEdges
from libgraph.report.appearance import column_order

NARROWEST, WIDEST, MARGIN = 10.0, 36.0, 0.3
"""Widths of a page, and what is left free of it at the sides; wider ones are for deep graphs."""

ROW, NARROWEST_ROW, TALLEST = 0.145, 0.05, 11.0
"""Heights of a feature, and of all of them together."""

PILL, NARROWEST_PILL = 1.38, 0.75
"""Widths of a feature with its label."""

GAP, NARROWEST_GAP = 0.45, 0.27
"""Between columns of a wide page: with labels, and of dots alone."""

BAND_GAP = 0.9
"""Between lanes, in rows."""

MOST_FEATURES, FEWEST_FEATURES = 60, 8
"""Features of a column, where the page decides."""

NAMED_OUTPUTS, NAME_ROW, WIDEST_NAME = 40, 0.09, 1.4
"""Outputs are named where there are no more, each has that height, and the names that width."""

CHARACTER = 0.047
"""How wide a letter of a label is."""


class Band(NamedTuple):
    """Where a module is: for every column from its first to its last, the ends of its features.

    Where it has none in a column, top and bottom meet.
    """

    left: FloatArray
    right: FloatArray
    top: FloatArray
    bottom: FloatArray


@dataclass(frozen=True)
class Layout:
    """Where things stand, in inches: shown features by layer from top to bottom, and heights.

    A node reaches from ``left`` to ``right``, which are equal where nodes have no room for text;
    ``names`` is the room for names of outputs beside the last column.
    """

    shown: Mapping[str, IndexArray]
    left: Mapping[str, float]
    right: Mapping[str, float]
    y: Mapping[str, FloatArray]
    bands: Mapping[int, Band]
    row: float
    width: float
    height: float
    names: float


def choose_features(
    graph: InteractionGraph, kept: Mapping[Pair, KeptEdges], max_features: int | None
) -> dict[str, IndexArray]:
    """The features to show: with kept edges, at most ``max_features`` of a rotated layer.

    None: as many as fit on a page, but not fewer than ``FEWEST_FEATURES``.
    """
    strength = {layer.name: np.zeros(layer.size) for layer in graph.layers}
    for (source, target), edges in kept.items():
        np.add.at(strength[source], edges.inputs, edges.weight)
        np.add.at(strength[target], edges.outputs, edges.weight)
    ranked = {}
    for layer in graph.layers:
        most = np.argsort(-strength[layer.name], kind="stable")
        ranked[layer.name] = most[strength[layer.name][most] > 0]

    def shown(count: int) -> dict[str, IndexArray]:
        return {
            layer.name: np.sort(ranked[layer.name][: count if layer.rotated else None])
            for layer in graph.layers
        }

    if max_features is not None:
        return shown(max_features)
    for count in range(MOST_FEATURES, FEWEST_FEATURES, -1):
        _, rows = _lanes(_modules(graph, shown(count)))
        if _rows(rows) * ROW <= TALLEST:
            return shown(count)
    return shown(FEWEST_FEATURES)


def arrange(
    graph: InteractionGraph, kept: Mapping[Pair, KeptEdges], shown: dict[str, IndexArray]
) -> Layout:
    """Place the shown features; see :class:`Layout`."""
    order = column_order(graph, kept, shown)
    names = [layer.name for layer in graph.layers]
    modules = _modules(graph, order)
    lanes, rows = _lanes(modules)
    room = _room_for_names(graph, order)
    width, left, right = _columns(graph, room)
    row = ROW
    if all(left[name] == right[name] for name in names):
        row = float(np.clip(TALLEST / (_rows(rows) + 1), NARROWEST_ROW, ROW))

    y = {name: np.zeros(len(order[name])) for name in names}
    bands, top = {}, 0.0
    rotated = [layer.name for layer in graph.layers if layer.rotated]
    for lane, count in zip(lanes, rows, strict=True):
        middle = top - count / 2 * row
        for module in lane:
            present = [i for i, name in enumerate(rotated) if (modules[name] == module).any()]
            span = rotated[present[0] : present[-1] + 1]
            halves = np.zeros(len(span))
            for place, name in enumerate(span):
                members = np.flatnonzero(modules[name] == module)
                y[name][members] = middle - _centred(len(members)) * row
                halves[place] = len(members) / 2 * row
            bands[module] = Band(
                np.array([left[name] - 0.09 for name in span]),
                np.array([right[name] + 0.09 for name in span]),
                middle + halves,
                middle - halves,
            )
        top -= (count + BAND_GAP) * row
    height = max(-top - BAND_GAP * row, 0.6)
    for layer in graph.layers:
        if not layer.rotated:
            count = len(y[layer.name])
            step = min(ROW if room else 0.08, height / max(count, 1))
            y[layer.name] = -height / 2 - _centred(count) * step
            room = room if step >= NAME_ROW else 0.0
    return Layout(order, left, right, y, bands, row, width, height, room)


def left_out(kept: Mapping[Pair, KeptEdges], layout: Layout) -> list[str]:
    """How many features with kept edges, and how many edges, are not in the picture; if any."""
    features: dict[str, set[int]] = {}
    shown = {
        name: np.isin(np.arange(_largest(kept, name)), layout.shown[name]) for name in layout.shown
    }
    edges = drawn = 0
    for (source, target), pair in kept.items():
        features.setdefault(source, set()).update(pair.inputs.tolist())
        features.setdefault(target, set()).update(pair.outputs.tolist())
        edges += len(pair.inputs)
        drawn += int((shown[source][pair.inputs] & shown[target][pair.outputs]).sum())
    total = sum(map(len, features.values()))
    missing = total - sum(map(len, layout.shown.values()))
    if not missing:
        return []
    return [
        f"not drawn: {missing:,} of {total:,} features with kept edges, and {edges - drawn:,} of "
        f"{edges:,} kept edges; max_features=… draws others"
    ]


def _largest(kept: Mapping[Pair, KeptEdges], name: str) -> int:
    """One more than the largest number of a feature of a layer that has kept edges."""
    ends = [pair.inputs for (source, _), pair in kept.items() if source == name]
    ends += [pair.outputs for (_, target), pair in kept.items() if target == name]
    return 1 + max((int(end.max(initial=-1)) for end in ends), default=-1)


def _modules(graph: InteractionGraph, shown: Mapping[str, IndexArray]) -> dict[str, IndexArray]:
    """Modules of the shown features, of rotated layers."""
    return {
        layer.name: graph.membership(layer.name)[shown[layer.name]]
        for layer in graph.layers
        if layer.rotated
    }


def _lanes(modules: Mapping[str, IndexArray]) -> tuple[list[list[int]], list[int]]:
    """Lanes from top to bottom, and the rows of each."""
    lanes = share_lanes(list(modules.values()))
    fullest: dict[int, int] = {}
    for column in modules.values():
        for module, count in zip(*np.unique(column, return_counts=True), strict=True):
            fullest[int(module)] = max(fullest.get(int(module), 0), int(count))
    return lanes, [max(fullest[module] for module in lane) for lane in lanes]


def _rows(rows: list[int]) -> float:
    """Rows of all lanes, with the gaps between them."""
    return sum(rows) + BAND_GAP * max(len(rows) - 1, 0)


def _room_for_names(graph: InteractionGraph, shown: Mapping[str, IndexArray]) -> float:
    """Width of the names of outputs, where these have names and there are few; otherwise 0."""
    last = graph.layers[-1] if graph.layers else None
    if last is None or last.rotated or last.labels is None or not len(shown[last.name]):
        return 0.0
    if len(shown[last.name]) > NAMED_OUTPUTS:
        return 0.0
    longest = max(len(last.labels[feature].text) for feature in shown[last.name].tolist())
    return min(WIDEST_NAME, longest * CHARACTER + 0.1)


def _columns(
    graph: InteractionGraph, room: float
) -> tuple[float, dict[str, float], dict[str, float]]:
    """Width of the page, and left and right end of each layer's nodes.

    These are wide enough for labels, if there is room; `room` is left beside the last column.
    """
    names = [layer.name for layer in graph.layers]
    rotated, gaps = sum(layer.rotated for layer in graph.layers), max(len(names) - 1, 1)
    sides = 2 * (MARGIN + 0.2) + room
    with_labels = sides + rotated * NARROWEST_PILL + gaps * GAP
    needed = with_labels if with_labels <= WIDEST else sides + gaps * NARROWEST_GAP
    width = float(np.clip(needed, NARROWEST, WIDEST))
    inner = width - sides
    pill = min(PILL, max(0.6 * inner, inner - gaps * GAP) / max(rotated, 1))
    pill = pill if pill >= NARROWEST_PILL - 1e-9 else 0.0
    widths = np.array([pill if layer.rotated else 0.0 for layer in graph.layers])
    gap = (inner - widths.sum()) / gaps
    left = MARGIN + 0.2 + np.cumsum(widths) - widths + gap * np.arange(len(names))
    if len(names) == 1:
        left += gap / 2
    right = left + widths
    return (
        width,
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
