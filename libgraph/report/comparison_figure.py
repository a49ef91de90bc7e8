"""A figure of bases, or of runs, side by side: edges needed, effective edges, curves of ablation.

Bars on top, by layer pair; below, the score over the number of features of each node layer, then
over the number of edges of each layer pair, with a dot at the smallest number that was found to
keep the score and a line at the score that counts as kept. `metrics.json` has all the numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from libgraph.comparison.rows import Column, tolerances
from libgraph.errors import UsageError
from libgraph.report.appearance import module_colour
from libgraph.report.comparison_panels import (
    MOST_UPRIGHT,
    WIDE,
    Bars,
    draw_bars,
    draw_curve,
    draw_levels,
)
from libgraph.report.style import (
    PANELS,
    arrow_of,
    figure_kind,
    hex_colour,
    new_figure,
    save_figure,
    style,
)
from libgraph.runs.metrics import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

FIXED = {"lib": 0, "pca": 1, "global": 2, "neuron": 8, "random": 4}
"""Place of a basis among the colours of modules, so that it looks the same in every figure."""

Kind = Literal["nodes", "edges"]
"""Of ablation: features are kept, or edges."""

KINDS: tuple[Kind, ...] = ("nodes", "edges")

ACROSS = 4
"""Curves beside each other."""

LINE = 110
"""Letters of a legend that fit into a line."""

MOST_PANELS = 12
"""Node layers, or layer pairs, with a panel of their own; of more, as many evenly spaced ones."""


def draw_comparison(
    columns: Sequence[Column], path: str | Path, *, title: str | None = None
) -> None:
    """Draw bases or runs side by side to a file; the same ones always give the same picture.

    Args:
        columns: what to compare, in order.
        path: where to write.
        title: heading of the picture.

    Raises:
        MissingExtra: if matplotlib is missing.
        UsageError: if the name of the file does not end in .png, .svg or .pdf, there is nothing to
            draw, or writing fails.
    """
    figure_kind(path)
    delta = next(iter(tolerances(columns)), None)
    bars = _bars(columns, delta)
    curves = {
        kind: _chosen(dict.fromkeys(place for column in columns for place in _curves(column, kind)))
        for kind in KINDS
    }
    pairs = max((len(places) for places, _ in bars.values()), default=0)
    across = len(bars) if pairs <= ACROSS else 1
    heights = [2.3 if pairs <= MOST_UPRIGHT else 2.9] * -(-len(bars) // across) if bars else []
    heights += [1.75 * -(-len(shown) // ACROSS) for shown, _ in curves.values() if shown]
    if not heights:
        raise UsageError("There is nothing to draw: analyse again, with ablations.")
    with style(PANELS):
        figure = new_figure(10, sum(heights) + 0.75)
        figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)  # type: ignore[union-attr, call-arg]
        parts = iter(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
        colours = _colours(columns)
        names = list(bars)
        for first in range(0, len(names), across):
            line = next(parts).subplots(1, across, squeeze=False)[0]
            for axes, name in zip(line, names[first : first + across], strict=True):
                draw_bars(axes, name, *bars[name], colours)
        for kind, (shown, total) in curves.items():
            if shown:
                _draw_curves(next(parts), kind, shown, total, columns, colours, delta)
        _legend(figure, columns, colours, title)
        save_figure(figure, path)


def _curves(column: Column, kind: Kind) -> Mapping[str, Curve]:
    """Curves of one kind of ablation, by node layer or layer pair."""
    curves = column.figures.curves
    return curves.nodes if kind == "nodes" else curves.edges


def _needed(column: Column, kind: Kind, place: str, delta: float | None) -> int | None:
    """How many features of a node layer, or edges of a layer pair, keep the score."""
    figures = column.figures
    required = figures.features_required if kind == "nodes" else figures.edges_required
    return None if delta is None else required.get(place, {}).get(delta)


def _bars(columns: Sequence[Column], delta: float | None) -> dict[str, Bars]:
    """What is drawn as bars, by title."""
    needed = [
        {
            pair: np.nan if delta is None else counts.get(delta, np.nan)
            for pair, counts in column.figures.edges_required.items()
        }
        for column in columns
    ]
    effective = [
        {
            pair: measures.participation_ratio if measures else np.nan
            for pair, measures in column.figures.sparsity.items()
        }
        for column in columns
    ]
    bars = {
        f"Edges needed, Δ {delta or 0:g}": _beside(needed),
        "Effective edges": _beside(effective),
    }
    return {title: (places, rows) for title, (places, rows) in bars.items() if places}


def _beside(columns: Sequence[Mapping[str, float | None]]) -> Bars:
    """All places that any column has, and the values of each column at them."""
    places = list(dict.fromkeys(place for by_place in columns for place in by_place))
    return places, [[by_place.get(place, np.nan) for place in places] for by_place in columns]


def _chosen(places: Iterable[str]) -> tuple[list[str], int]:
    """Those with a panel of their own, and how many there are."""
    names = list(places)
    steps = np.linspace(0, len(names) - 1, min(len(names), MOST_PANELS)).round().astype(int)
    return [names[step] for step in steps], len(names)


def _colours(columns: Sequence[Column]) -> list[str]:
    """One for each column: that of its basis, or the next one where runs share bases."""
    bases = [column.basis for column in columns]
    fixed = FIXED if len(set(bases)) == len(bases) else {}
    free = (place for place in count() if place not in fixed.values())
    places = [fixed[basis] if basis in fixed else next(free) for basis in bases]
    return [hex_colour(module_colour(place)) for place in places]


def _draw_curves(
    part: SubFigure,
    kind: Kind,
    shown: Sequence[str],
    total: int,
    columns: Sequence[Column],
    colours: Sequence[str],
    delta: float | None,
) -> None:
    """Panels of one kind of ablation, one a node layer or layer pair, on shared scales."""
    across = min(len(shown), ACROSS)
    grid = part.subplots(-(-len(shown) // across), across, squeeze=False, sharey=True).ravel()
    # Those below are wider, and show where curves coincide.
    widths = np.linspace(2.6, 1.0, len(columns)).tolist()
    for axes in grid[len(shown) :]:
        axes.axis("off")
    for axes, place in zip(grid, shown, strict=False):
        for column, colour, width in zip(columns, colours, widths, strict=True):
            curve = _curves(column, kind).get(place)
            if curve:
                draw_curve(axes, curve, _needed(column, kind, place, delta), colour, width)
        draw_levels(axes, columns, colours, delta)
        axes.set_title(arrow_of(place), size=7.5, pad=3)
    from matplotlib.ticker import NullFormatter

    scores = [
        score
        for column in columns
        for curve in _curves(column, kind).values()
        for score in curve.values()
    ]
    losses = all(column.metrics.score.better < 0 for column in columns)
    if losses and 0 < WIDE * min(scores) < max(scores):
        # Losses have no bound, and the largest would flatten all others.
        grid[0].set_yscale("log")
        grid[0].yaxis.set_major_formatter("{x:g}")
        grid[0].yaxis.set_minor_formatter(NullFormatter())
    what = {"nodes": "features", "edges": "edges"}[kind]
    some = f" at {len(shown)} of {total}" if len(shown) < total else ""
    part.supxlabel(f"{what} kept{some}", size=8)
    part.supylabel(f"test {columns[0].metrics.score.name}", size=8)


def _legend(
    figure: Figure, columns: Sequence[Column], colours: Sequence[str], title: str | None
) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(color=colour, label=column.heading)
        for column, colour in zip(columns, colours, strict=True)
    ]
    longest = max(len(column.heading) for column in columns) + 5
    beside = len(patches) * longest + len(title or "") < LINE
    across = len(patches) if beside else max(LINE // longest, 1)
    figure.legend(
        handles=patches,
        loc="outside upper right" if beside else "outside lower left",
        ncols=across,
        frameon=False,
    )
    if title:
        figure.suptitle(title, size=11, weight="bold", x=0.01, ha="left")
