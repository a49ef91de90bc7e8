"""A picture of an interaction graph: layers in columns, features as nodes, modules as colours.

Features that belong together stand at the same height in every column, in bands of one colour,
so that a modular network shows as parallel streams and everything between modules as grey
threads. Edges enter a node on its left and leave it on its right; width and opacity follow the
weight. Features without a kept edge are left out and counted in the header; of the others as many
are shown as a page has room for, with every kept edge between them, and the rest is counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from libgraph.errors import TooLarge, UsageError
from libgraph.graph.arrays import FloatArray, Pair
from libgraph.graph.features import FeatureLabel, LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph, KeptEdges, check_graph
from libgraph.modules.summary import module_table
from libgraph.report.appearance import curves, module_colour, relative_importance
from libgraph.report.fonts import breadth, cut, ends
from libgraph.report.graph_layout import (
    CHARACTER,
    MARGIN,
    NARROWEST,
    Layout,
    arrange,
    choose_features,
    left_out,
)
from libgraph.report.labels import concept_name, label_lines, short_label
from libgraph.report.style import (
    FAINT,
    INK,
    MOST_DOTS,
    NOTEBOOK_RESOLUTION,
    RESOLUTION,
    figure_kind,
    hex_colour,
    new_figure,
    save_figure,
    show_figure,
    style,
)
from libgraph.visible import in_line, isolated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


FONT = 6.6
"""Size of labels in points."""

LONGEST_NUMBER = 7
"""Characters of a feature's own id that there is room for."""


KEY = (
    "circle: importance in its node layer, over 4 decades · line: weight in its layer pair",
    "grey: in no module, or between modules · number: that of the feature in its node layer",
)
"""What sizes, widths, grey and numbers mean."""

ERROR_KEY = "error: what share of a node layer's interactions its dictionary's error has"

MOST_LETTERS = 90
"""Letters of a heading or name at most; a picture has no room for more."""

ABOUT = 40
"""Letters of what the legend says of a module."""

LEGEND_ENTRIES = 9
"""Modules in the legend at most."""


