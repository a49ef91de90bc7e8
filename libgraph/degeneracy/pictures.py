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

SPECTRA = "{}: eigenvalues of each weight's inputs and gradients, beside the largest; dotted: rank"
UNITS = "{}: distance between gates of every two units (0: they act as one); outlined: groups"
EFFECTIVE = "{}: how many parameters matter at a tolerance"
HEADS = "{}: distance between patterns of every two heads (0: they act as one); outlined: groups"


def draw_figures(figures: DegeneracyFigures, directory: Path) -> None:
    """Draw all that there are numbers for; the same numbers always give the same pictures.

    Raises:
        MissingExtra: if matplotlib is missing.
        UsageError: if writing fails.
    """
    spectra = [
        Spectra(
            place,
            weight.input_spectrum,
            weight.input_rank,
            weight.gradient_spectrum,
            weight.gradient_rank,
        )
        for place, weight in figures.weights.items()
    ]
    name = figures.backend
    draw_spectra(spectra, directory / "spectra.png", SPECTRA.format(name))
    title = EFFECTIVE.format(name)
    curves, parameters = _curves(figures), figures.totals.parameters
    draw_effective(curves, parameters, directory / "effective.png", title)
    units = [
        _distances(place, section, len(section.dead))
        for place, section in figures.units.items()
        if isinstance(section, UnitFigures) and section.distances
    ]
    heads = [_distances(place, section, 0) for place, section in figures.heads.items()]
    for panels, file, title in ((units, "units.png", UNITS), (heads, "heads.png", HEADS)):
        if panels:
            draw_distances(panels, directory / file, title.format(name))


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
