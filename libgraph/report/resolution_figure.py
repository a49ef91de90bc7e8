"""A figure of modules over resolutions: where they last, and where any γ gives others.

Above, the number of modules, with plateaus as bands; below, how far seeds agree, how alike the
partitions at neighbouring γ are, and the modularity at γ = 1. A partition to rely on lies in a
band, with seeds that agree. `metrics.json` has the numbers (`bases.<basis>.modules.resolutions`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from libgraph.modules.resolution import Sweep
from libgraph.report.style import (
    BAND,
    BLUE,
    CURVES,
    GREEN,
    INK,
    ORANGE,
    new_figure,
    save_figure,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_resolutions(sweep: Sweep, path: str | Path, *, title: str | None = None) -> None:
    """Draw a sweep to a PNG file; the same sweep always gives the same picture.

    Args:
        sweep: From :func:`libgraph.modules.resolution.sweep_resolutions`.
        path: Where to write.
        title: Heading of the picture.

    Raises:
        MissingExtra: If matplotlib is missing.
        UsageError: If writing fails.
    """
    with style(CURVES):
        figure = new_figure(7, 4.4)
        above, below = figure.subplots(2, 1, sharex=True)
        for axes in (above, below):
            for plateau in sweep.plateaus:
                axes.axvspan(plateau.lowest, plateau.highest, color=BAND, linewidth=0, zorder=0)
        _draw_counts(above, sweep)
        _draw_shares(below, sweep)
        if title:
            figure.suptitle(title, size=11, weight="bold", x=0.01, ha="left")
        save_figure(figure, path)


def _draw_counts(axes: Axes, sweep: Sweep) -> None:
    """The number of modules at every γ, and that of each plateau on its band."""
    from matplotlib.ticker import MaxNLocator

    counts = np.array([row.modules for row in sweep.rows])
    gammas = np.array([row.resolution for row in sweep.rows])
    axes.plot(gammas, counts, "o-", color=INK, markersize=3.5, linewidth=1)
    for plateau in sweep.plateaus:
        centre = float(np.sqrt(plateau.lowest * plateau.highest))
        number = f"{plateau.modules} module" + "s" * (plateau.modules != 1)
        axes.annotate(
            number, (centre, 0.98), xycoords=("data", "axes fraction"), ha="center", va="top",
            size=7.5, color=INK,
        )  # fmt: skip
    # Room above the points for the numbers on the bands.
    axes.set_ylim(0, 1.25 * max(int(counts.max()), 1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_ylabel("modules")


def _draw_shares(axes: Axes, sweep: Sweep) -> None:
    """Agreement, similarity and modularity, which are shares, at every γ."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    gammas = np.array([row.resolution for row in sweep.rows])
    # Similarity belongs to a step, and stands in its middle.
    steps = np.sqrt(gammas[1:] * gammas[:-1])
    lines = (
        (BLUE, gammas, [row.agreement for row in sweep.rows], "seeds agree"),
        (ORANGE, steps, [row.similarity for row in sweep.rows[:-1]], "like the next"),
        (GREEN, gammas, [row.modularity for row in sweep.rows], "modularity at γ = 1"),
    )
    for colour, x, y, label in lines:
        values = np.array(y, dtype=np.float64)
        axes.plot(x, values, "o-", label=label, markersize=3, linewidth=1, color=colour)
    axes.set_ylim(top=1.05)
    axes.set_ylabel("AMI, modularity")
    axes.set_xlabel("resolution γ")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, fontsize=7.5, loc="best")
