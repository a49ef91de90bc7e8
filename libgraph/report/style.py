"""What all pictures share: colours, resolution, and how they are saved."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libgraph.errors import MissingExtra, missing_extra
from libgraph.files.atomic import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


RESOLUTION, NOTEBOOK_RESOLUTION = 180, 90


INK, FAINT = "#22252b", "#7b808a"


def style() -> AbstractContextManager[None]:
    """How pictures look, wherever they are drawn."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtra(missing_extra("Pictures need matplotlib", "report")) from error
    # A fixed salt and no date make SVG files reproducible; dollar signs in names are no formulas.
    settings: dict[Any, Any] = {
        "svg.hashsalt": "libgraph",
        "svg.fonttype": "none",
        "font.family": "DejaVu Sans",
        "text.parse_math": False,
    }
    return matplotlib.rc_context(settings)


def save_figure(figure: Figure, path: str | Path, kind: str) -> None:
    """Write a figure as `png` or `svg`, the same bytes whenever it is drawn."""
    metadata: dict[str, None] = {"Date": None} if kind == "svg" else {"Software": None}
    with writing(Path(path)) as temporary:
        figure.savefig(temporary, format=kind, dpi=RESOLUTION, metadata=metadata)


CURVES: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "text.parse_math": False,
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
"""How figures of curves look, in matplotlib's settings."""
