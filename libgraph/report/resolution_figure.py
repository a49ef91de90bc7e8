"""A figure of modules over resolutions: where they last, and where any γ gives others.

Above, the number of modules, with plateaus as bands; below, how far seeds agree, how alike the
partitions at neighbouring γ are, and the modularity at γ = 1. A partition to rely on lies in a
band, with seeds that agree. `metrics.json` has the numbers (`bases.<basis>.modules.resolutions`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from libgraph.errors import UsageError
from libgraph.files.atomic import writing
from libgraph.modules.resolution import Sweep
from libgraph.report.style import CURVES, INK, RESOLUTION

COLOURS = {"agreement": "#2e6eb8", "similarity": "#e26f2c", "modularity": "#2f915c"}


BAND = "#ece9f4"


def draw_resolutions(sweep: Sweep, path: str | Path, *, title: str | None = None) -> None:
    """Draw a sweep to a PNG file; the same sweep always gives the same picture.

    Args:
        sweep: From :func:`libgraph.resolution.sweep_resolutions`.
        path: Where to write.
        title: Heading of the picture.

    Raises:
        UsageError: If matplotlib is missing, or writing fails.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
    except ImportError as error:
        raise UsageError("Pictures need matplotlib: run pip install 'libgraph[report]'.") from error

    gammas = np.array([row.resolution for row in sweep.rows])
    with matplotlib.rc_context(CURVES):
        figure = Figure(figsize=(7, 4.4), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        above, below = figure.subplots(2, 1, sharex=True)
        counts = np.array([row.modules for row in sweep.rows])
        for axes in (above, below):
            for plateau in sweep.plateaus:
                axes.axvspan(plateau.lowest, plateau.highest, color=BAND, linewidth=0, zorder=0)
        above.plot(gammas, counts, "o-", color=INK, markersize=3.5, linewidth=1)
        for plateau in sweep.plateaus:
            centre = float(np.sqrt(plateau.lowest * plateau.highest))
            number = f"{plateau.modules} module" + "s" * (plateau.modules != 1)
            place = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "top"}
            above.annotate(number, (centre, 0.98), size=7.5, color=INK, **place)
        # Room above the points for the numbers on the bands.
        above.set_ylim(0, 1.25 * max(int(counts.max()), 1))
        above.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        above.set_ylabel("modules")
        # Similarity belongs to a step, and stands in its middle.
        steps = np.sqrt(gammas[1:] * gammas[:-1])
        lines = {
            "agreement": (gammas, [row.agreement for row in sweep.rows], "seeds agree"),
            "similarity": (
                steps, [row.similarity for row in sweep.rows[:-1]], "like the next"
            ),
            "modularity": (gammas, [row.modularity for row in sweep.rows], "modularity at γ = 1"),
        }  # fmt: skip
        for name, (x, y, label) in lines.items():
            style = {"markersize": 3, "linewidth": 1, "color": COLOURS[name]}
            below.plot(x, np.array(y, dtype=np.float64), "o-", label=label, **style)
        below.set_ylim(top=1.05)
        below.set_ylabel("AMI, modularity")
        below.set_xlabel("resolution γ")
        below.set_xscale("log")
        below.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        below.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        below.xaxis.set_minor_formatter(NullFormatter())
        below.legend(frameon=False, fontsize=7.5, loc="best")
        if title:
            figure.suptitle(title, size=11, weight="bold", x=0.01, ha="left")
        with writing(Path(path)) as temporary:
            metadata: dict[str, None] = {"Software": None}
            figure.savefig(temporary, format="png", dpi=RESOLUTION, metadata=metadata)
