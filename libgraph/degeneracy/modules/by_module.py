"""Whether parameters of different modules interact: degeneracy by module (arXiv 2405.10927).

Where modules do not interact the Hessian of the behavioural loss has no entry between parameters of
two of them, and what is free in each adds up. Parameters get a module in coordinates of features:
a weight that reads a node layer by its input features, one that only writes by its output features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libgraph.backend.data import Data
from libgraph.bases.method import Truncation
from libgraph.degeneracy.behaviour.lanczos import SHARP
from libgraph.degeneracy.modules.block_curvature import block_curvature
from libgraph.degeneracy.modules.feature_weights import (
    memberships,
    module_count,
    parameter_modules,
)
from libgraph.errors import UsageError
from libgraph.graph.arrays import FloatArray, IndexArray
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.network.basis import Bases
from libgraph.network.network import Network
from libgraph.progress import Progress, silent

STAGE = "degeneracy by module"


NO_GAP = 1e-9
"""Share of the count below which a random partition is no different from the whole."""


SATURATED = 0.5
"""Share of the rows above which a count says more about the rows than about the network."""


@dataclass(frozen=True, eq=False)
class Part:
    """What matters of some of the parameters.

    Args:
        parameters: how many.
        rank: of their block of the Hessian; the rest is free.
        effective: d(ε) = tr H (H + ε)⁻¹ of that block, for each ε.
    """

    parameters: int
    rank: int
    effective: Float[Tensor, " E"]

    @property
    def free(self) -> int:
        """Directions that change nothing."""
        return self.parameters - self.rank

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain numbers."""
        counts = {"parameters": self.parameters, "rank": self.rank, "free": self.free}
        return counts | {"effective": _plain(self.effective)}


