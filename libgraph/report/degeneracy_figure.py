"""Figures of what does nothing: spectra of weights, N_eff over ε, distances between units.

Spectra have a panel a weight, the curve of the behavioural loss stands beside the number of
parameters, and matrices of distances are in the order of the linkage, in which groups are dark
blocks.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from libgraph.graph.arrays import FloatArray
from libgraph.report.style import CURVES, FAINT, INK, arrow_of, new_figure, save_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"inputs": "#2e6eb8", "gradients": "#e26f2c", "spectrum": "#2f915c", "volume": "#7a4fa3"}
GROUP = "#e26f2c"
MOST_PANELS = 30
"""Panels of one figure, the first ones."""

LEAST_WIDTH = 5.4
"""Inches of a figure of panels."""

LETTERS = 14
"""Letters of a title in an inch."""

FEW = 0.2
"""Share of the parameters below which those that matter are shown on a logarithmic axis."""

MOST_NUMBERS = 12
"""Units or heads whose distances are written out."""

FLOOR = 1e-17
"""Eigenvalues beside the largest one that are drawn."""


@dataclass(frozen=True)
class Spectra:
    """Eigenvalues on both sides of one weight, largest first, and their ranks."""

    name: str
    inputs: Sequence[float]
    input_rank: int
    gradients: Sequence[float]
    gradient_rank: int


@dataclass(frozen=True)
class Curve:
    """N_eff over ε with its errors; None where it is not known.

    Args:
        colour: `spectrum` or `volume`.
        label: in the legend.
        epsilons: ε.
        effective: N_eff(ε).
        errors: standard errors.
    """

    colour: str
    label: str
    epsilons: Sequence[float]
    effective: Sequence[float | None]
    errors: Sequence[float | None]


@dataclass(frozen=True)
class Distances:
    """Distances between every two units or heads of a section.

    Args:
        name: of the section.
        matrix: the distances.
        order: in which groups are not torn.
        groups: members of each, the largest first.
        dead: how many are dead; they come last in the order.
    """

    name: str
    matrix: Sequence[Sequence[float]]
    order: Sequence[int]
    groups: Sequence[Sequence[int]]
    dead: int


Panel = TypeVar("Panel")


def draw_spectra(spectra: Sequence[Spectra], path: Path, title: str) -> None:
    """Draw a PNG with a panel for each weight.

    Raises:
        MissingExtra: If matplotlib is missing.
        UsageError: If writing fails.
    """
    with style(CURVES):
        _draw_panels(spectra, _spectra, path, 2.3, title)


def draw_distances(sections: Sequence[Distances], path: Path, title: str) -> None:
    """Draw a PNG with a panel for each section.

    Raises:
        MissingExtra: if matplotlib is missing.
        UsageError: if writing fails.
    """
    with style(CURVES):
        _draw_panels(sections, _distances, path, 2.5, title)


def draw_effective(curves: Sequence[Curve], parameters: int, path: Path, title: str) -> None:
    """Draw a PNG of effective parameters over ε, beside how many there are.

    Where few of them matter the axis is logarithmic; what is not resolved is drawn hollow.

    Raises:
        MissingExtra: if matplotlib is missing.
        UsageError: if writing fails.
    """
    with style(CURVES):
        figure = new_figure(5.4, 3.6)
        figure.suptitle(title, fontsize=8)
        _effective(figure.add_subplot(), curves, parameters)
        save_figure(figure, path)


def _draw_panels(
    panels: Sequence[Panel],
    draw: Callable[[Axes, Panel], None],
    path: Path,
    height: float,
    title: str,
) -> None:
    panels = panels[:MOST_PANELS]
    columns = min(4, math.ceil(math.sqrt(len(panels))))
    rows = math.ceil(len(panels) / columns)
    # Few panels are larger: the title above them has to have room.
    grown = max(1.0, LEAST_WIDTH / (2.7 * columns))
    width = 2.7 * grown * columns
    lines = textwrap.wrap(title, int(LETTERS * width))
    figure = new_figure(width, height * grown * rows + 0.25 + 0.15 * len(lines))
    figure.suptitle("\n".join(lines), fontsize=8)
    for number, panel in enumerate(panels):
        draw(figure.add_subplot(rows, columns, number + 1), panel)
    save_figure(figure, path)


def _spectra(axes: Axes, weight: Spectra) -> None:
    rows, columns = len(weight.inputs), len(weight.gradients)
    for side, eigenvalues, rank in (
        ("inputs", weight.inputs, weight.input_rank),
        ("gradients", weight.gradients, weight.gradient_rank),
    ):
        values = np.array(eigenvalues)
        values = values / (values.max() or 1)
        shown = np.where(values > FLOOR, values, np.nan)
        axes.plot(np.arange(1, len(values) + 1), shown, ".-", ms=3, color=COLOURS[side], lw=1.2)
        axes.axvline(rank, color=COLOURS[side], lw=0.8, ls=":")
    # What is beyond the rank shows as room at the right.
    axes.set_xlim(0, 1.02 * max(rows, columns) + 0.5)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:.0e}")
    axes.tick_params(labelsize=6.5)
    axes.set_ylim(FLOOR, 3)
    axes.set_title(arrow_of(weight.name), fontsize=7.5, loc="left")
    _note(axes, 0.13, f"rank {weight.input_rank} of {rows} (inputs)", COLOURS["inputs"])
    label = f"rank {weight.gradient_rank} of {columns} (gradients)"
    _note(axes, 0.03, label, COLOURS["gradients"])


def _note(axes: Axes, height: float, text: str, colour: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    axes.text(0.03, height, text, color=colour, transform=axes.transAxes, fontsize=7, bbox=box)


def _effective(axes: Axes, curves: Sequence[Curve], parameters: int) -> None:
    most = 0.0
    for curve in curves:
        rows = [
            row
            for row in zip(curve.epsilons, curve.effective, curve.errors, strict=True)
            if row[1] is not None
        ]
        if not rows:
            continue
        epsilons, effective, errors = (np.array(column) for column in zip(*rows, strict=True))
        colour = COLOURS[curve.colour]
        known = errors <= np.maximum(effective, 1) / 2
        most = max(most, effective[known].max(initial=0))
        axes.plot(
            epsilons, np.where(known, effective, np.nan), "o-", color=colour, ms=3, lw=1.4,
            label=curve.label,
        )  # fmt: skip
        axes.fill_between(
            epsilons, effective - errors, effective + errors, where=known, color=colour,
            alpha=0.2, lw=0,
        )  # fmt: skip
        if not known.all():
            axes.plot(
                epsilons[~known], effective[~known], "o", color=colour, ms=3, mfc="white",
                label=f"{curve.label}, not resolved",
            )  # fmt: skip
    axes.axhline(parameters, color=FAINT, lw=0.8, ls=":")
    axes.text(0.02, parameters, f"{parameters} parameters", color=FAINT, va="bottom",
              fontsize=7.5, transform=axes.get_yaxis_transform())  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:.0e}")
    if most < FEW * parameters:
        # Beside all of them the few that matter would be a flat line.
        axes.set_yscale("log")
        axes.set_ylim(0.8, parameters * 2.5)
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(0, parameters * 1.12)
    axes.set_xlabel("ε, mean squared change of the outputs")
    axes.set_ylabel("effective parameters")
    axes.legend(frameon=False, fontsize=8)


def _distances(axes: Axes, section: Distances) -> None:
    distances = np.array(section.matrix)[np.ix_(section.order, section.order)]
    image = axes.imshow(distances, cmap="Purples_r", vmin=0, interpolation="nearest")
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.7)
    bar.ax.tick_params(labelsize=6)
    place = {member: number for number, member in enumerate(section.order)}
    for group in section.groups:
        first, size = min(place[member] for member in group) - 0.5, len(group)
        x, y = np.array([[0, 0, 1, 1, 0], [0, 1, 1, 0, 0]]) * size + first
        axes.plot(x, y, color=GROUP, lw=1)
    if len(distances) <= MOST_NUMBERS:
        _numbers(axes, distances, section.order)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.set_title(arrow_of(section.name), fontsize=7.5, loc="left")
    sizes = ", ".join(str(len(group)) for group in section.groups[:6])
    remarks = [f"groups of {sizes}" if sizes else "no groups"]
    if section.dead:
        remarks.append(f"the last {section.dead} dead")
    axes.set_xlabel("; ".join(remarks), fontsize=7)


def _numbers(axes: Axes, distances: FloatArray, order: Sequence[int]) -> None:
    """Which units they are, and the distances themselves, where there is room for them."""
    places = range(len(order))
    names = [str(member) for member in order]
    axes.set_xticks(places, names)
    axes.set_yticks(places, names)
    axes.tick_params(labelsize=6, length=0)
    dark = 0.4 * distances.max(initial=0)
    # Four characters each, so small that neighbours do not touch.
    size = min(8, 52 / max(len(order), 1))
    for (row, column), distance in np.ndenumerate(distances):
        colour = "white" if distance < dark else INK
        text = f"{distance:.2f}" if row != column else "0"
        axes.text(column, row, text, color=colour, fontsize=size, ha="center", va="center")
