"""The pooling section y_t = Σ_s P_ts x_s A: average pooling, strides, reading out one position.

It is linear in coordinates and in positions, each by one matrix, and so is its Jacobian: the
Jacobian Gram needs no data, and interactions need one second moment per pooled feature. Max pooling
is none of its kind.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from libgraph.sections.closed_form import ClosedForm
from libgraph.sections.estimate import Estimate
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import Effects, LinearMap, Seen


class Pooling(ClosedForm):
    """y_t = Σ_s P_ts x_s A, the same for every sample.

    Args:
        pool: P `(t, s)`; its rows sum to one where the constant is to stay 1.
        matrix: A `(d_in, d_out)`, with the bias in its last row.
    """

    readers = writers = ("matrix",)
    pool: Tensor
    matrix: Tensor

    def __init__(self, pool: Float[Tensor, "t s"], matrix: Float[Tensor, "d_in d_out"]) -> None:
        super().__init__(*matrix.shape)
        self.register_buffer("pool", pool)
        self.register_buffer("matrix", matrix)

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t d_out"]:
        """P x A."""
        return self.product(self.pool @ x, "matrix")

    def transform(self, left: LinearMap, right: LinearMap) -> Pooling:
        """The same with A changed at both ends."""
        return Pooling(self.pool, right(left(self.matrix)))

    def jacobian_gram(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "d_in d_in"]:
        """(Σ_ts P_ts²) A Aᵀ for every sample (docs/math.md §5)."""
        matrix = self.matrix.double()
        return len(x) * self.pool.double().square().sum() * matrix @ matrix.T

    def interactions(
        self,
        x: Float[Tensor, "n s d_in"],
        features: Float[Tensor, "n s k"],
        decoder: Float[Tensor, "k d_in"],
        quadrature: Quadrature,
    ) -> Float[Tensor, "d_out k"]:
        """((decoder A)_ji)² Σ_t (P f)_tj² (docs/math.md §5), whatever the quadrature."""
        squares = (self.pool @ features).double().square().sum((0, 1))
        return (decoder @ self.matrix).T.double().square() * squares

    def estimate(
        self,
        x: Float[Tensor, "n s d_in"],
        features: Float[Tensor, "n s k"],
        decoder: Float[Tensor, "k d_in"],
        quadrature: Quadrature,
        signs: Float[Tensor, "r n t"],
    ) -> Estimate:
        """The interactions themselves, which cost no more than a second moment."""
        return Estimate.exact(self.interactions(x, features, decoder, quadrature))

    def seen(self, decoder: Float[Tensor, "k d_in"]) -> Seen:
        """decoder A."""
        return (decoder @ self.matrix,)

    def effects(self, x: Float[Tensor, "n s d_in"], quadrature: Quadrature) -> Effects:
        """(P f)_tj (decoder A)_ji (docs/math.md §5), whatever the quadrature."""

        def effects(features: Tensor, seen: Seen) -> Tensor:
            pooled = (self.pool @ features).transpose(1, 2)
            return pooled.unsqueeze(-1) * seen[0][None, :, None]

        return effects

    def linearize(self, x: Float[Tensor, "n s d_in"]) -> LinearMap:
        """The map itself, on tangents."""
        return lambda tangents: self(tangents).expand(len(x), -1, -1, -1)

    def masked(
        self, x: Float[Tensor, "n s d_in"], keep: Bool[Tensor, "d_in d_out"]
    ) -> Float[Tensor, "n t d_out"]:
        """P x (A ∘ keep): all outputs in one product."""
        return self.pool @ x @ torch.where(keep, self.matrix, 0)
