"""How far what matters in each module adds up to what matters in all (arXiv 2405.10927)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.degeneracy.figures import AdditivityFigures, BlockFigures
from libgraph.graph.arrays import FloatArray

NO_GAP = 1e-9
"""Share of the count below which a random partition is no different from the whole."""


SATURATED = 0.5
"""Share of the rows above which a count says more about the rows than about the network."""


@dataclass(frozen=True, eq=False)
class BlockCounts:
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

    def figures(self) -> BlockFigures:
        """For `degeneracy.json`."""
        return BlockFigures(
            parameters=self.parameters,
            rank=self.rank,
            free=self.free,
            effective=self.effective.tolist(),
        )


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
    modules: tuple[BlockCounts, ...]
    together: BlockCounts
    unassigned: BlockCounts
    whole: BlockCounts
    random: Float[Tensor, "draws E"]
    samples: int
    rows: int
    exact: bool

    @property
    def sum(self) -> Float[Tensor, " E"]:
        """Σ_m d_m(ε), at least that of all modules together."""
        return torch.stack([module.effective for module in self.modules]).sum(0)

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
        spread = (self.random - self.sum).abs().amax(0)
        told = (gap > NO_GAP * together) & (spread > NO_GAP * together)
        if not self.exact:
            told &= together <= SATURATED * self.rows
        return torch.where(told, ratio, torch.nan)

    @property
    def ranks_add_up(self) -> bool:
        """Whether the ranks of modules add up to that of all modules together."""
        return sum(module.rank for module in self.modules) == self.together.rank

    def figures(self, basis: str, strengths: FloatArray) -> AdditivityFigures:
        """For `degeneracy.json`, None for what is not a number.

        Args:
            basis: whose modules these are.
            strengths: of their interactions, from `module_strengths`.
        """
        return AdditivityFigures(
            basis=basis,
            epsilons=self.epsilons.tolist(),
            sum=self.sum.tolist(),
            random_mean=self.random_mean.tolist(),
            random_std=self.random_std.tolist(),
            ratio=_finite(self.ratio.tolist()),
            modules=tuple(module.figures() for module in self.modules),
            together=self.together.figures(),
            unassigned=self.unassigned.figures(),
            whole=self.whole.figures(),
            ranks_add_up=self.ranks_add_up,
            samples=self.samples,
            rows=self.rows,
            exact=self.exact,
            strengths=tuple(_finite(row) for row in strengths.tolist()),
        )


def _finite(numbers: Sequence[float]) -> tuple[float | None, ...]:
    """None for what is not a number, or infinite."""
    return tuple(x if math.isfinite(x) else None for x in numbers)
