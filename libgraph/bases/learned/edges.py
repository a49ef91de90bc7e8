"""Interactions of a batch between latents that are active together, to be differentiated.

E_ji of docs/math.md §10 with the gates of the batch and Jacobians of the section, through encoders
and decoders. Pairs that are never active together are left out: theirs are zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.bases.learned.coordinates import Coordinates
from libgraph.bases.learned.latents import Latents, Learner
from libgraph.network.basis import Basis
from libgraph.sections import Section
from libgraph.sections.quadrature import Quadrature


@dataclass(frozen=True)
class LatentEdges:
    """Between two node layers of which the first has a dictionary.

    Args:
        section: between them.
        source: coordinates of the first.
        target: of the second, if it has a dictionary; else its basis, all of whose features are.
    """

    section: Section
    source: Coordinates
    target: Coordinates | Basis

    def squares(
        self,
        x: Float[Tensor, "n s d"],
        before: tuple[Learner, Latents],
        after: tuple[Learner, Latents] | None,
        *,
        jacobian: bool = False,
    ) -> Float[Tensor, " pairs"]:
        """E of every pair that is active together in the batch, in no order.

        Args:
            x: activations of the first node layer.
            before: its dictionary, and latents at all rows of x.
            after: those of the second.
            jacobian: whether to give |J_ji| of active pairs in place of E, which has the size of
                latents in it and is of squares.
        """
        rows, tangents = self._tangents(x, *before, jacobian=jacobian)
        linear = self.section.linearize_along(x, Quadrature.gradient())
        moved = linear(tangents.to(x))
        if isinstance(self.target, Basis):
            effects = (moved @ self.target.encoder.to(x)).float()
            squares = (effects.abs() if jacobian else effects.square()).sum(2)
            ends = rows.unsqueeze(-1) * squares.shape[-1]
            ends = ends + torch.arange(squares.shape[-1], device=x.device)
            return self._added(ends.expand_as(squares), squares, x)
        if after is None:
            raise ValueError("A dictionary after the section needs its latents.")
        learner, latents = after
        steps = (moved @ self.target.into.to(x)).float()
        positions = moved.shape[2]
        places = latents.places.unflatten(0, (-1, positions))
        openings = latents.open.unflatten(0, (-1, positions))
        read = torch.nn.functional.embedding(places, learner.encoder.T)
        effects = (steps.transpose(1, 2) @ read.mT) * openings.unsqueeze(2)
        # n, t, a, b: of a latent before on one after, at one position.
        ends = rows.unsqueeze(1).unsqueeze(-1) * len(learner.decoder) + places.unsqueeze(2)
        squares = effects.abs() if jacobian else effects.square()
        return self._added(ends.expand_as(effects), squares, x)

    def _tangents(
        self, x: Tensor, learner: Learner, latents: Latents, *, jacobian: bool
    ) -> tuple[Tensor, Tensor]:
        """Places `(n, a)` and what these write `(n, a, s, d)`."""
        n, s = x.shape[:2]
        out = self.source.out.to(x.device).float()
        if s == 1:
            rows = latents.places
            values = latents.values.unsqueeze(-1)
        else:
            # All that are active anywhere in the batch, at each of the positions.
            z = torch.zeros_like(latents.pre).scatter(1, latents.places, latents.values)
            chosen = (z.detach() > 0).any(0).nonzero()[:, 0]
            rows = chosen.expand(n, -1)
            values = z[:, chosen].unflatten(0, (n, s)).transpose(1, 2)
        written = torch.nn.functional.embedding(rows, learner.decoder @ out)
        if jacobian:
            values = (values > 0).to(values)
        return rows, values.unsqueeze(-1) * written.unsqueeze(2)

    def _added(self, ends: Tensor, squares: Tensor, x: Tensor) -> Tensor:
        """Sums of squares by pair, for one input position."""
        pairs, where = ends.flatten().unique(return_inverse=True)
        total = squares.new_zeros(len(pairs)).index_add(0, where, squares.flatten())
        return total / (x.shape[0] * x.shape[1])
