"""A picture of modules through the depth: modules in rows, node layers in columns.

A bar says how much of a node layer's importance a module holds there, a line between two bars how
much of the weight of a layer pair runs from the one module to the other. It stays readable where
the picture of features does not: for dozens of node layers and of modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from libgraph.errors import UsageError
from libgraph.graph.arrays import FloatArray
from libgraph.graph.interaction_graph import InteractionGraph, check_graph
from libgraph.modules.summary import ModuleSummary, module_table
from libgraph.report.appearance import curves, module_colour
from libgraph.report.fonts import breadth, cut, ends
from libgraph.report.graph_picture import Picture
from libgraph.report.labels import concept_name
from libgraph.report.style import (
    FAINT,
    INK,
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

ROW, STEPS, LEFT, RIGHT = 0.17, (0.17, 1.1), 2.75, 0.35
"""Height of a row, least and largest distance of columns, and margins, in inches."""

MOST_ROWS = 70
"""Modules with a row of their own; the rest share one."""

LEAST_FLOW = 0.01
"""Share of a layer pair's weight below which no line is drawn."""

LETTERS, ABOUT = 26, 36
"""Of the name of a node layer, and of what is said of a module."""

LETTER, TITLE_LETTER = 0.062, 0.115
"""How wide one of a name is, and one of the title."""


@dataclass(frozen=True)
class Depth:
    """What modules hold, node layer by node layer; m modules, the last of them "no module".

    Args:
        layers: Names of the rotated node layers.
        held: Share of each layer's importance, isolated features left out, ``(layers, m)``.
        flows: For every two neighbours the share of their weight from module to module,
            ``(layers − 1, m, m)``; zeros where there is none.
        modules: How many there are, "no module" left out.
    """

    layers: tuple[str, ...]
    held: FloatArray
    flows: FloatArray
    modules: int


def module_depth(graph: InteractionGraph) -> Depth:
    """What each module of a graph holds of its node layers, and what flows between modules.

    Raises:
        UsageError: If the graph has no partition.
    """
    if graph.partition is None:
        raise UsageError(
            "This graph has no modules yet: attach find_communities(graph) by with_partition."
        )
    count = graph.partition.size + 1
    layers = [layer for layer in graph.layers if layer.rotated]
    held = np.zeros((len(layers), count))
    for place, layer in enumerate(layers):
        importance = np.where(np.arange(layer.size) < layer.isolated, 0, layer.importance)
        total = np.bincount(
            graph.membership(layer.name) % count, weights=importance.clip(min=0), minlength=count
        )
        held[place] = total / max(total.sum(), 1e-300)
    order = {layer.name: place for place, layer in enumerate(layers)}
    flows = np.zeros((max(len(layers) - 1, 0), count, count))
    for (source, target), weights in graph.weights().items():
        if source not in order or order.get(target) != order[source] + 1 or not weights.any():
            continue
        inputs, outputs = (graph.membership(name) % count for name in (source, target))
        by_input = np.zeros((len(outputs), count))
        np.add.at(by_input.T, inputs, weights.T)
        np.add.at(flows[order[source]].T, outputs, by_input)
        flows[order[source]] /= weights.sum()
    return Depth(tuple(layer.name for layer in layers), held, flows, count - 1)


@overload
def draw_modules(
    graph: InteractionGraph, path: None = None, *, title: str | None = None, concept: str = ""
) -> Picture: ...
@overload
def draw_modules(
    graph: InteractionGraph, path: str | Path, *, title: str | None = None, concept: str = ""
) -> None: ...
def draw_modules(
    graph: InteractionGraph,
    path: str | Path | None = None,
    *,
    title: str | None = None,
    concept: str = "",
) -> Picture | None:
    """Draw the modules of a graph through the depth, to a file or for a notebook.

    Args:
        graph: The graph, with a partition.
        path: Where to write: .png, .svg or .pdf. Without one the picture is returned.
        title: Heading of the picture.
        concept: What concepts are called, such as ``"frequency"``.

    Returns:
        The bytes of a PNG file, which a notebook shows; None where they were written to `path`.

    Raises:
        MissingExtra: If matplotlib is missing.
        UsageError: If the graph has no modules, the suffix is none of these, or writing fails.
    """
    check_graph(graph)
    if path is not None:
        figure_kind(path)
    depth = module_depth(graph)
    with style():
        figure = _figure(depth, module_table(graph), title, concept)
        if path is not None:
            save_figure(figure, path)
            return None
        with BytesIO() as file:
            show_figure(figure, file)
            return Picture(file.getvalue())


