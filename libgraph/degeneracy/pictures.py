"""What is drawn of `degeneracy.json`: spectra, N_eff over ε, distances between units and heads."""

from __future__ import annotations

from pathlib import Path

from libgraph.degeneracy.figures import DegeneracyFigures, HeadFigures, UnitFigures
from libgraph.report.degeneracy_figure import (
    Curve,
    Distances,
    Spectra,
    draw_distances,
    draw_effective,
    draw_spectra,
)

SPECTRA = "Eigenvalues of each weight's inputs and gradients, beside the largest; dotted: rank"
UNITS = "Distance between gates of every two units (0: they act as one); outlined: groups"
HEADS = "Distance between patterns of every two heads (0: they act as one); outlined: groups"


def draw_figures(figures: DegeneracyFigures, directory: Path) -> None:
    """Draw all that there are numbers for; the same numbers always give the same pictures.

    Raises:
        MissingExtra: if matplotlib is missing.
        UsageError: if writing fails.
    """
    spectra = [
        Spectra(
            name,
            weight.input_spectrum,
            weight.input_rank,
            weight.gradient_spectrum,
            weight.gradient_rank,
        )
        for name, weight in figures.weights.items()
    ]
    draw_spectra(spectra, directory / "spectra.png", SPECTRA)
    draw_effective(_curves(figures), figures.totals.parameters, directory / "effective.png")
    units = [
        _distances(name, section, len(section.dead))
        for name, section in figures.units.items()
        if isinstance(section, UnitFigures) and section.distances
    ]
    heads = [_distances(name, section, 0) for name, section in figures.heads.items()]
    for panels, name, title in ((units, "units", UNITS), (heads, "heads", HEADS)):
        if panels:
            draw_distances(panels, directory / f"{name}.png", title)


def _curves(figures: DegeneracyFigures) -> list[Curve]:
    behaviour, volume = figures.behaviour, figures.volume
    curves = [
        Curve(
            "spectrum",
            "eigenvalues above ε",
            behaviour.epsilons,
            behaviour.effective,
            behaviour.errors,
        )
    ]
    if volume is not None:
        label = "growth of the volume below ε"
        curves.append(Curve("volume", label, volume.epsilons, volume.effective, volume.errors))
    return curves


def _distances(name: str, section: UnitFigures | HeadFigures, dead: int) -> Distances:
    return Distances(name, section.distances or (), section.order, section.groups, dead)
