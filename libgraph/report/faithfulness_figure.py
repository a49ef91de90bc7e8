"""A figure of faithfulness: f over the share of edges that is kept, basis by basis.

Lines are the largest edges, pale ones beside them as many at random, a bar how far f goes where
random subsets of the edges dropped come back. Where layers were cut one at a time, panels below
show what that costs against all of them together. What no curve knows is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from libgraph.errors import UsageError
from libgraph.interventions.apart import Cut
from libgraph.report.appearance import module_colour
from libgraph.report.comparison_figure import FIXED
from libgraph.report.style import (
    CURVES,
    FAINT,
    figure_kind,
    hex_colour,
    new_figure,
    save_figure,
    style,
)
from libgraph.runs.faithfulness import Faithfulness, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RANGE = (-0.25, 1.5)
"""Of f, at most: far from the network it has no bounds, and would flatten everything."""


def draw_faithfulness(figures: Faithfulness, path: str | Path, *, title: str | None = None) -> None:
    """Draw curves of faithfulness to a file; the same ones always give the same picture.

    Args:
        figures: what to draw.
        path: where to write.
        title: heading of the picture.

    Raises:
        MissingExtra: if matplotlib is missing.
        UsageError: if the name of the file does not end in .png, .svg or .pdf, there is nothing to
            draw, or writing fails.
    """
    figure_kind(path)
    if all(np.isnan(curve.faithfulness).all() for curve in figures.curves.values()):
        raise UsageError("There is nothing to draw: without edges the score is the network's own.")
    colours = _colours(list(figures.curves))
    apart = any(curve.apart for curve in figures.curves.values())
    with style(CURVES):
        figure = new_figure(7, 6.6 if apart else 3.9)
        parts = figure.subfigures(2 if apart else 1, 1, squeeze=False)[:, 0]
        _draw_curves(parts[0].subplots(), figures, colours)
        if apart:
            below = parts[1].subplots(1, 2, sharey=True)
            for axes, kind in zip(below, ("edges", "features"), strict=True):
                for name, curve in figures.curves.items():
                    if curve.apart:
                        cuts = curve.apart.edges if kind == "edges" else curve.apart.features
                        _draw_cuts(axes, cuts, colours[name])
                axes.set_xlabel(f"{kind} kept, %")
            below[0].set_ylabel(f"change of {figures.score_name}")
            below[0].plot([], [], "-", color=FAINT, label="all together")
            below[0].plot([], [], ":", color=FAINT, label="one at a time, summed")
            below[0].legend(frameon=False, fontsize=7.5, loc="best")
        if title:
            figure.suptitle(title, size=11, weight="bold", x=0.01, ha="left")
        save_figure(figure, path)


def _colours(names: Sequence[str]) -> dict[str, str]:
    """That of each basis in every figure, and the next free one for others."""
    free = (place for place in range(len(names) + 16) if place not in FIXED.values())
    return {name: hex_colour(module_colour(FIXED.get(name, next(free)))) for name in names}


def _draw_curves(axes: Axes, figures: Faithfulness, colours: dict[str, str]) -> None:
    lowest, highest = 0.0, 1.0
    for name, curve in figures.curves.items():
        colour, x = colours[name], 100 * np.array(curve.shares)
        label = f"{name.upper()}: CPR {number(curve.cpr)}, CMD {number(curve.cmd)}"
        axes.plot(x, curve.faithfulness, "o-", markersize=3.5, linewidth=1.2, color=colour,
                  label=label)  # fmt: skip
        lowest = min(lowest, *curve.faithfulness)
        highest = max(highest, *curve.faithfulness)
        if curve.random:
            mean = np.mean(curve.random_faithfulness, axis=0)
            axes.plot(x, mean, "--", linewidth=0.8, color=colour, alpha=0.6)
            lowest, highest = min(lowest, *mean), max(highest, *mean)
        if curve.restored:
            more = curve.restored.with_more
            axes.plot([100 * curve.restored.share] * 2, [min(more), max(more)], color=colour,
                      linewidth=3, alpha=0.35, solid_capstyle="butt")  # fmt: skip
            lowest, highest = min(lowest, *more), max(highest, *more)
    for level in (0, 1):
        axes.axhline(level, color=FAINT, linewidth=0.6, zorder=0)
    axes.plot([], [], "--", linewidth=0.8, color=FAINT, label="as many at random")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(max(lowest, RANGE[0]) - 0.05, min(highest, RANGE[1]) + 0.05)
    axes.set_xlabel("edges of all layer pairs kept, %")
    axes.set_ylabel("faithfulness f")
    axes.legend(frameon=False, fontsize=7.5, loc="best")


def _draw_cuts(axes: Axes, cuts: Sequence[Cut], colour: str) -> None:
    x = [100 * cut.share for cut in cuts]
    axes.plot(x, [cut.lost_together for cut in cuts], "-", linewidth=1.2, color=colour)
    axes.plot(x, [cut.lost_alone for cut in cuts], ":", linewidth=1.2, color=colour)
    axes.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