def _figure(
    depth: Depth, modules: Sequence[ModuleSummary], title: str | None, concept: str
) -> Figure:
    depth, names = _few_rows(depth, modules, concept)
    count, rows = len(depth.layers), len(names)
    step = float(np.clip(7.0 / max(count - 1, 1), *STEPS))
    longest = max((breadth(ends(in_line(name), LETTERS)) for name in depth.layers), default=0)
    upright = LETTER * longest > 0.9 * step
    head = (0.42 if title else 0.1) + (0.1 + LETTER * longest if upright else 0.3)
    foot = 0.8
    width = max(LEFT + step * max(count - 1, 0) + RIGHT + 0.5 * step, 6.0)
    height = head + ROW * max(rows, 1) + foot
    figure = new_figure(width, height, layout=None)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, width), ylim=(head - height, head), aspect="equal")
    axes.axis("off")
    x: FloatArray = (LEFT + step * (np.arange(count) + 0.25)).astype(np.float64)
    y: FloatArray = (-ROW * (np.arange(rows) + 0.5)).astype(np.float64)
    _draw_rows(axes, names, y, width)
    least = _draw_flows(axes, depth, x, y, 0.4 * step)
    _draw_bars(axes, depth, x, y, 0.4 * step)
    for place, name in enumerate(depth.layers):
        shown = ends(in_line(name), LETTERS)
        turned = {"rotation": 90, "ha": "center"} if upright else {"ha": "center"}
        axes.text(x[place], 0.08, shown, size=6.5, color=INK, va="bottom", **turned)
    if title:
        shown = cut(in_line(title), int((width - 0.4) / TITLE_LETTER))
        axes.text(0.2, head - 0.2, shown, size=12, weight="bold", color=INK, va="center")
    notes = [
        "bar: share of the node layer's importance that the module holds, height by its root",
        "line: share of the layer pair's weight, grey between modules and among those in one row",
        f"lines below {LEAST_FLOW:.0%} of their layer pair's weight are left out: {least:.0%} of "
        "all weight",
    ]
    for place, note in enumerate(notes):
        axes.text(0.2, head - height + 0.5 - 0.17 * place, note, size=6.2, color=FAINT)
    return figure


def _few_rows(
    depth: Depth, modules: Sequence[ModuleSummary], concept: str
) -> tuple[Depth, list[tuple[str, str]]]:
    """At most so many rows, the smallest modules together in one; rows without anything left out.

    Returns:
        The same with fewer modules, and what stands before each row: its name, and what is in it.
    """
    names = []
    for module in modules[:MOST_ROWS]:
        about = f"{module.size} features"
        if module.concept is not None:
            ending = f" ({module.concept_share:.0%}), {about}"
            kind = cut(in_line(concept), ABOUT // 2)
            room = max(ABOUT - len(ending) - breadth(kind), 8)
            shown = isolated(cut(in_line(module.concept), room))
            about = f"{concept_name(isolated(kind), shown).strip()}{ending}"
        names.append((f"module {module.index}", about))
    rest = len(modules) - MOST_ROWS
    held, flows = depth.held, depth.flows
    if rest > 0:
        names.append((f"{rest} smaller", f"{sum(m.size for m in modules[MOST_ROWS:])} features"))
        groups = np.concatenate([np.arange(MOST_ROWS), np.full(rest, MOST_ROWS), [MOST_ROWS + 1]])
        first = np.flatnonzero(np.r_[True, np.diff(groups) > 0])
        held = np.add.reduceat(held, first, axis=1)
        flows = np.add.reduceat(np.add.reduceat(flows, first, axis=1), first, axis=2)
    if held[:, -1].any():
        names.append(("no module", "features without an edge"))
    else:
        held, flows = held[:, :-1], flows[:, :-1, :-1]
    return Depth(depth.layers, held, flows, depth.modules), names


def _draw_rows(axes: Axes, names: Sequence[tuple[str, str]], y: FloatArray, width: float) -> None:
    for (name, about), height in zip(names, y.tolist(), strict=True):
        axes.plot([LEFT - 0.1, width - 0.15], [height] * 2, color="0.93", linewidth=0.5, zorder=0)
        axes.text(0.2, height, name, size=6.8, weight="bold", color=INK, va="center_baseline")
        axes.text(0.95, height, about, size=6.8, color=FAINT, va="center_baseline")


def _draw_bars(axes: Axes, depth: Depth, x: FloatArray, y: FloatArray, half: float) -> None:
    from matplotlib.collections import PolyCollection

    places, modules = np.nonzero(depth.held > 0)
    # Of the least, a line is left to see.
    height = np.maximum(0.46 * ROW * np.sqrt(depth.held[places, modules]), 0.006)
    left, right, middle = x[places] - half * 0.7, x[places] + half * 0.7, y[modules]
    corners = [(left, middle - height), (right, middle - height), (right, middle + height),
               (left, middle + height)]  # fmt: skip
    axes.add_collection(
        PolyCollection(
            list(np.stack([np.stack(corner, axis=1) for corner in corners], axis=1)),
            facecolors=[_colour(depth, module) for module in modules.tolist()],
            edgecolors="none",
            zorder=3,
        )
    )


def _draw_flows(axes: Axes, depth: Depth, x: FloatArray, y: FloatArray, half: float) -> float:
    """Lines between bars; the share of all weight that is in none of them."""
    from matplotlib.collections import PathCollection

    drawn = np.argwhere(depth.flows >= LEAST_FLOW)
    drawn = drawn[np.argsort(depth.flows[tuple(drawn.T)], kind="stable")]
    places, sources, targets = drawn.T
    share = depth.flows[places, sources, targets]
    start, end = x[places] + half * 0.7, x[places + 1] - half * 0.7
    same = sources == targets
    colours = [
        _colour(depth, source) if inside else hex_colour(module_colour(-1))
        for source, inside in zip(sources.tolist(), same.tolist(), strict=True)
    ]
    axes.add_collection(
        PathCollection(
            curves(np.column_stack([start, y[sources], end, y[targets]])),
            facecolors="none",
            edgecolors=colours,
            linewidths=0.3 + 7 * share,
            alpha=0.7,
            zorder=2,
        )
    )
    everything = depth.flows.sum()
    return float(1 - share.sum() / everything) if everything > 0 else 0.0


def _colour(depth: Depth, row: int) -> str:
    """The colour of a row; grey for "no module", and for modules that share one."""
    modules = min(depth.modules, MOST_ROWS)
    return hex_colour(module_colour(row if row < modules else -1))
