"""Figures of what does nothing: spectra of weights, N_eff over ε, distances between units.

`spectra.png` has a panel a weight, `effective.png` the curve of the behavioural loss beside the
number of parameters, `units.png` and `heads.png` matrices of distances in the order of the linkage,
in which groups are dark blocks. All numbers are in `degeneracy.json`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libgraph.errors import MissingExtra
from libgraph.files.atomic import writing
from libgraph.report.style import CURVES, FAINT, RESOLUTION

COLOURS = {"inputs": "#2e6eb8", "gradients": "#e26f2c", "spectrum": "#2f915c", "volume": "#7a4fa3"}
GROUP = "#e26f2c"
MOST_PANELS = 30
"""Panels of one figure; weights beyond are in `degeneracy.json` alone."""

FLOOR = 1e-17
"""Eigenvalues beside the largest one that are drawn."""

SPECTRA = "Eigenvalues of each weight's inputs and gradients, beside the largest; dotted: rank"
DISTANCES = {
    "units": "Distance between gates of every two units (0: they act as one); outlined: groups",
    "heads": "Distance between patterns of every two heads (0: they act as one); outlined: groups",
}


def draw_degeneracy(found: Mapping[str, Any], directory: Path) -> None:
    """Draw all figures that there are numbers for; the same numbers always give the same pictures.

    Raises:
        MissingExtra: if matplotlib is missing.
        UsageError: if writing fails.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtra(
            "Pictures need matplotlib: run pip install 'libgraph[report]'."
        ) from error

    units = {name: each for name, each in found["units"].items() if each.get("distances")}
    heads = found["heads"]
    with matplotlib.rc_context(CURVES):
        weights = dict(list(found["weights"].items())[:MOST_PANELS])
        _panels(weights, _spectra, directory / "spectra.png", 2.3, SPECTRA)
        _save_one(lambda axes: _effective(axes, found), directory / "effective.png")
        for name, several in (("units", units), ("heads", heads)):
            if several:
                some = dict(list(several.items())[:MOST_PANELS])
                _panels(some, _distances, directory / f"{name}.png", 2.5, DISTANCES[name])


def _panels(
    things: Mapping[str, Any],
    draw: Callable[[Any, str, Any], None],
    path: Path,
    height: float,
    title: str,
) -> None:
    columns = min(4, max(2, math.ceil(math.sqrt(len(things)))))
    rows = math.ceil(len(things) / columns)
    figure = _figure(2.7 * columns, height * rows + 0.4)
    figure.suptitle(title, fontsize=8)
    for number, (name, each) in enumerate(things.items()):
        draw(figure.add_subplot(rows, columns, number + 1), name, each)
    _save(figure, path)


def _spectra(axes: Any, name: str, weight: Mapping[str, Any]) -> None:
    for side, rank in (("inputs", "input_rank"), ("gradients", "gradient_rank")):
        values = np.array(weight[f"{side.removesuffix('s')}_spectrum"])
        values = values / (values.max() or 1)
        shown = np.where(values > FLOOR, values, np.nan)
        axes.plot(np.arange(1, len(values) + 1), shown, ".-", ms=3, color=COLOURS[side], lw=1.2)
        axes.axvline(weight[rank], color=COLOURS[side], lw=0.8, ls=":")
    # What is beyond the rank shows as room at the right.
    axes.set_xlim(0, 1.02 * max(weight["rows"], weight["columns"]) + 0.5)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:.0e}")
    axes.tick_params(labelsize=6.5)
    axes.set_ylim(FLOOR, 3)
    axes.set_title(name.replace("->", " → "), fontsize=7.5, loc="left")
    label = f"rank {weight['input_rank']} of {weight['rows']} (inputs)"
    _note(axes, 0.13, label, COLOURS["inputs"])
    label = f"rank {weight['gradient_rank']} of {weight['columns']} (gradients)"
    _note(axes, 0.03, label, COLOURS["gradients"])


def _note(axes: Any, height: float, text: str, colour: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    axes.text(0.03, height, text, color=colour, transform=axes.transAxes, fontsize=7, bbox=box)


def _effective(axes: Any, found: Mapping[str, Any]) -> None:
    curves = [("behaviour", "spectrum", "eigenvalues above ε")]
    if "volume" in found:
        curves.append(("volume", "volume", "growth of the volume below ε"))
    for part, colour, label in curves:
        each = found[part]
        known = [
            row
            for row in zip(each["epsilons"], each["effective"], each["errors"], strict=True)
            if row[1] is not None
        ]
        if not known:
            continue
        epsilons, effective, errors = (np.array(column) for column in zip(*known, strict=True))
        axes.plot(epsilons, effective, "o-", color=COLOURS[colour], ms=3, lw=1.4, label=label)
        axes.fill_between(
            epsilons, effective - errors, effective + errors, color=COLOURS[colour], alpha=0.2, lw=0
        )
    total = found["totals"]["parameters"]
    axes.axhline(total, color=FAINT, lw=0.8, ls=":")
    axes.text(0.02, total, f"{total} parameters", color=FAINT, va="bottom", fontsize=7.5,
              transform=axes.get_yaxis_transform())  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:.0e}")
    axes.set_ylim(0, total * 1.12)
    axes.set_xlabel("ε, mean squared change of the outputs")
    axes.set_ylabel("effective parameters")
    axes.legend(frameon=False, fontsize=8)


def _distances(axes: Any, name: str, section: Mapping[str, Any]) -> None:
    order: Sequence[int] = section["order"]
    distances = np.array(section["distances"])[np.ix_(order, order)]
    image = axes.imshow(distances, cmap="Purples_r", vmin=0, interpolation="nearest")
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.7)
    bar.ax.tick_params(labelsize=6)
    place = {member: number for number, member in enumerate(order)}
    for group in section["groups"]:
        first, size = min(place[member] for member in group) - 0.5, len(group)
        x, y = np.array([[0, 0, 1, 1, 0], [0, 1, 1, 0, 0]]) * size + first
        axes.plot(x, y, color=GROUP, lw=1)
    axes.set_title(name.replace("->", " → "), fontsize=7.5, loc="left")
    sizes = ", ".join(str(len(group)) for group in section["groups"][:6])
    said = [f"groups of {sizes}" if sizes else "no groups"]
    if section.get("dead"):
        said.append(f"the last {len(section['dead'])} dead")
    axes.set_xlabel("; ".join(said), fontsize=7)
    axes.set_xticks([])
    axes.set_yticks([])


def _save_one(draw: Callable[[Any], None], path: Path) -> None:
    figure = _figure(5.4, 3.4)
    draw(figure.add_subplot())
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    with writing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=RESOLUTION, metadata={"Software": None})
