"""Sections with a closed form: they say what their effects are, and squares and sums follow.

`ClosedForm` adds up squared effects; `SignedForm` is for those whose effects are much cheaper to
sum over output positions than to tell apart.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.sections.chunks import chunks
from libgraph.sections.estimate import Estimate
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import Section


class ClosedForm(Section):
    """A section that computes its effects by formula; its interactions are their squares.

    Subclasses implement `linearize` or `effects`, and `jacobian_gram`.
    """

    def interactions(
        self,
        x: Float[Tensor, "n s d_in"],
        features: Float[Tensor, "n s k"],
        decoder: Float[Tensor, "k d_in"],
        quadrature: Quadrature,
    ) -> Float[Tensor, "d_out k"]:
        """Sum of squared effects, a chunk of samples and of features at a time, in float64."""
        if self.positionwise:
            x, features = (rows.reshape(-1, 1, rows.shape[-1]) for rows in (x, features))
        total = x.new_zeros(self.d_out, len(decoder), dtype=torch.float64)
        seen = self.seen(decoder)
        elements = self.elements_per_effect(x.shape[1])
        for samples in chunks(len(x), elements * len(decoder), x):
            effects = self.effects(x[samples], quadrature)
            for chosen in chunks(len(decoder), elements * (samples.stop - samples.start), x):
                factors = tuple(factor[chosen] for factor in seen)
                effect = effects(features[samples, :, chosen], factors)
                total[:, chosen] += effect.square().sum((0, 2)).T
        return total


class SignedForm(ClosedForm):
    """A closed form that says what its effects add up to under signs: worth an estimate.

    Subclasses implement `signed_effects` and `elements_per_signed_effect`.
    """

    def estimate(
        self,
        x: Float[Tensor, "n s d_in"],
        features: Float[Tensor, "n s k"],
        decoder: Float[Tensor, "k d_in"],
        quadrature: Quadrature,
        signs: Float[Tensor, "r n t"],
    ) -> Estimate:
        """Of squared signed effects, a chunk of samples and of features at a time, in float64."""
        total = x.new_zeros(self.d_out, len(decoder), dtype=torch.float64)
        variance = torch.zeros_like(total)
        seen = self.seen(decoder)
        elements = self.elements_per_signed_effect(x.shape[1], len(signs))
        for samples in chunks(len(x), elements * len(decoder), x):
            effects = self.signed_effects(x[samples], quadrature, signs[:, samples])
            for chosen in chunks(len(decoder), elements * (samples.stop - samples.start), x):
                factors = tuple(factor[chosen] for factor in seen)
                part = Estimate.from_draws(effects(features[samples, :, chosen], factors))
                total[:, chosen] += part.total
                variance[:, chosen] += part.variance
        return Estimate(total, variance)
