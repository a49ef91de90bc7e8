"""What an estimate of interactions from random signs is: a sum over a batch, and its variance.

Effects are summed over output positions under random signs φ_t = ±1 before they are squared:
(Σ_t φ_t R_t)² has Σ_t R_t² as its mean, and Σ_t φ_t R_t is one effect to compute instead of one
for every position (docs/math.md §3).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Estimate(NamedTuple):
    """Interactions summed over a batch, in float64.

    Args:
        total: the sums.
        variance: that of each sum over the choice of signs; zero where it is exact.
    """

    total: Float[Tensor, "d_out k"]
    variance: Float[Tensor, "d_out k"]

    @classmethod
    def exact(cls, total: Float[Tensor, "d_out k"]) -> Estimate:
        """Interactions in which no chance is."""
        return cls(total, torch.zeros_like(total))

    @classmethod
    def from_draws(cls, effects: Float[Tensor, "n k r d_out"]) -> Estimate:
        """Σ_x mean_r q_r and Σ_x Var_r(q_r)/r of q_r = (Σ_t φ_rt R_t)², from at least two draws."""
        squares = effects.double().square()
        variance = squares.var(2) / effects.shape[2]
        return cls(squares.mean(2).sum(0).T, variance.sum(0).T)
