"""What `libgraph degeneracy` prints: weights, units, heads, effective parameters, modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from libgraph.runs.tables import plain_table, print_table
from libgraph.screen import PlainTable, tell

if TYPE_CHECKING:
    from libgraph.degeneracy.figures import (
        AdditivityFigures,
        BehaviourFigures,
        DegeneracyFigures,
        HeadFigures,
        UnitFigures,
        VolumeFigures,
        WeightFigures,
    )

EVERY = 4
"""Of how many tolerances ε one is printed."""


def print_degeneracy(console: Console, figures: DegeneracyFigures) -> None:
    """Print every part, and what it comes to.

    Args:
        console: where to.
        figures: what `degeneracy.json` holds.
    """
    from libgraph.degeneracy.figures import AdditivityFigures, Skipped, UnitFigures

    totals = figures.totals
    tell(
        console,
        (figures.backend, "bold"),
        f": {totals.free} of {totals.parameters} directions in the weights are free "
        f"({totals.free / totals.parameters:.1%}), and {totals.extra} more by synchronised units "
        "and heads",
    )
    console.print()
    title = "Weights: ranks of inputs and gradients, and what moves of 0.1 % do to outputs"
    print_table(console, title, _weights(figures.weights))
    alike = f"that act as one, within {figures.options['synchrony']:g}"
    units = {n: s for n, s in figures.units.items() if isinstance(s, UnitFigures)}
    if units:
        print_table(console, f"Units {alike}", _units(units))
    if figures.heads:
        print_table(console, f"Heads {alike}", _heads(figures.heads))
    for name, section in figures.units.items():
        if isinstance(section, Skipped):
            tell(console, f"{name}: {section.skipped}")
    table = _effective(figures.behaviour, figures.volume)
    print_table(console, _effective_title(figures.behaviour), table)
    modules = figures.modules
    if isinstance(modules, AdditivityFigures):
        print_table(console, _modules_title(modules), _modules(modules))
    else:
        tell(console, f"Modules, {modules.basis.upper()}: {modules.skipped}")


def _weights(weights: Mapping[str, WeightFigures]) -> PlainTable:
    table = plain_table("weight", "shape", "inputs", "grads", "free", "", "free move", "other")
    for name, weight in weights.items():
        table.add_row(
            name.replace("->", " → "),
            f"{weight.rows} × {weight.columns}",
            str(weight.input_rank),
            str(weight.gradient_rank),
            str(weight.free),
            f"{weight.free / weight.parameters:.0%}",
            "-" if weight.moved_free is None else f"{weight.moved_free:.0e}",
            f"{weight.moved_used:.0e}",
        )
    return table


def _units(sections: Mapping[str, UnitFigures]) -> PlainTable:
    columns = ["units", "dead", "const.", "groups (of)", "exact", "extra", "swap loss", "score"]
    table = plain_table("section", *columns)
    for name, section in sections.items():
        counts = (section.units, len(section.dead), len(section.constant))
        table.add_row(name.replace("->", " → "), *map(str, counts), *_groups(section))
    return table


def _heads(sections: Mapping[str, HeadFigures]) -> PlainTable:
    columns = ["heads", "groups (of)", "exact", "extra", "swap loss", "score"]
    table = plain_table("section", *columns)
    for name, section in sections.items():
        table.add_row(name.replace("->", " → "), str(section.heads), *_groups(section))
    return table


def _groups(section: UnitFigures | HeadFigures) -> list[str]:
    """Groups, exact ones, free directions that they have, and what swapping costs."""
    # Where it is not known what of the extra is free already, all of it is an upper bound.
    unknown = section.new is None and section.extra
    return [
        _sizes(section.groups),
        _sizes(section.exact_groups),
        f"≤ {section.extra}" if unknown else str(section.new or 0),
        "-" if section.swap_share is None else f"{section.swap_share:.2%}",
        "-" if section.swap_score is None else f"{section.swap_score:.4f}",
    ]


def _sizes(groups: Sequence[Sequence[int]]) -> str:
    """How many groups, and of how many: from the smallest to the largest."""
    sizes = sorted({len(group) for group in groups})
    if not sizes:
        return "-"
    return f"{len(groups)} ({'–'.join(str(size) for size in dict.fromkeys((sizes[0], sizes[-1])))})"


def _effective_title(behaviour: BehaviourFigures) -> str:
    how = "all eigenvalues" if behaviour.exact else "stochastic Lanczos"
    rank = f"; rank {behaviour.rank}" if behaviour.exact else ""
    return (
        f"Effective parameters of {behaviour.parameters}, on {behaviour.samples} samples "
        f"({how}{rank})"
    )


def _effective(behaviour: BehaviourFigures, volume: VolumeFigures | None) -> PlainTable:
    table = plain_table("ε", "N_eff", *(["by volume"] if volume else []))
    sampled = {}
    if volume:
        rows = zip(volume.epsilons, volume.effective, volume.errors, strict=True)
        sampled = {f"{epsilon:.2g}": _with_error(n, error) for epsilon, n, error in rows}
    exact = zip(behaviour.epsilons, behaviour.effective, behaviour.errors, strict=True)
    for number, (epsilon, effective, error) in enumerate(exact):
        shown = f"{epsilon:.2g}"
        if number % EVERY == 0 or shown in sampled:
            cells = [_with_error(effective, error)]
            table.add_row(shown, *cells, *([sampled.get(shown, "")] if volume else []))
    return table


def _with_error(value: float | None, error: float | None) -> str:
    if value is None or error is None:
        return "-"
    if error > max(value, 1) / 2:
        return "not resolved"
    return f"{value:.0f}" if error == 0 else f"{value:.1f} ± {error:.1f}"


def _modules_title(modules: AdditivityFigures) -> str:
    return f"tr H/(H + ε) by module, {modules.basis.upper()}: do effective parameters add up?"


def _modules(modules: AdditivityFigures) -> PlainTable:
    table = plain_table("ε", "together", "sum of modules", "of random modules", "interacting")
    rows = zip(
        modules.epsilons,
        modules.together.effective,
        modules.sum,
        modules.random_mean,
        modules.random_std,
        modules.ratio,
        strict=True,
    )
    for epsilon, together, parts, mean, deviation, ratio in rows:
        table.add_row(
            f"{epsilon:.2g}",
            f"{together:.1f}",
            f"{parts:.1f}",
            f"{mean:.1f} ± {deviation:.1f}",
            "-" if ratio is None else f"{ratio:.0%}",
        )
    return table
