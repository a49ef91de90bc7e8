"""Parallel branches and their sum, such as attention and MLP of GPT-NeoX, which read one norm.

It adds the branches' effects, and its Jacobian Gram adds theirs and the products of each two.

Source: docs/math.md §5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from libgraph.sections import autodiff
from libgraph.sections.attention.attention import Attention
from libgraph.sections.closed_form import SignedForm
from libgraph.sections.estimate import Estimate
from libgraph.sections.linear import Linear
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import Effects, LinearMap, Section, Seen
from libgraph.sections.skip_mlp import SkipMLP


class Parallel(SignedForm):
    """y = Σ_b f_b(x), branches that read the same activations and add up what they write.

    Args:
        branches: with equal sizes at both ends, at least one. At most one of them should carry
            the residual stream and the constant on.

    Raises:
        ValueError: if their sizes differ.
    """

    def __init__(self, branches: Sequence[Section]) -> None:
        sizes = {(branch.d_in, branch.d_out) for branch in branches}
        if len(sizes) != 1:
            maps = ", ".join(f"{a} to {b}" for a, b in sorted(sizes)) or "none"
            raise ValueError(f"Branches need equal numbers of coordinates; they map {maps}.")
        super().__init__(*sizes.pop())
        self.branches = cast("Sequence[Section]", nn.ModuleList(branches))
        self.positionwise = all(branch.positionwise for branch in branches)

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t d_out"]:
        """The sum of what the branches write."""
        total: Tensor = sum(branch(x) for branch in self.branches)
        return total

    def transform(self, left: LinearMap, right: LinearMap) -> Parallel:
        """Every branch changed at both ends."""
        return Parallel([branch.transform(left, right) for branch in self.branches])

    def linearize(self, x: Float[Tensor, "n s d_in"]) -> LinearMap:
        """The sum of the branches' derivatives."""
        derivatives = [branch.linearize(x) for branch in self.branches]
        return lambda tangents: reduce(torch.add, (linear(tangents) for linear in derivatives))

    def seen(self, decoder: Float[Tensor, "k d_in"]) -> Seen:
        """The branches' factors, one after the other."""
        return tuple(factor for branch in self.branches for factor in branch.seen(decoder))

    def effects(self, x: Float[Tensor, "n s d_in"], quadrature: Quadrature) -> Effects:
        """The sum of the branches' effects."""
        return self._add([branch.effects(x, quadrature) for branch in self.branches], x)

    def signed_effects(
        self,
        x: Float[Tensor, "n s d_in"],
        quadrature: Quadrature,
        signs: Float[Tensor, "r n t"],
    ) -> Effects:
        """The sum of the branches' signed effects."""
        effects = [branch.signed_effects(x, quadrature, signs) for branch in self.branches]
        return self._add(effects, x)

    def estimate(
        self,
        x: Float[Tensor, "n s d_in"],
        features: Float[Tensor, "n s k"],
        decoder: Float[Tensor, "k d_in"],
        quadrature: Quadrature,
        signs: Float[Tensor, "r n t"],
    ) -> Estimate:
        """From signed effects if a branch has a formula for them."""
        signed = any(isinstance(branch, SignedForm) for branch in self.branches)
        estimate = super().estimate if signed else super(SignedForm, self).estimate
        return estimate(x, features, decoder, quadrature, signs)

    def _add(self, branches: Sequence[Effects], x: Tensor) -> Effects:
        """The sum of the branches' effects, each of which takes its own of the seen factors."""
        counts = [len(branch.seen(x.new_zeros(1, self.d_in))) for branch in self.branches]

        def effects(features: Tensor, seen: Seen) -> Tensor:
            factors = iter(seen)
            parts = (
                branch(features, tuple(next(factors) for _ in range(count)))
                for branch, count in zip(branches, counts, strict=True)
            )
            return reduce(torch.add, parts)

        return effects

    def jacobian_gram(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "d_in d_in"]:
        """Σ_b J_b J_bᵀ and, for each two, J_b J_cᵀ + J_c J_bᵀ.

        In closed form for one attention beside MLPs and linear maps, by autodiff otherwise.
        """
        mixing = [branch for branch in self.branches if not branch.positionwise]
        beside = [branch for branch in self.branches if isinstance(branch, Linear | SkipMLP)]
        if not (
            len(mixing) == 1
            and len(beside) == len(self.branches) - 1
            and isinstance(mixing[0], Attention)
            and not mixing[0].mask.last_only
        ):
            return autodiff.jacobian_gram(self, x)
        total = x.new_zeros(self.d_in, self.d_in, dtype=torch.float64)
        for i, second in enumerate(beside):
            for first in (*mixing, *beside[:i]):
                cross = _cross_gram(first, second, x)
                total += cross + cross.T
        for branch in self.branches:
            total += branch.jacobian_gram(x)
        return total

    def masked(
        self, x: Float[Tensor, "n s d_in"], keep: Bool[Tensor, "d_in d_out"]
    ) -> Float[Tensor, "n t d_out"]:
        """The sum of what the branches make of the same inputs, each in its own way."""
        return reduce(torch.add, (branch.masked(x, keep) for branch in self.branches))

    def nested(
        self, x: Float[Tensor, "n s d_in"], sizes: Sequence[int]
    ) -> Iterator[Float[Tensor, "n t d_out"]]:
        """The sum of what the branches make of the same inputs."""
        branches = (branch.nested(x, sizes) for branch in self.branches)
        return (reduce(torch.add, outputs) for outputs in zip(*branches, strict=True))

    def elements_per_effect(self, positions: int) -> int:
        """What the largest branch has."""
        return max(branch.elements_per_effect(positions) for branch in self.branches)

    def elements_per_signed_effect(self, positions: int, draws: int) -> int:
        """What the largest branch has."""
        return max(branch.elements_per_signed_effect(positions, draws) for branch in self.branches)


def _cross_gram(
    first: Section, second: Linear | SkipMLP, x: Float[Tensor, "n s d_in"]
) -> Float[Tensor, "d_in d_in"]:
    """Σ_t J_tt J'_tᵀ with J' = S + A diag(d) B: Σ_a (Σ_t J_tt B_a d_ta) A_aᵀ and the like for S."""
    skip = second.matrix if isinstance(second, Linear) else second.skip
    total = x.new_zeros(x.shape[-1], x.shape[-1], dtype=torch.float64)
    # Of parallel branches only one carries the stream on, and it is often the other one.
    if bool(skip.any()):
        ones = x.new_ones(1, 1, 1).expand(*x.shape[:2], len(skip))
        total += first.diagonal_product(x, ones, skip)
    if isinstance(second, SkipMLP):
        inner, slopes, outer = second.units(x)
        total += first.diagonal_product(x, slopes, outer) @ inner.double().T
    return total
