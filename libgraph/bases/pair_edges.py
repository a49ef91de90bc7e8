"""Interactions of one layer pair as a differentiable function of rotations on both sides.

Where few positions see each other the Jacobians between the features are computed once, for as
many samples as memory allows, and every rotation of them is a product of small matrices. Elsewhere,
as in attention over long sequences and in convolutions, the section's closed form is evaluated
anew, from rotated factors, a chunk at a time that is computed again on the way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from libgraph.quadrature import Quadrature
from libgraph.sections import Section
from libgraph.sections.section import chunks

Rotation = Float[Tensor, "k k"] | None
"""An orthogonal matrix from old features to new ones; None leaves them as they are."""


@dataclass(frozen=True)
class Features:
    """The features of a node layer that are rotated, of variance 1, or all of an unrotated one.

    Args:
        encoder: `(d, k)`.
        decoder: `(k, d)`.
        importance: `(k,)`, by whose root a feature is scaled when it is an output; None to leave
            the layer as it is.
    """

    encoder: Float[Tensor, "d k"]
    decoder: Float[Tensor, "k d"]
    importance: Float[Tensor, " k"] | None

    def __len__(self) -> int:
        return len(self.decoder)

    def scale(self, rotation: Float[Tensor, "k k"]) -> Float[Tensor, " k"]:
        """Importance of rotated features: the diagonal of QᵀΛQ."""
        if self.importance is None:
            raise ValueError("An unrotated layer has no importance to share out.")
        return self.importance @ rotation.square()


class PairEdges(Protocol):
    """E of a layer pair on some of its samples, before outputs are scaled."""

    count: int
    batch: int

    def __call__(
        self, chosen: Int[Tensor, " m"] | slice, source: Rotation, target: Rotation
    ) -> Float[Tensor, "out in"]:
        """Mean over the chosen samples and S input positions of Σ_t (Σ_s f_sj Ĵ_ts,ji)²."""


class CachedEdges:
    """From Jacobians between unrotated features, `(m, t, s, in, out)`, and those `(m, s, in)`."""

    def __init__(self, jacobians: Tensor, features: Tensor, batch: int) -> None:
        self.jacobians, self.features = jacobians, features
        self.count, self.batch = len(features), batch

    def __call__(
        self, chosen: Int[Tensor, " m"] | slice, source: Rotation, target: Rotation
    ) -> Float[Tensor, "out in"]:
        """R_t = Σ_s diag(f_s Q) QᵀJ_ts Q'."""
        jacobians, features = self.jacobians[chosen], self.features[chosen]
        if target is not None:
            jacobians = jacobians @ target
        if source is not None:
            jacobians, features = source.T @ jacobians, features @ source
        effects = (features[:, None, :, :, None] * jacobians).sum(2)
        total: Tensor = effects.square().sum((0, 1)).T
        return total / (len(features) * features.shape[1])


class StructuredEdges:
    """From the section's own formula for effects, at activations `(m, s, d)`."""

    def __init__(
        self, section: Section, x: Tensor, source: Features, target: Features, batch: int
    ) -> None:
        self.section, self.x = section, x
        self.source, self.target = source, target
        self.count, self.batch = len(x), batch

    def __call__(
        self, chosen: Int[Tensor, " m"] | slice, source: Rotation, target: Rotation
    ) -> Float[Tensor, "out in"]:
        """The squares of `Section.effects`, summed chunk by chunk."""
        x = self.x[chosen]
        encoder, decoder = self.source.encoder, self.source.decoder
        if source is not None:
            encoder, decoder = encoder @ source, source.T @ decoder
        out = self.target.encoder if target is None else self.target.encoder @ target
        total = x.new_zeros(out.shape[1], len(decoder))
        elements = self.section._elements_per_effect(x.shape[1]) * len(decoder)
        for some in chunks(len(x), elements, x):
            total = total + checkpoint(
                self._squares, x[some], encoder, decoder, out, use_reentrant=False
            )
        return total / (len(x) * x.shape[1])

    def _squares(self, x: Tensor, encoder: Tensor, decoder: Tensor, out: Tensor) -> Tensor:
        section = self.section.rebase(encoder=out)
        effects = section.effects(x, Quadrature.gradient())(x @ encoder, section.seen(decoder))
        return effects.square().sum((0, 2)).T


def pair_edges(
    section: Section,
    x: Float[Tensor, "n s d"],
    source: Features,
    target: Features,
    *,
    batch: int,
    memory: int,
    generator: torch.Generator,
) -> PairEdges:
    """Edges between two node layers' features, on the activations `x` of the first.

    Jacobians are kept where one sample's are smaller than what its effects would take, at the
    positions that see each other, and where at least four batches of them fit into memory.

    Args:
        section: the map between them.
        x: activations; where positions do not mix, each is a sample of its own.
        source: features that go in.
        target: features that come out.
        batch: samples in a batch, positions counted.
        memory: bytes that the Jacobians may take.
        generator: chooses samples where not all fit.
    """
    if section.positionwise:
        x = x.reshape(-1, 1, x.shape[-1])
    with torch.no_grad():
        positions = section(x[:1]).shape[1]
    between = positions * x.shape[1] * len(source) * (target.encoder.shape[1] + 1)
    fitting = memory // (between * x.element_size())
    least = max(8, batch // positions)
    if fitting < 4 * least or positions * x.shape[1] > len(source):
        return StructuredEdges(section, x, source, target, min(least, len(x)))
    if len(x) > fitting:
        x = x[torch.randperm(len(x), generator=generator)[:fitting].to(x.device)]
    with torch.no_grad():
        jacobians = _jacobians(section.rebase(encoder=target.encoder), x, source.decoder)
    return CachedEdges(jacobians, x @ source.encoder, min(least, len(x)))


def _jacobians(
    section: Section, x: Float[Tensor, "n s d"], decoder: Float[Tensor, "k d"]
) -> Float[Tensor, "n t s k out"]:
    """∂y_t/∂x_s along every row of the decoder."""
    found = []
    for samples in chunks(
        len(x), x.shape[1] * len(decoder) * section._elements_per_effect(x.shape[1]), x
    ):
        linear = section.linearize(x[samples])
        by_position = []
        for s in range(x.shape[1]):
            tangents = x.new_zeros(1, len(decoder), *x.shape[1:])
            tangents[0, :, s] = decoder
            by_position.append(linear(tangents).transpose(1, 2))
        found.append(torch.stack(by_position, dim=2))
    return torch.cat(found)


def objective(
    edges: Sequence[Float[Tensor, "out in"]], totals: Sequence[Tensor], power: float
) -> list[Tensor]:
    """Σ_ij (E_ij/E_total)^p of each layer pair, E_total fixed.

    With the total of the rotated features instead, the objective could be lowered by making a few
    interactions large, and not the others small.
    """
    return [
        # The power's slope is infinite at zero.
        (e / total + 1e-12).pow(power).sum()
        for e, total in zip(edges, totals, strict=True)
    ]
