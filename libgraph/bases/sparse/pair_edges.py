"""Interactions of one layer pair as a differentiable function of rotations on both sides.

Where few positions see each other the Jacobians between the features are computed once, for as
many samples as memory allows, and every rotation of them is a product of small matrices. Elsewhere,
as in attention over long sequences and in convolutions, the section's closed form is evaluated
anew, from rotated factors, a chunk at a time that is computed again on the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from libgraph.bases.method import fixed_signs
from libgraph.errors import NumericalError
from libgraph.network.basis import Basis
from libgraph.sections import Section
from libgraph.sections.chunks import chunks
from libgraph.sections.quadrature import Quadrature

Rotation = Float[Tensor, "k k"] | None
"""An orthogonal matrix from old features to new ones; None leaves them as they are."""


LEAST = 8
"""Samples in a batch, at least, however many positions they have."""


BATCHES = 16
"""Batches that a layer pair has at most: going through more would take longer than learning."""


@dataclass(frozen=True)
class Features:
    """The features of a node layer that are rotated, of variance 1, or all of an unrotated one.

    Args:
        encoder: `(d, k)`.
        decoder: `(k, d)`.
        importance: `(k,)`, by whose root a feature is scaled when it is an output; ones leave the
            layer as it is.
    """

    encoder: Float[Tensor, "d k"]
    decoder: Float[Tensor, "k d"]
    importance: Float[Tensor, " k"]

    @classmethod
    def of(cls, basis: Basis, count: int | None, dtype: torch.dtype) -> Features:
        """The leading features of a basis, so many or all, without the isolated ones."""
        if not basis.rotated:
            ones = torch.ones_like(basis.importance)
            return cls(basis.encoder.to(dtype), basis.decoder.to(dtype), ones.to(dtype))
        leading = slice(basis.isolated, basis.isolated + (count or len(basis)))
        importance = basis.importance[leading]
        root = importance.sqrt()
        encoder = basis.encoder[:, leading] / root
        decoder = root.unsqueeze(1) * basis.decoder[leading]
        return cls(encoder.to(dtype), decoder.to(dtype), importance.to(dtype))

    def __len__(self) -> int:
        return len(self.decoder)

    def to_principal(self) -> Float[Tensor, "k k"]:
        """The rotation to the principal components of what they span, in float64."""
        decoder = self.decoder.double()
        return fixed_signs(torch.linalg.eigh(decoder @ decoder.T).eigenvectors.flip(-1))

    def scale(self, rotation: Rotation) -> Float[Tensor, " k"]:
        """Importance of rotated features: the diagonal of QᵀΛQ."""
        return self.importance if rotation is None else self.importance @ rotation.square()


class PairEdges(Protocol):
    """E on some of `count` samples, in training `batch` of them, before outputs are scaled."""

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
        elements = self.section.elements_per_effect(x.shape[1]) * len(decoder)
        for samples in chunks(len(x), elements, x):
            total = total + checkpoint(
                self._squares, x[samples], encoder, decoder, out, use_reentrant=False
            )
        return total / (len(x) * x.shape[1])

    def _squares(self, x: Tensor, encoder: Tensor, decoder: Tensor, out: Tensor) -> Tensor:
        section = self.section.rebase(encoder=out)
        effects = section.effects(x, Quadrature.gradient())(x @ encoder, section.seen(decoder))
        return effects.square().sum((0, 2)).T


@dataclass(frozen=True)
class LayerPair:
    """Edges between two node layers as a function of the rotations of node layers.

    Args:
        source: name of the node layer that they come from.
        target: name of the one that they go to.
        between: edges of features of variance 1.
        outputs: what scales the edges.
        total: of the edges in LIB.
    """

    source: str
    target: str
    between: PairEdges
    outputs: Features
    total: float = 0.0

    def edges(
        self, rotations: Mapping[str, Tensor], chosen: Tensor | slice
    ) -> Float[Tensor, "out in"]:
        """On the chosen samples, outputs scaled by the root of their importance."""
        source, target = (self._rotation(rotations, name) for name in (self.source, self.target))
        edges = self.between(chosen, source, target) * self.outputs.scale(target).unsqueeze(1)
        if not bool(edges.isfinite().all()):
            raise NumericalError(
                f"Interactions {self.source}->{self.target} are NaN or infinite while the sparse "
                f"basis is sought: check the weights, or use float64."
            )
        return edges

    @torch.no_grad()
    def on_all(self, rotations: Mapping[str, Tensor]) -> Float[Tensor, "out in"]:
        """The same on all samples, a batch at a time."""
        count, size = self.between.count, self.between.batch
        batches = [slice(i, min(i + size, count)) for i in range(0, count, size)]
        shares = [(batch.stop - batch.start) / count for batch in batches]
        return sum(  # type: ignore[return-value]
            share * self.edges(rotations, chosen)
            for share, chosen in zip(shares, batches, strict=True)
        )

    def _rotation(self, rotations: Mapping[str, Tensor], name: str) -> Rotation:
        return rotations[name].to(self.outputs.encoder) if name in rotations else None


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
    """Edges between two node layers' features, on activations of the first.

    Jacobians are kept where one sample's are smaller than what its effects would take, at the
    positions that see each other, and where at least four batches of them fit into memory.

    Args:
        section: the map between them.
        x: activations; where positions do not mix, each is a sample of its own. Samples are chosen
            among them at random where there are more than `BATCHES` batches, or than fit.
        source: features that go in.
        target: features that come out.
        batch: samples in a batch, positions counted; at least `LEAST` samples.
        memory: bytes that the Jacobians may take, or the activations in place of them.
        generator: chooses the samples.
    """
    if section.positionwise:
        x = x.reshape(-1, 1, x.shape[-1])
    with torch.no_grad():
        positions = section(x[:1]).shape[1]
    most, batch = enough(batch, positions), min(max(LEAST, batch // positions), len(x))
    between = positions * x.shape[1] * len(source) * (len(target) + 1)
    fitting = memory // (between * x.element_size())
    cached = positions * x.shape[1] <= len(source) and fitting >= min(4 * batch, len(x))
    if not cached:
        fitting = max(batch, memory // (x[0].numel() * x.element_size()))
    if len(x) > min(fitting, most):
        chosen = torch.randperm(len(x), generator=generator)[: min(fitting, most)]
        x = x[chosen.to(x.device)]
    if not cached:
        if any(parameter.requires_grad for parameter in section.parameters()):
            # The way back to rotations must not leave gradients in a module of the user's.
            section = deepcopy(section).requires_grad_(False)
        return StructuredEdges(section, x, source, target, batch)
    with torch.no_grad():
        jacobians = _jacobians(section.rebase(encoder=target.encoder), x, source.decoder)
    return CachedEdges(jacobians, x @ source.encoder, batch)


def enough(batch: int, positions: int) -> int:
    """Samples that a layer pair has at most, if they have so many positions."""
    return BATCHES * max(LEAST, batch // positions)


def _jacobians(
    section: Section, x: Float[Tensor, "n s d"], decoder: Float[Tensor, "k d"]
) -> Float[Tensor, "n t s k out"]:
    """∂y_t/∂x_s along every row of the decoder."""
    positions = x.shape[1]
    at = torch.eye(positions).to(x)
    tangents = (at[:, None, :, None] * decoder[:, None]).flatten(0, 1).unsqueeze(0)
    elements = tangents.shape[1] * section.elements_per_effect(positions)
    parts = [
        section.linearize(x[samples])(tangents).unflatten(1, (positions, -1)).movedim(3, 1)
        for samples in chunks(len(x), elements, x)
    ]
    return torch.cat(parts)


def objective(edges: Float[Tensor, "out in"], total: float, power: float) -> Tensor:
    """Σ_ij (E_ij/E_total)^p, E_total fixed.

    With the total of the rotated features instead, the objective could be lowered by making a few
    interactions large, and not the others small.
    """
    # The power's slope is infinite at zero.
    return (edges / total + 1e-12).pow(power).sum()


def cayley(angles: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
    """An orthogonal matrix, (I − A)⁻¹(I + A), of the skew-symmetric A = (S − Sᵀ)/2."""
    skew = (angles - angles.T) / 2
    eye = torch.eye(len(angles)).to(angles)
    result: Tensor = torch.linalg.solve(eye - skew, eye + skew)
    return result