@dataclass(frozen=True, eq=False)
class ModuleAdditivity:
    """How far what matters in each module adds up to what matters in all.

    Args:
        epsilons: ε.
        modules: what matters of each module, in the order of their numbers.
        together: of the parameters of all modules.
        unassigned: of the parameters without a module.
        whole: of all parameters.
        random: Σ_m d_m(ε) of partitions at random, one row each.
        samples: how many the Hessian is the mean over.
        rows: how many directions of outputs it is made from. No count can be above; where it comes
            near, all counts stop at it and differences between them mean nothing.
        exact: whether these are all outputs of all samples.
    """

    epsilons: Float[Tensor, " E"]
    modules: tuple[Part, ...]
    together: Part
    unassigned: Part
    whole: Part
    random: Float[Tensor, "draws E"]
    samples: int
    rows: int
    exact: bool

    @property
    def sum(self) -> Float[Tensor, " E"]:
        """Σ_m d_m(ε), at least that of all modules together."""
        return torch.stack([part.effective for part in self.modules]).sum(0)

    @property
    def random_mean(self) -> Float[Tensor, " E"]:
        """Mean of that sum over partitions at random."""
        return self.random.mean(0)

    @property
    def random_std(self) -> Float[Tensor, " E"]:
        """Its standard deviation between them."""
        return self.random.std(0)

    @property
    def ratio(self) -> Float[Tensor, " E"]:
        """(Σ_m d_m − d) / (random mean − d), d of all modules together.

        0 where modules do not interact, 1 where they are no better than at random. NaN where
        random ones do not interact either, or are the same because each node layer lies in one
        module; and where more matters than signed sums of outputs can tell, d above `SATURATED` of
        `rows`. Parameters without a module are left out on both
        sides, because they interact with every partition alike.
        """
        together = self.together.effective
        gap = self.random_mean - together
        ratio = (self.sum - together) / gap
        others = (self.random - self.sum).abs().amax(0)
        told = (gap > NO_GAP * together) & (others > NO_GAP * together)
        if not self.exact:
            told &= together <= SATURATED * self.rows
        return torch.where(told, ratio, torch.nan)

    @property
    def ranks_add_up(self) -> bool:
        """Whether the ranks of modules add up to that of all modules together."""
        return sum(part.rank for part in self.modules) == self.together.rank

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain numbers, None for what is not a number."""
        curves = {
            "epsilons": self.epsilons,
            "sum": self.sum,
            "random_mean": self.random_mean,
            "random_std": self.random_std,
            "ratio": self.ratio,
        }
        found: dict[str, Any] = {name: _plain(curve) for name, curve in curves.items()}
        found["modules"] = [part.as_dict() for part in self.modules]
        for name in ("together", "unassigned", "whole"):
            found[name] = getattr(self, name).as_dict()
        kept = ("ranks_add_up", "samples", "rows", "exact")
        return found | {name: getattr(self, name) for name in kept}


def module_additivity(
    network: Network,
    data: Data,
    bases: Bases,
    graph: InteractionGraph,
    *,
    epsilons: Sequence[float],
    draws: int = 10,
    seed: int = 0,
    rows: int = 2000,
    truncation: Truncation = SHARP,
    progress: Progress = silent,
) -> ModuleAdditivity:
    """Effective parameters d(ε) = tr H (H + ε)⁻¹ of modules, and of all of them.

    H = 2 E[JᵀJ] in the coordinates of `parameter_modules`, H_m its diagonal block of module m.
    λ/(λ + ε) is concave, so that Σ_m d_m(ε) ≥ d(ε), with equality if no entry of H lies between two
    modules (pinching: Bhatia, Matrix Analysis, 1997). Every entry of a weight counts, zeros
    as well: what a module reads into neurons of another is a parameter too.

    Args:
        network: whose outputs count.
        data: E is the mean over its samples.
        bases: of the graph.
        graph: with modules.
        epsilons: ε, positive.
        draws: partitions at random, at least 2: within every layer the features that have a module
            exchange modules.
        seed: of these and of signs.
        rows: the larger side of matrices at most. Unless parameters, or output coordinates of all
            samples, are so few, H is that of so many random sums of output coordinates, from as
            many samples as there are; its expectation is right.
        truncation: below which eigenvalue a direction counts as free; a relative one is a share
            of the largest eigenvalue of the whole, for modules as well.
        progress: told of Jacobians and then of partitions.

    Raises:
        UsageError: for options that make no sense, or a graph without modules.
        TooLarge: if Jacobians do not fit into memory.
        NumericalError: if Jacobians are not finite.
    """
    if draws < 2 or rows < 1:
        raise UsageError(f"{draws} draws and {rows} rows: use at least 2 draws and 1 row.")
    tolerances = torch.tensor(epsilons, dtype=torch.float64, device=data.device)
    if not len(tolerances) or not bool(((tolerances > 0) & tolerances.isfinite()).all()):
        raise UsageError("Effective parameters need tolerances ε that are positive: pass some.")
    parts = parameter_modules(network, bases, graph)
    curvature = block_curvature(
        network, data, parts, rows=rows, seed=seed, stage=STAGE, progress=progress
    )
    values = curvature.eigenvalues([each.modules >= -1 for each in parts])
    largest = float(values.max()) if truncation.relative and len(values) else 1.0
    threshold = truncation.tolerance * largest

    def part(chosen: Sequence[Bool[Tensor, " entries"]]) -> Part:
        parameters = sum(int(each.sum()) for each in chosen)
        same = parameters == sum(len(each) for each in chosen)
        found = values if same else curvature.eigenvalues(chosen)
        rank = min(parameters, int((found > threshold).sum()))
        ratios = found[:, None] / (found[:, None] + tolerances)
        return Part(parameters, rank, ratios.sum(0))

    def split(given: Sequence[Int[Tensor, " entries"]]) -> tuple[Part, ...]:
        numbers = range(module_count(graph))
        return tuple(part([each == number for each in given]) for number in numbers)

    own = [each.modules for each in parts]
    membership = memberships(network, graph)
    rng = np.random.default_rng(seed)
    random = []
    for draw in range(draws):
        progress(f"{STAGE}, random partitions", draw, draws)
        shuffled = {name: _shuffled(each, rng) for name, each in membership.items()}
        given = split([each.modules_under(shuffled) for each in parts])
        random.append(torch.stack([each.effective for each in given]).sum(0))
    progress(f"{STAGE}, random partitions", draws, draws)
    return ModuleAdditivity(
        epsilons=tolerances,
        modules=split(own),
        together=part([each >= 0 for each in own]),
        unassigned=part([each < 0 for each in own]),
        whole=part([each >= -1 for each in own]),
        random=torch.stack(random),
        samples=curvature.samples,
        rows=curvature.rows,
        exact=curvature.exact,
    )


def module_strengths(graph: InteractionGraph, epsilon: float | None = None) -> FloatArray:
    """log₁₀(E_ab/ε) between every two modules, shape ``(modules, modules)``, symmetric.

    E_ab is the sum of interactions between features of a and of b, over all layer pairs and in
    both directions; those within a module are on the diagonal. -inf where there are none. What
    interaction costs enters by this logarithm (arXiv 2405.10927).

    Args:
        graph: with modules.
        epsilon: ε; otherwise the median of those of the graph's layer pairs, or the smallest
            positive E_ab where it has none.

    Raises:
        UsageError: if the graph has no modules, or ε is not positive.
    """
    size = module_count(graph)
    total = np.zeros((size, size))
    for (source, target), matrix in graph.edges.items():
        readers, writers = (
            (graph.membership(name)[:, None] == np.arange(size)).astype(np.float64)
            for name in (source, target)
        )
        total += writers.T @ matrix @ readers
    total = total + total.T - np.diag(np.diag(total))
    if epsilon is None:
        # Where there are no interactions at all any ε will do.
        known = list(graph.epsilon.values())
        epsilon = float(np.median(known) if known else total[total > 0].min(initial=np.inf))
        epsilon = epsilon if np.isfinite(epsilon) else 1.0
    if not (np.isfinite(epsilon) and epsilon > 0):
        raise UsageError(f"ε of interactions is {epsilon}: it has to be positive.")
    strengths = np.full_like(total, -np.inf)
    np.log10(total, where=total > 0, out=strengths)
    strengths -= np.log10(epsilon)
    return strengths


def _plain(curve: Float[Tensor, " E"]) -> list[float | None]:
    return [None if np.isnan(value) else value for value in curve.tolist()]


def _shuffled(membership: IndexArray, rng: np.random.Generator) -> IndexArray:
    """The same modules for other features; those without stay without."""
    shuffled, own = membership.copy(), membership >= 0
    shuffled[own] = rng.permutation(membership[own])
    return shuffled