class Picture(bytes):
    """A PNG picture; a notebook shows it."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} bytes of PNG>"

    def _repr_png_(self) -> bytes:
        return bytes(self)


@overload
def draw(
    graph: InteractionGraph,
    path: None = None,
    *,
    title: str | None = None,
    concept: str = "",
    max_features: int | None = None,
) -> Picture: ...
@overload
def draw(
    graph: InteractionGraph,
    path: str | Path,
    *,
    title: str | None = None,
    concept: str = "",
    max_features: int | None = None,
) -> None: ...
def draw(
    graph: InteractionGraph,
    path: str | Path | None = None,
    *,
    title: str | None = None,
    concept: str = "",
    max_features: int | None = None,
) -> Picture | None:
    """Draw the graph, to a file or for a notebook; the same graph is always the same.

    Args:
        graph: The graph, with a partition if modules are to be coloured.
        path: Where to write; the suffix chooses the format, .png, .svg or .pdf. Without one the
            picture is returned.
        title: Heading of the picture.
        concept: What concepts are called in the legend, such as ``"frequency"``.
        max_features: Features shown per column at most, those with the most edge weight first; by
            default as many as a page has room for. An unrotated layer, such as logits, is a column
            of dots whatever its size.

    Returns:
        The bytes of a PNG file, which a notebook shows; None where they were written to `path`.

    Raises:
        MissingExtra: If matplotlib is missing.
        TooLarge: If the picture would be higher than a PNG file can be.
        UsageError: If the suffix is none of these, or writing fails.
    """
    check_graph(graph)
    kind = "png" if path is None else figure_kind(path)
    if max_features is not None and max_features < 1:
        raise UsageError(f"At most {max_features} features are none: use max_features=1 or more.")
    resolution = NOTEBOOK_RESOLUTION if path is None else RESOLUTION
    highest = MOST_DOTS / resolution if kind == "png" else math.inf
    with style():
        figure = _figure(graph, title, concept, max_features, highest)
        if path is not None:
            save_figure(figure, path)
            return None
        with BytesIO() as file:
            show_figure(figure, file)
            return Picture(file.getvalue())


def _figure(
    graph: InteractionGraph,
    title: str | None,
    concept: str,
    max_features: int | None,
    highest: float,
) -> Figure:
    """The picture, at most so many inches high."""
    kept = {pair: graph.kept_edges(pair) for pair in graph.edges}
    layout = arrange(graph, kept, choose_features(graph, kept, max_features))
    errors = any(layer.error is not None for layer in graph.layers)
    notes = [*KEY, *([ERROR_KEY] if errors else []), *left_out(kept, layout)]
    head, foot = (1.0 if title else 0.65), _legend_height(graph) + 0.17 * len(notes)
    height = layout.height + head + foot
    if height > highest:
        raise TooLarge(
            f"The picture would be {height:.0f} inches high, more than the {highest:.0f} that fit "
            "into a PNG file: show fewer features, by max_features=…."
        )
    figure = new_figure(layout.width, height, layout=None)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, layout.width), ylim=(-layout.height - foot, head), aspect="equal")
    axes.axis("off")
    _draw_bands(axes, layout)
    _draw_edges(axes, graph, kept, layout)
    _draw_headings(axes, graph, layout)
    for layer in graph.layers:
        _draw_column(axes, graph, layer.name, layout)
    if title:
        shown = cut(in_line(title), MOST_LETTERS)
        axes.text(MARGIN, head - 0.24, shown, size=13, weight="bold", color=INK, va="center")
    _draw_legend(axes, graph, concept, -layout.height - 0.22)
    for place, note in enumerate(reversed(notes)):
        y = 0.13 - layout.height - foot + 0.17 * place
        axes.text(MARGIN + 0.07, y, note, color=FAINT, size=6.5, va="center_baseline")
    return figure


def _draw_bands(axes: Axes, layout: Layout) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    for module, band in layout.bands.items():
        if module < 0:
            continue
        middle = (band.top[0] + band.bottom[0]) / 2
        # Along the tops from left to right, and back along the bottoms.
        x = np.stack([band.left, band.right], axis=1).ravel()
        top = np.repeat(np.maximum(band.top - middle, 0.012), 2) + 0.02
        points, codes = [(x[0], middle + top[0])], [Outline.MOVETO]
        for sign, order in ((1, range(1, len(x))), (-1, range(len(x) - 1, -1, -1))):
            before = order[0] - 1 if sign > 0 else order[0]
            for place in order:
                start, end = (middle + sign * top[k] for k in (before, place))
                third = (x[place] - x[before]) / 3
                points += [(x[before] + third, start), (x[place] - third, end), (x[place], end)]
                codes += [Outline.CURVE4] * 3
                before = place
        points.append(points[0])
        codes.append(Outline.CLOSEPOLY)
        axes.add_patch(
            PathPatch(
                Outline(points, codes),
                facecolor=_hex(module),
                alpha=0.07,
                linewidth=0,
                zorder=0,
            )
        )


def _draw_edges(
    axes: Axes, graph: InteractionGraph, kept: Mapping[Pair, KeptEdges], layout: Layout
) -> None:
    from matplotlib.collections import PathCollection

    # One row per edge: where it starts and ends, its module, its strength, how quiet it is.
    blocks = [np.empty((0, 7))]
    for (source, target), edges in kept.items():
        begin = _heights(graph, layout, source)[edges.inputs]
        finish = _heights(graph, layout, target)[edges.outputs]
        module = graph.membership(source)[edges.inputs]
        module = np.where(module == graph.membership(target)[edges.outputs], module, -1)
        # Edges to logits fan out from every feature: drawn at full weight they would be all one
        # sees, so they are the faintest.
        rotated = graph.layer(source).rotated and graph.layer(target).rotated
        ends = layout.right[source], begin, layout.left[target], finish
        columns = (*ends, module, edges.weight, 1.0 if rotated else 0.45)
        block = np.stack(np.broadcast_arrays(*columns), axis=1)
        block = block[~np.isnan(block).any(axis=1)]
        block[:, 5] /= block[:, 5].max(initial=0.0) or 1.0
        blocks.append(block)
    table = np.concatenate(blocks)
    table = table[np.argsort(table[:, 5] + (table[:, 4] >= 0), kind="stable")]
    if not len(table):
        axes.text(layout.width / 2, -layout.height / 2, "no edges to show", size=9, color=FAINT,
                  ha="center")  # fmt: skip
        return
    modules, strength, quiet = table[:, 4].astype(np.int64), table[:, 5], table[:, 6]
    palette = np.array([module_colour(module) for module in range(-1, modules.max() + 1)]) / 255
    palette[0] *= 0.8
    inside = modules >= 0
    alpha = np.where(inside, 0.16 + 0.74 * strength, quiet * (0.12 + 0.4 * strength))
    axes.add_collection(
        PathCollection(
            curves(table),
            facecolors="none",
            edgecolors=np.column_stack([palette[modules + 1], alpha]),
            linewidths=np.where(inside, 0.35 + 1.9 * strength, quiet * (0.3 + 0.8 * strength)),
            capstyle="round",
            zorder=1,
        )
    )


def _heights(graph: InteractionGraph, layout: Layout, name: str) -> FloatArray:
    """Height of every feature of a layer, shape ``(features,)``; NaN for those not shown."""
    heights = np.full(graph.layer(name).size, np.nan)
    heights[layout.shown[name]] = layout.y[name]
    return heights


def _draw_headings(axes: Axes, graph: InteractionGraph, layout: Layout) -> None:
    rooms = {name: max(layout.width / len(graph.layers), right - layout.left[name])
             for name, right in layout.right.items()}  # fmt: skip
    # What is centred near an edge of the picture must not run over it.
    centres = {name: (layout.left[name] + layout.right[name]) / 2 for name in rooms}
    rooms = {name: min(room, 2 * min(centres[name], layout.width - centres[name]))
             for name, room in rooms.items()}  # fmt: skip
    # Long names break at their last dot; then all headings shrink together.
    names = {name: shown if breadth(shown) * 0.092 < room else ".\n".join(shown.rsplit(".", 1))
             for name, room in rooms.items() for shown in [_heading(name)]}  # fmt: skip
    longest = {name: max(breadth(line) for line in names[name].split("\n")) for name in names}
    size = min([9.5, *(95 * rooms[name] / max(longest[name], 1) for name in names)])
    text: dict[str, Any] = {"ha": "center", "va": "baseline", "linespacing": 1.0}
    for layer in graph.layers:
        shown, total = len(layout.shown[layer.name]), layer.size
        count = f"{shown} of {total}" if shown < total else f"{total}"
        share = graph.error_share(layer.name)
        if share is not None:
            count += f" · error {share:.0%}"
        elif layout.right[layer.name] > layout.left[layer.name]:
            count += " features"
        x = (layout.left[layer.name] + layout.right[layer.name]) / 2
        axes.text(x, 0.29, names[layer.name], size=size, weight="bold", color=INK, **text)
        axes.text(x, 0.13, count, size=min(7, size), color=FAINT, **text)


def _heading(name: str) -> str:
    """The name of a node layer; of a very long one its ends, in which layers differ."""
    return ends(in_line(name), MOST_LETTERS // 2)


def _number(layer: LayerFeatures, feature: int) -> str:
    """What is behind the node layer in its id, if that is short: a feature at a position, say."""
    own = "" if layer.ids is None else layer.ids[feature].rpartition("/")[2]
    return own if 0 < len(own) <= LONGEST_NUMBER else f"{feature}"


def _draw_column(axes: Axes, graph: InteractionGraph, name: str, layout: Layout) -> None:
    from matplotlib.collections import EllipseCollection
    from matplotlib.patches import FancyBboxPatch

    layer, features, y = graph.layer(name), layout.shown[name], layout.y[name]
    left, right, row = layout.left[name], layout.right[name], layout.row
    labelled = right > left
    colours = [_hex(module) for module in graph.membership(name)[features].tolist()]
    diameter = np.full(len(features), 0.045)
    if layer.rotated:
        scale = relative_importance(layer.importance, layer.isolated)[features]
        diameter = row * (0.3 + 0.55 * scale)
    for feature, height, colour in zip(
        features.tolist() if labelled else [], y.tolist(), colours, strict=labelled
    ):
        box = FancyBboxPatch(
            (left, height - 0.43 * row), right - left, 0.86 * row,
            boxstyle=f"round,pad=0,rounding_size={0.43 * row}",
            facecolor=_tint(colour), edgecolor=colour, linewidth=0.4, zorder=2,
        )  # fmt: skip
        # As a patch it would have axes look for the limits of data, which are set.
        axes.add_artist(box)
        length = int((right - left - 0.45) / CHARACTER)
        label = layer.labels[feature] if layer.labels is not None else None
        lines, smaller = label_lines(label, length)
        text: dict[str, Any] = {"va": "center_baseline", "zorder": 4}
        offsets = [0.0] if len(lines) == 1 else [0.19 * row, -0.21 * row]
        for line, offset in zip(lines, offsets, strict=True):
            place = left + 0.2, height - 0.004 + offset
            axes.text(*place, line, color=INK, size=smaller * FONT, **text)
        number = _number(layer, feature)
        axes.text(right - 0.06, height - 0.004, number, color=FAINT, ha="right", size=FONT, **text)
    if layout.names and not layer.rotated and layer.labels is not None:
        for feature, height in zip(features.tolist(), y.tolist(), strict=True):
            name = cut(in_line(layer.labels[feature].text), int(layout.names / CHARACTER))
            axes.text(left + 0.07, height, name, color=INK, size=FONT, va="center_baseline")
    x = left + 0.09 if labelled else left
    circles = EllipseCollection(
        diameter, diameter, np.zeros(len(features)), units="xy",
        offsets=np.column_stack([np.full(len(features), x), y]), offset_transform=axes.transData,
        facecolors=colours, edgecolors="white", linewidths=0.3, zorder=3,
    )  # fmt: skip
    axes.add_collection(circles)


def _legend_height(graph: InteractionGraph) -> float:
    count = 0 if graph.partition is None else graph.partition.size
    rows = -(-min(count, LEGEND_ENTRIES) // 3) + (count > LEGEND_ENTRIES)
    return 0.25 + 0.2 * rows


def _draw_legend(axes: Axes, graph: InteractionGraph, concept: str, top: float) -> None:
    summaries = [] if graph.partition is None else module_table(graph)
    left, row = MARGIN + 0.12, 0.2
    text: dict[str, Any] = {"size": 7.5, "va": "center_baseline"}
    for place, summary in enumerate(summaries[:LEGEND_ENTRIES]):
        x, y = left + (NARROWEST - 0.7) / 3 * (place % 3), top - row * (place // 3)
        axes.plot([x], [y], "o", markersize=6, color=_hex(summary.index), markeredgewidth=0)
        axes.text(x + 0.12, y, f"module {summary.index}", color=INK, weight="bold", **text)
        about = f"{summary.size} features"
        if summary.concept is not None:
            ending = f" ({summary.concept_share:.0%}), {about}"
            kind = cut(in_line(concept), ABOUT // 2)
            room = max(ABOUT - len(ending) - breadth(kind), 8)
            shown = isolated(cut(short_label(FeatureLabel(summary.concept)), room))
            about = f"{concept_name(isolated(kind), shown).strip()}{ending}"
        axes.text(x + 0.85, y, about, color=FAINT, **text)
    rest = len(summaries) - LEGEND_ENTRIES
    if rest > 0:
        y = top - row * (LEGEND_ENTRIES // 3)
        axes.text(left - 0.05, y, f"and {rest} smaller", color=FAINT, **text)


def _hex(module: int) -> str:
    return hex_colour(module_colour(module))


def _tint(colour: str) -> tuple[float, float, float]:
    """A light opaque version, so that edges behind a node do not show through."""
    red, green, blue = (1 - 0.16 * (1 - int(colour[k : k + 2], 16) / 255) for k in (1, 3, 5))
    return red, green, blue
