"""Single panels of the figure that compares bases or runs: bars, and curves of ablation.

Bars stand in groups, one a layer pair, with one bar for each column. A curve is the score over the
number of features, or of edges, that are kept. Scales are logarithmic where numbers lie far apart,
and start at one edge, as few as there can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from libgraph.comparison.rows import Column
from libgraph.report.style import FAINT, INK, arrow_of
from libgraph.runs.metrics import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 20.0
"""Ratio of the largest to the smallest value from which on a scale is logarithmic."""

MOST_NUMBERS = 24
"""Bars with their number above them."""

MOST_UPRIGHT = 8
"""Layer pairs whose names stand below the bars in two lines; those of more are turned."""

Bars = tuple[list[str], list[list[float | None]]]
"""Layer pairs, and for each column the value of each, NaN where it has none, None where no number
of edges was enough."""


def draw_bars(
    axes: Axes,
    title: str,
    places: list[str],
    values: list[list[float | None]],
    colours: Sequence[str],
) -> None:
    """Bars in groups: a group a layer pair, a bar a column, `more` where no number was enough."""
    numbers = [value for row in values for value in row if value is not None and value == value]
    low, high = min(numbers, default=0.0), max(numbers, default=0.0)
    logarithmic = low > 0 and high > WIDE * low
    width = 0.84 / len(values)
    few = len(places) * len(values) <= MOST_NUMBERS
    centres = np.arange(len(places))
    for index, (row, colour) in enumerate(zip(values, colours, strict=True)):
        x = centres + (index + 0.5) * width - 0.42
        axes.bar(x, [np.nan if v is None else v for v in row], 0.9 * width, color=colour)
        for place, value in zip(x.tolist(), row, strict=True):
            if value is None:
                _write(axes, "more", place, low if logarithmic else 0.0, turned=True)
            elif few and value == value:
                number = f"{value:.3g}" if value < 100 else f"{value:.0f}"
                _write(axes, number, place, value, turned=False)
    if logarithmic:
        axes.set_yscale("log")
        # One edge is as few as there can be.
        axes.set_ylim(min(1.0, low), high * (high / min(1.0, low)) ** 0.08)
        axes.yaxis.set_major_formatter(short_number)
    many = len(places) > MOST_UPRIGHT
    labels = [arrow_of(place, " → " if many else " →\n") for place in places]
    turned: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(centres, labels, **(turned if many else {}))
    axes.tick_params(axis="x", length=0, labelcolor=INK)
    axes.margins(x=0.01, y=0.08)
    axes.set_title(title, weight="bold")


def draw_curve(axes: Axes, curve: Curve, needed: int | None, colour: str, width: float) -> None:
    """Score over the number kept, with a dot at the smallest number that keeps the score."""
    x, y = np.array(sorted(curve.items()), dtype=np.float64).T
    axes.plot(x, y, color=colour, linewidth=width)
    if needed is not None:
        axes.plot(needed, np.interp(needed, x, y), "o", color=colour, markersize=3.2)
    # Linear from 0 to 1, as nothing kept has its place too.
    axes.set_xscale("symlog", linthresh=1, linscale=0.35)
    axes.xaxis.set_major_formatter(short_number)


def draw_levels(
    axes: Axes, columns: Sequence[Column], colours: Sequence[str], delta: float | None
) -> None:
    """Lines at the score less Δ: one line where all columns share it, else one for each."""
    if delta is None:
        return
    scores = [column.metrics.score for column in columns]
    levels = [score.test - delta * score.better for score in scores]
    shared = len(set(levels)) == 1
    for level, colour in zip(levels[: 1 if shared else None], colours, strict=False):
        line: dict[str, Any] = {"linestyle": (0, (3, 2)), "linewidth": 0.7, "zorder": 0}
        axes.axhline(level, color=FAINT if shared else colour, **line)


def short_number(value: float, _: float) -> str:
    """A number below a tick: 1, 10, …, 10k, 100k, 1M."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e4 else f"{value:g}"


def _write(axes: Axes, text: str, x: float, y: float, *, turned: bool) -> None:
    axes.annotate(
        text, (x, y), (0, 1.5), textcoords="offset points", rotation=90 if turned else 0,
        ha="center", va="bottom", size=5.5, color=FAINT,
    )  # fmt: skip
