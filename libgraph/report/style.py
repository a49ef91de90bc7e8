"""What all pictures share: the palette, how they look, how large they may be, how they are saved.

matplotlib is loaded when the first picture is drawn, without pyplot, and what a caller has set of
it neither shows in a picture nor changes.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from libgraph.errors import MissingExtra, UsageError, missing_extra
from libgraph.files.atomic import writing
from libgraph.report.fonts import FAMILY, draw_what_can_be, ends
from libgraph.visible import in_line, isolated

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = (
    (46, 110, 184), (226, 111, 44), (47, 145, 92), (201, 62, 92), (128, 93, 184), (217, 164, 32),
    (38, 158, 171), (214, 106, 170), (139, 98, 64), (122, 155, 46), (84, 96, 150), (237, 138, 122),
)  # fmt: skip
"""Red, green and blue, 0 to 255, of what is told apart by colour, in the order of use."""


def hex_colour(colour: tuple[int, int, int]) -> str:
    """A colour as matplotlib reads it, such as `#2e6eb8`."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


BLUE, ORANGE, GREEN = (hex_colour(colour) for colour in PALETTE[:3])
INK, FAINT, BAND = "#22252b", "#7b808a", "#ece9f4"

RESOLUTION, NOTEBOOK_RESOLUTION = 180, 90
"""Dots per inch of a file, and of what a notebook shows."""

MOST_DOTS = 2**16 - 1
"""Dots of a PNG picture in either direction, which is all that matplotlib can draw."""

FIGURES = ("png", "svg", "pdf")
"""Kinds of files that figures are written to."""

MOST_LETTERS = 60
"""Letters of a name in a picture at most."""

Settings = dict[Any, Any]
"""Settings of matplotlib by name; its versions know different ones."""

PLAIN: Settings = {
    # A fixed salt and no date make SVG files reproducible; dollar signs in names are no formulas.
    "svg.hashsalt": "libgraph",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "font.family": FAMILY,
    "text.parse_math": False,
}
"""How all pictures look."""

CURVES: Settings = {
    **PLAIN,
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
"""How figures of curves look."""

PANELS: Settings = {
    **CURVES,
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}
"""How figures of many small panels look."""


def style(settings: Settings = PLAIN) -> AbstractContextManager[None]:
    """Have pictures look like this inside a block, whatever the user has set.

    Raises:
        MissingExtra: If matplotlib is missing.
    """
    try:
        if "matplotlib" not in sys.modules:
            _load_matplotlib()
        import matplotlib.style
    except ImportError as error:
        raise MissingExtra(missing_extra("Pictures need matplotlib", "report")) from error
    except ValueError as error:
        raise MissingExtra(
            f"Pictures need matplotlib, which cannot read its settings ({error}): mend "
            "matplotlibrc."
        ) from error
    return matplotlib.style.context(["default", settings])


def _load_matplotlib() -> None:
    """Import it, whatever backend the environment asks for.

    Notebooks name theirs for all processes, where it need not be installed; the name is kept for
    whoever uses it later.
    """
    with _without("MPLBACKEND") as backend:
        import matplotlib
    if backend:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend


@contextmanager
def _without(variable: str) -> Iterator[str | None]:
    """The environment lacks a variable, whose value this is, meanwhile."""
    value = os.environ.pop(variable, None)
    try:
        yield value
    finally:
        if value is not None:
            os.environ[variable] = value


def arrow_of(place: str, between: str = " → ") -> str:
    """A layer pair, or a node layer, as pictures name it, from left to right in any script."""
    return between.join(isolated(ends(in_line(name), MOST_LETTERS)) for name in place.split("->"))


def figure_kind(path: str | Path) -> str:
    """What the name of a file says it is to hold, which can be asked before anything is computed.

    Raises:
        UsageError: If it is none of `FIGURES`.
    """
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in FIGURES:
        raise UsageError(f"'{path}' is no .png, .svg or .pdf: choose such a name for the figure.")
    return kind


def new_figure(
    width: float, height: float, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """An empty figure of so many inches, inside of :func:`style`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as its name says, one of `FIGURES`; the same bytes whenever it is drawn.

    Raises:
        UsageError: If the name says nothing of the kind, or the file cannot be written.
    """
    kind = figure_kind(path)
    nothing = {"svg": ["Date"], "pdf": ["CreationDate", "Producer", "Creator"], "png": ["Software"]}
    metadata: dict[str, None] = dict.fromkeys(nothing[kind])
    draw_what_can_be(figure, Path(path).name)
    with writing(Path(path)) as temporary, _silent():
        figure.savefig(temporary, format=kind, dpi=RESOLUTION, metadata=metadata)


def show_figure(figure: Figure, file: IO[bytes]) -> None:
    """Write a figure as PNG for a notebook."""
    draw_what_can_be(figure, "the picture")
    with _silent():
        figure.savefig(file, format="png", dpi=NOTEBOOK_RESOLUTION)


@contextmanager
def _silent() -> Iterator[None]:
    """What matplotlib says of fonts stays off the screen: it has been said in one sentence."""
    fonts = logging.getLogger("matplotlib.font_manager")
    level = fonts.level
    fonts.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            # Names may leave no room for what they name.
            warnings.filterwarnings("ignore", message="constrained_layout not applied")
            yield
    finally:
        fonts.setLevel(level)
