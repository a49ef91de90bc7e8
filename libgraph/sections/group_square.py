"""Means over positions, and mean squares of groups of coordinates: the first half of a GroupNorm.

y_t = x_t S + x̄ M + v W with x̄ the mean over positions and v_i = mean_s (x_s L + x̄ N)_si²,
the same at every position t. A group's variance is W's mean over the squares of its coordinates,
centred by N.

Source: docs/math.md §5, and arXiv 1803.08494 for the norm.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.sections.closed_form import ClosedForm
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import Effects, LinearMap, Seen


class GroupSquare(ClosedForm):
    """y_t = x_t S + x̄ M + v W with v_i = mean_s (x_s L + x̄ N)_si².

    Args:
        skip: S `(d_in, d_out)`, what goes on; the constant belongs here.
        mean: M `(d_in, d_out)`, what the mean over positions adds everywhere.
        stream: L `(d_in, d)`, what is squared.
        centre: N `(d_in, d)`, what the mean over positions adds to that before.
        outer: W `(d, d_out)`, where the means of squares go.
    """

    skip: Tensor
    mean: Tensor
    stream: Tensor
    centre: Tensor
    outer: Tensor

    def __init__(
        self,
        skip: Float[Tensor, "d_in d_out"],
        mean: Float[Tensor, "d_in d_out"],
        stream: Float[Tensor, "d_in d"],
        centre: Float[Tensor, "d_in d"],
        outer: Float[Tensor, "d d_out"],
    ) -> None:
        super().__init__(*skip.shape)
        self.register_buffer("skip", skip)
        self.register_buffer("mean", mean)
        self.register_buffer("stream", stream)
        self.register_buffer("centre", centre)
        self.register_buffer("outer", outer)

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n s d_out"]:
        """x S + x̄ M + v W."""
        squares = self._squared(x).square().mean(1, keepdim=True)
        return x @ self.skip + x.mean(1, keepdim=True) @ self.mean + squares @ self.outer

    def _squared(self, x: Tensor) -> Float[Tensor, "n s d"]:
        return x @ self.stream + x.mean(1, keepdim=True) @ self.centre

    def transform(self, left: LinearMap, right: LinearMap) -> GroupSquare:
        """The same with all factors changed at their outer ends."""
        return GroupSquare(
            right(left(self.skip)),
            right(left(self.mean)),
            left(self.stream),
            left(self.centre),
            right(self.outer),
        )

    @property
    def _in(self) -> Float[Tensor, "d_in 2d"]:
        """What slopes read: J_ts = δ_ts S + M/T + _in diag(slopes_s) [W; W]."""
        return torch.cat([self.stream, self.centre], dim=1)

    def _slopes(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n s 2d"]:
        """2 c_s/T beside the mean of that, c = x L + x̄ N."""
        own = 2 / x.shape[1] * self._squared(x)
        return torch.cat([own, own.mean(1, keepdim=True).expand_as(own)], dim=-1)

    def jacobian_gram(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "d_in d_in"]:
        """Σ_s [S Sᵀ + S G_sᵀ + G_s Sᵀ + T G_s G_sᵀ], G_s = M/T + _in diag(slopes_s) [W; W]."""
        n, t, _ = x.shape
        slopes = self._slopes(x).flatten(0, 1)
        first, second = slopes.double().sum(0), (slopes.T @ slopes).double()
        skip, mean, inner = (part.double() for part in (self.skip, self.mean / t, self._in))
        outer = torch.cat([self.outer, self.outer]).double()
        through = (inner * first) @ outer
        within = inner @ ((outer @ outer.T) * second) @ inner.T
        summed = n * t * mean + through
        cross, mixed = skip @ summed.T, through @ mean.T
        squares = n * t * mean @ mean.T + mixed + mixed.T + within
        return n * t * skip @ skip.T + cross + cross.T + t * squares

    def seen(self, decoder: Float[Tensor, "k d_in"]) -> Seen:
        """decoder S, decoder M and decoder [L, N]."""
        return decoder @ self.skip, decoder @ self.mean, decoder @ self._in

    def effects(self, x: Float[Tensor, "n s d_in"], quadrature: Quadrature) -> Effects:
        """f_t ∘ Ŝ + Σ_s f_s ∘ Ĝ_s; slopes are linear in x, which a quadrature averages."""
        mean = sum(a * w for a, w in zip(quadrature.points, quadrature.weights, strict=True))
        slopes, outer = mean * self._slopes(x), torch.cat([self.outer, self.outer])

        def effects(features: Tensor, seen: Seen) -> Tensor:
            f = features.transpose(1, 2)
            pooled = ((f @ slopes) * seen[2]) @ outer + f.mean(2, keepdim=True) * seen[1]
            return f.unsqueeze(-1) * seen[0][None, :, None] + pooled.unsqueeze(2)

        return effects

    def linearize(self, x: Float[Tensor, "n s d_in"]) -> LinearMap:
        """Tangents times S, and what they do to means and squares, at every position."""
        slopes, outer = self._slopes(x).unsqueeze(1), torch.cat([self.outer, self.outer])

        def linear(tangents: Tensor) -> Tensor:
            tangents = tangents.expand(len(x), -1, x.shape[1], -1)
            moved = ((tangents @ self._in) * slopes).sum(2, keepdim=True) @ outer
            mean = tangents.mean(2, keepdim=True) @ self.mean
            return tangents @ self.skip + moved + mean

        return linear

    def elements_per_effect(self, positions: int) -> int:
        """Outputs at all positions."""
        return max(positions * self.d_out, 2 * self.stream.shape[1])
