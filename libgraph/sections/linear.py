"""The linear section y = x A: unembeddings, projections, changes of coordinates.

Its Jacobian is the same everywhere, so the Jacobian Gram needs no data at all and the interactions
need one second moment per feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from libgraph.sections.kept_inputs import growing_products
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import Effects, LinearMap, Section, Seen


class Linear(Section):
    """y = x A at every position, A of shape `(d_in, d_out)` with the bias in its last row."""

    positionwise = True
    readers = writers = ("matrix",)
    matrix: Tensor

    def __init__(self, matrix: Float[Tensor, "d_in d_out"]) -> None:
        super().__init__(*matrix.shape)
        self.register_buffer("matrix", matrix)

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n s d_out"]:
        """x A."""
        return self.product(x, "matrix")

    def transform(self, left: LinearMap, right: LinearMap) -> Linear:
        """The same with A changed at both ends."""
        return Linear(right(left(self.matrix)))

    def jacobian_gram(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "d_in d_in"]:
        """A Aᵀ for every sample and position (docs/math.md §5)."""
        matrix = self.matrix.double()
        return x.shape[0] * x.shape[1] * matrix @ matrix.T

    def linearize(self, x: Float[Tensor, "n s d_in"]) -> LinearMap:
        """Tangents times A, at any x; the same for all samples."""
        return lambda tangents: (tangents @ self.matrix).expand(len(x), -1, x.shape[1], -1)

    def interactions(
        self,
        x: Float[Tensor, "n s d_in"],
        features: Float[Tensor, "n s k"],
        decoder: Float[Tensor, "k d_in"],
        quadrature: Quadrature,
    ) -> Float[Tensor, "d_out k"]:
        """((decoder A)_ji)² Σ f_j² (docs/math.md §5), whatever the quadrature."""
        return (decoder @ self.matrix).T.double().square() * features.double().square().sum((0, 1))

    def signed_effects(
        self,
        x: Float[Tensor, "n s d_in"],
        quadrature: Quadrature,
        signs: Float[Tensor, "r n s"],
    ) -> Effects:
        """(decoder A)_ji Σ_t φ_rt f_tj: what it adds where it is a branch beside others."""

        def effects(features: Tensor, seen: Seen) -> Tensor:
            summed = torch.einsum("rns,nsk->nkr", signs, features)
            return summed.unsqueeze(-1) * (seen[0] @ self.matrix)[None, :, None]

        return effects

    def elements_per_signed_effect(self, positions: int, draws: int) -> int:
        """The outputs of every draw."""
        return draws * self.d_out

    def masked(
        self, x: Float[Tensor, "n s d_in"], keep: Bool[Tensor, "d_in d_out"]
    ) -> Float[Tensor, "n s d_out"]:
        """x (A ∘ keep): all outputs in one product."""
        return x @ torch.where(keep, self.matrix, 0)

    def nested(
        self, x: Float[Tensor, "n s d_in"], sizes: Sequence[int]
    ) -> Iterator[Float[Tensor, "n s d_out"]]:
        """Ever more of x A."""
        return (y for (y,) in growing_products(x, [self.matrix], sizes))
