"""The figures of a degeneracy analysis: the shape of `degeneracy.json` (docs/files.md).

Weights, units and heads go by the names of their sections, `ln2.0->unembed inner`. What has a
default here is what files of earlier versions lack, or what is only there where it was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, JsonValue

from libgraph.files.figures import Figures, FiguresFile

SCHEMA: Literal[1] = 1


class WeightFigures(Figures):
    """What activations and gradients leave free of one weight.

    Attributes:
        pair: names of the node layers on both sides.
        rows: trained ones, and so on for `columns`.
        columns: see there.
        parameters: entries.
        input_rank: rank of what comes in.
        gradient_rank: rank of the outputs' gradients at what goes out.
        free: directions that change nothing to first order.
        moved_free: largest change of an output, as a share of their root mean square, when the
            weight is moved along a free direction; None where there is none.
        moved_used: the same along one that is not free.
        input_spectrum: eigenvalues of the Gram of what comes in, largest first.
        gradient_spectrum: the same of gradients.
    """

    pair: tuple[str, str]
    rows: int
    columns: int
    parameters: int
    input_rank: int
    gradient_rank: int
    free: int
    moved_free: float | None
    moved_used: float
    input_spectrum: tuple[float, ...]
    gradient_spectrum: tuple[float, ...]


class Skipped(Figures):
    """What was not measured, and why."""

    skipped: str


class UnitFigures(Figures):
    """Which hidden units of a section act as one.

    Attributes:
        units: how many there are.
        dead: those that are zero on all data.
        constant: those that are always the same, but not zero.
        groups: within the tolerance, the largest first.
        exact_groups: those whose gates are the same.
        extra: free directions of exact groups beyond those of their members.
        new: how many of these low rank does not leave free already; None where not known.
        swap_share: what it does to the outputs when each group has one gate, as a share of their
            variance; None without groups, as the next two.
        swap_score: the score then.
        score: that of the network as it is, on the same samples.
        order: of units, in which groups are not torn.
        distances: between gates of every two; None where units are many.
    """

    units: int
    dead: tuple[int, ...]
    constant: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    exact_groups: tuple[tuple[int, ...], ...]
    extra: int
    new: int | None
    swap_share: float | None
    swap_score: float | None = None
    score: float | None = None
    order: tuple[int, ...]
    distances: tuple[tuple[float, ...], ...] | None


class HeadFigures(Figures):
    """Which heads of an attention section attend alike; as of units, by their patterns."""

    heads: int
    groups: tuple[tuple[int, ...], ...]
    exact_groups: tuple[tuple[int, ...], ...]
    extra: int
    new: int | None
    swap_share: float | None
    swap_score: float | None = None
    score: float | None = None
    order: tuple[int, ...]
    distances: tuple[tuple[float, ...], ...]


class BehaviourFigures(Figures):
    """How many parameters matter at a tolerance.

    Attributes:
        parameters: all there are.
        samples: how many the behavioural loss is the mean over.
        exact: whether all eigenvalues of its Hessian are known.
        rank: how many are not zero.
        largest: of them; 1 where all are zero.
        epsilons: tolerances ε, largest first.
        effective: N_eff(ε).
        errors: standard errors of that; 0 where exact.
    """

    parameters: int
    samples: int
    exact: bool
    rank: int
    largest: float
    epsilons: tuple[float, ...]
    effective: tuple[float, ...]
    errors: tuple[float, ...]


class VolumeFigures(Figures):
    """N_eff from how fast the volume of small losses grows; None where too few chains came near.

    Attributes:
        radius: of the box that was sampled.
        epsilons: tolerances ε.
        effective: N_eff(ε).
        errors: standard errors over chains.
        drift: between the halves of what was drawn.
    """

    radius: float
    epsilons: tuple[float, ...]
    effective: tuple[float | None, ...]
    errors: tuple[float | None, ...]
    drift: tuple[float | None, ...] = ()


class BlockFigures(Figures):
    """What matters of some of the parameters: d(ε) = tr H (H + ε)⁻¹ of their block, its rank."""

    parameters: int
    rank: int
    free: int
    effective: tuple[float, ...]


class AdditivityFigures(Figures):
    """How far what matters in each module adds up to what matters in all.

    Attributes:
        basis: whose modules these are.
        epsilons: ε.
        sum: Σ_m d_m(ε) over modules.
        random_mean: mean of that over partitions at random.
        random_std: its standard deviation.
        ratio: 0 where modules do not interact, 1 where they are no better than at random; None
            where there is nothing to tell.
        modules: each by itself.
        together: the parameters of all modules.
        unassigned: those without a module.
        whole: all parameters.
        ranks_add_up: whether ranks of modules add up to that of all together.
        samples: how many the Hessian is the mean over.
        rows: directions of outputs that it is made from.
        exact: whether these are all outputs of all samples.
        strengths: log₁₀(E/ε) between every two modules; None where they do not interact.
    """

    basis: str
    epsilons: tuple[float, ...]
    sum: tuple[float, ...]
    random_mean: tuple[float, ...]
    random_std: tuple[float, ...]
    ratio: tuple[float | None, ...]
    modules: tuple[BlockFigures, ...]
    together: BlockFigures
    unassigned: BlockFigures
    whole: BlockFigures
    ranks_add_up: bool
    samples: int
    rows: int
    exact: bool
    strengths: tuple[tuple[float | None, ...], ...]


class SkippedModules(Figures):
    """Why nothing is said of the modules of a basis."""

    basis: str
    skipped: str


class TotalFigures(Figures):
    """Of all weights: parameters, free directions, and those that units and heads have beside."""

    parameters: int
    free: int
    extra: int


class DegeneracyFigures(FiguresFile):
    """What `degeneracy.json` holds.

    Attributes:
        schema_number: of this shape; in the file `schema`.
        backend: name of the backend.
        options: of the analysis.
        weights: by name.
        units: by name of the section; skipped where units have no gates.
        heads: by name of the section.
        behaviour: the spectrum of the behavioural loss.
        volume: the same from sampling, where it was asked for.
        modules: by module of the network.
        totals: what all comes to.
        seconds: by part.
    """

    schema_number: Literal[1] = Field(alias="schema")
    backend: str
    options: Mapping[str, JsonValue]
    weights: Mapping[str, WeightFigures]
    units: Mapping[str, UnitFigures | Skipped]
    heads: Mapping[str, HeadFigures]
    behaviour: BehaviourFigures
    volume: VolumeFigures | None = None
    modules: AdditivityFigures | SkippedModules
    totals: TotalFigures
    seconds: Mapping[str, float]
