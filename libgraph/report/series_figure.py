"""A figure of several runs: what becomes of score, edges, modules and features from run to run.

Four rows over one axis: the test score; the edges that the score needs, and effective edges; the
number of modules; and shares from 0 to 1: modularity, weight within one concept, and how far
leading features overlap with those that the last run needs. What no run knows is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from libgraph.comparison.series import RunFigures, places
from libgraph.report.style import (
    BLUE,
    CURVES,
    GREEN,
    ORANGE,
    figure_kind,
    new_figure,
    save_figure,
    style,
)

MOST_NAMES = 12
"""Above so many names along the axis, some are left out."""


def draw_series(
    rows: Sequence[RunFigures],
    path: str | Path,
    *,
    concept: str = "concept",
    title: str | None = None,
) -> None:
    """Draw the figures of runs to a file; the same figures always give the same picture.

    Args:
        rows: one for each run, in their order.
        path: where to write.
        concept: what concepts are called.
        title: heading of the picture.

    Raises:
        MissingExtra: if matplotlib is missing.
        UsageError: if the name of the file does not end in .png, .svg or .pdf, or writing fails.
    """
    figure_kind(path)
    score = rows[-1].score_name
    panels: dict[str, dict[str, Callable[[RunFigures], float | None]]] = {
        # Another score is on no axis with this one.
        f"test {score}": {
            f"test {score}": lambda row: row.score if row.score_name == score else None
        },
        "edges": {
            "edges needed": lambda row: row.edges_needed,
            "effective edges": lambda row: row.effective_edges,
        },
        "modules": {"modules": lambda row: row.modules},
        "share": {
            "modularity": lambda row: row.modularity,
            f"weight within one {concept}": lambda row: row.within_concept,
            "overlap with the last run": lambda row: row.overlap_last,
        },
    }
    names = [row.name for row in rows]
    numbers = places(names)
    x = np.arange(len(rows)) if numbers is None else np.array(numbers)
    with style(CURVES):
        from matplotlib.ticker import (
            LogLocator,
            MaxNLocator,
            NullFormatter,
            NullLocator,
            StrMethodFormatter,
        )

        figure = new_figure(7, 6.6)
        shape = {"height_ratios": (2, 3, 2, 3)}
        columns = figure.subplots(len(panels), 1, sharex=True, gridspec_kw=shape)
        for axes, (label, lines) in zip(columns, panels.items(), strict=True):
            colours = (BLUE, ORANGE, GREEN)
            for colour, (name, value) in zip(colours, lines.items(), strict=False):
                y = np.array([value(row) for row in rows], dtype=np.float64)
                if not np.isnan(y).all():
                    axes.plot(
                        x, y, "o-", label=name, markersize=3.5, linewidth=1, color=colour,
                        clip_on=False,
                    )  # fmt: skip
            axes.set_ylabel(label)
            if len(lines) > 1 and axes.lines:
                axes.legend(frameon=False, fontsize=7.5, loc="best")
        _, edges, modules, shares = columns
        # From all edges to a few hundred: no linear axis shows both.
        edges.set_yscale("log")
        low, high = edges.get_ylim()
        # Within two decades powers of ten alone would leave one tick, or none; within one, so
        # would twice and five times those.
        if high < 10 * low:
            edges.yaxis.set_major_locator(MaxNLocator(nbins=5))
            edges.yaxis.set_minor_locator(NullLocator())
        elif high < 100 * low:
            edges.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        edges.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        edges.yaxis.set_minor_formatter(NullFormatter())
        modules.set_ylim(0, 1.1 * max(1, *(row.modules for row in rows)))
        modules.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        lowest = shares.get_ylim()[0]
        # Modularity may be negative; below 0 there is a margin alone, else.
        shares.set_ylim(lowest if lowest < -0.05 else 0, 1)
        if numbers is None:
            step = -(-len(names) // MOST_NAMES)
            shares.set_xticks(x[::step], names[::step], rotation=30, ha="right")
        else:
            shares.set_xlabel("run")
        if title:
            figure.suptitle(title, size=11, weight="bold", x=0.01, ha="left")
        save_figure(figure, path)
