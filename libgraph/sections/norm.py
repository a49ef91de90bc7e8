"""LayerNorm and RMSNorm, split into their variance and the division by its root.

The split makes the variance a coordinate, and so a feature, of its own (arXiv 2405.10928). Both
halves have Jacobians of constant matrices and one vector or two per sample, so that the Jacobian
Gram and the interactions need a few moments over the data and no Jacobian. `split_norm` makes both
for a plain residual stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from libgraph.sections.carrying import Carrier, Centrer
from libgraph.sections.kept_inputs import growing_products
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import LinearMap, Section


class Variance(Section):
    """y = x S + v(x) b with v(x) = |x L|²/d: the variance joins the stream along b.

    Args:
        skip: S `(d_in, d_out)`, what goes on.
        stream: L `(d_in, d)`, the normalised coordinates, their mean taken out for LayerNorm.
        direction: b `(1, d_out)`, where the variance goes.
    """

    positionwise = True
    skip: Tensor
    stream: Tensor
    direction: Tensor

    def __init__(
        self,
        skip: Float[Tensor, "d_in d_out"],
        stream: Float[Tensor, "d_in d"],
        direction: Float[Tensor, "1 d_out"],
    ) -> None:
        super().__init__(*skip.shape)
        self.register_buffer("skip", skip)
        self.carry, self.centre = Carrier(), Centrer()
        self.register_buffer("stream", stream)
        self.register_buffer("direction", direction)

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n s d_out"]:
        """x S + |x L|²/d b."""
        variance = self.centre(x, self.stream).square().mean(-1, keepdim=True)
        return self.carry(x, self.skip).addcmul(variance, self.direction)

    def transform(self, left: LinearMap, right: LinearMap) -> Variance:
        """The same with S, L and b changed at their outer ends."""
        return Variance(right(left(self.skip)), left(self.stream), right(self.direction))

    def jacobian_gram(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "d_in d_in"]:
        """Σ (S + uᵀb)(S + uᵀb)ᵀ, u = (2/d) (x L) Lᵀ the gradient of the variance."""
        skip, direction = self.skip.double(), self.direction.double()
        slope = 2 / self.stream.shape[1] * (x @ self.stream).flatten(0, -2)
        stream = self.stream.double()
        mean = (stream @ slope.double().sum(0)).unsqueeze(1)
        cross = mean @ (direction @ skip.T)
        second = stream @ (slope.T @ slope).double() @ stream.T
        return len(slope) * skip @ skip.T + cross + cross.T + direction.square().sum() * second

    def linearize(self, x: Float[Tensor, "n s d_in"]) -> LinearMap:
        """Tangents times S + uᵀb."""
        slope = (2 / self.stream.shape[1] * (x @ self.stream)).unsqueeze(1)
        return lambda tangents: (
            tangents @ self.skip
            + ((tangents @ self.stream) * slope).sum(-1, keepdim=True) * self.direction
        )

    def interactions(
        self,
        x: Float[Tensor, "n s d_in"],
        features: Float[Tensor, "n s k"],
        decoder: Float[Tensor, "k d_in"],
        quadrature: Quadrature,
    ) -> Float[Tensor, "d_out k"]:
        """Σ f_j² (Ŝ_ji + û_j b_i)², multiplied out; u is linear in x, so α only scales it."""
        mean = sum(a * w for a, w in zip(quadrature.points, quadrature.weights, strict=True))
        slope = mean * 2 / self.stream.shape[1] * (x @ self.stream).flatten(0, -2)
        gradient = (slope @ (decoder @ self.stream).T).double()
        squares = features.flatten(0, -2).double().square()
        skip, direction = (decoder @ self.skip).double(), self.direction.double()
        total = (
            skip.square() * squares.sum(0).unsqueeze(1)
            + 2 * skip * direction * (squares * gradient).sum(0).unsqueeze(1)
            + direction.square() * (squares * gradient.square()).sum(0).unsqueeze(1)
        )
        return total.T

    def masked(
        self, x: Float[Tensor, "n s d_in"], keep: Bool[Tensor, "d_in d_out"]
    ) -> Float[Tensor, "n s d_out"]:
        """x (S ∘ keep) for all outputs in one product; only where the variance goes it is taken."""
        y = x @ torch.where(keep, self.skip, 0)
        changed = self.direction.squeeze(0).nonzero().squeeze(1)
        masks, owner = torch.unique(keep[:, changed], dim=1, return_inverse=True)
        for index, mask in enumerate(masks.T):
            variance = (x[..., mask] @ self.stream[mask]).square().mean(-1, keepdim=True)
            columns = changed[owner == index]
            y[..., columns] += variance * self.direction[:, columns]
        return y

    def nested(
        self, x: Float[Tensor, "n s d_in"], sizes: Sequence[int]
    ) -> Iterator[Float[Tensor, "n s d_out"]]:
        """Ever more of x S and x L."""
        for skip, stream in growing_products(x, [self.skip, self.stream], sizes):
            yield skip + stream.square().mean(-1, keepdim=True) * self.direction


class Division(Section):
    """y = x S + (v + ε)^{-1/2} (x L) B with v = x e: the stream divided by its deviation.

    Args:
        skip: S `(d_in, d_out)`, what goes on undivided.
        variance: e `(d_in, 1)`, which coordinate holds the variance.
        stream: L `(d_in, d)`, the coordinates that are divided, centred for LayerNorm.
        outer: B `(d, d_out)`, where they go.
        epsilon: ε, added to the variance.
    """

    positionwise = True
    skip: Tensor
    variance: Tensor
    stream: Tensor
    outer: Tensor

    def __init__(
        self,
        skip: Float[Tensor, "d_in d_out"],
        variance: Float[Tensor, "d_in 1"],
        stream: Float[Tensor, "d_in d"],
        outer: Float[Tensor, "d d_out"],
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__(*skip.shape)
        self.register_buffer("skip", skip)
        self.carry, self.place, self.holder, self.centre = (
            Carrier(),
            Carrier(),
            Carrier(),
            Centrer(),
        )
        self.register_buffer("variance", variance)
        self.register_buffer("stream", stream)
        self.register_buffer("outer", outer)
        self.epsilon = epsilon

    def extra_repr(self) -> str:
        """The ε."""
        return f"epsilon={self.epsilon}"

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n s d_out"]:
        """x S + (x e + ε)^{-1/2} (x L) B."""
        scale = (self.holder(x, self.variance) + self.epsilon).rsqrt()
        normalised = scale * self.centre(x, self.stream)
        return self.place.onto(self.carry(x, self.skip), normalised, self.outer)

    def transform(self, left: LinearMap, right: LinearMap) -> Division:
        """The same with S, e, L and B changed at their outer ends."""
        return Division(
            right(left(self.skip)),
            left(self.variance),
            left(self.stream),
            right(self.outer),
            self.epsilon,
        )

    def jacobian_gram(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "d_in d_in"]:
        """Σ J Jᵀ with J = S + s L B − ½ s³ e (x L) B, s = (v + ε)^{-1/2}."""
        scale, bent = self._local(x, Quadrature.gradient())
        skip, through = self.skip.double(), (self.stream @ self.outer).double()
        variance = self.variance.double()
        mixed = scale.sum() * skip @ through.T
        aside = (bent.sum(0) @ skip.T + (scale * bent).sum(0) @ through.T) * variance
        total = len(scale) * skip @ skip.T + scale.square().sum() * through @ through.T
        total = total + bent.square().sum() * variance @ variance.T
        return total + mixed + mixed.T + aside + aside.T

    def linearize(self, x: Float[Tensor, "n s d_in"]) -> LinearMap:
        """Tangents times S + s L B − ½ s³ e (x L) B."""
        scale, bent = (
            local.to(x).unflatten(0, x.shape[:2]).unsqueeze(1)
            for local in self._local(x, Quadrature.gradient())
        )
        return lambda tangents: (
            tangents @ self.skip
            + scale * ((tangents @ self.stream) @ self.outer)
            + (tangents @ self.variance) * bent
        )

    def interactions(
        self,
        x: Float[Tensor, "n s d_in"],
        features: Float[Tensor, "n s k"],
        decoder: Float[Tensor, "k d_in"],
        quadrature: Quadrature,
    ) -> Float[Tensor, "d_out k"]:
        """Σ f_j² (Ŝ_ji + s (L̂B)_ji + ê_j h_i)², h = −½ s³ (x L) B, as products of moments."""
        scale, bent = self._local(x, quadrature)
        squares = features.flatten(0, -2).double().square()
        skip, through, variance = (
            (decoder @ factor).double()
            for factor in (self.skip, self.stream @ self.outer, self.variance)
        )
        weighted = scale * squares
        total = (
            skip.square() * squares.sum(0).unsqueeze(1)
            + 2 * skip * through * weighted.sum(0).unsqueeze(1)
            + through.square() * (scale * weighted).sum(0).unsqueeze(1)
            + 2 * variance * (skip * (squares.T @ bent) + through * (weighted.T @ bent))
            + variance.square() * (squares.T @ bent.square())
        )
        return total.T

    def masked(
        self, x: Float[Tensor, "n s d_in"], keep: Bool[Tensor, "d_in d_out"]
    ) -> Float[Tensor, "n s d_out"]:
        """x (S ∘ keep) + (v + ε)^{-1/2} x (L B ∘ keep), v of the inputs that hold it and are kept.

        All outputs in two products: mostly one input holds the variance, and is kept or not.
        """
        holders = self.variance.squeeze(1).nonzero().squeeze(1)
        masks, owner = torch.unique(keep[holders], dim=1, return_inverse=True)
        variance = x[..., holders] @ (self.variance[holders] * masks)
        scale = (variance + self.epsilon).rsqrt()[..., owner]
        skip, through = self.skip, self.stream @ self.outer
        y: Tensor = x @ torch.where(keep, skip, 0) + scale * (x @ torch.where(keep, through, 0))
        return y

    def nested(
        self, x: Float[Tensor, "n s d_in"], sizes: Sequence[int]
    ) -> Iterator[Float[Tensor, "n s d_out"]]:
        """Ever more of x S, x e and x L B."""
        factors = [self.skip, self.variance, self.stream @ self.outer]
        for skip, variance, through in growing_products(x, factors, sizes):
            yield skip + (variance + self.epsilon).rsqrt() * through

    def _local(
        self, x: Float[Tensor, "n s d_in"], quadrature: Quadrature
    ) -> tuple[Float[Tensor, "m 1"], Float[Tensor, "m d_out"]]:
        """∫s dα and ∫−½ s³ (αx L) B dα, one row per sample and position, in float64."""
        x = x.flatten(0, -2)
        variance, moved = (x @ self.variance).double(), ((x @ self.stream) @ self.outer).double()
        scale, bend = torch.zeros_like(variance), torch.zeros_like(variance)
        for point, weight in zip(quadrature.points, quadrature.weights, strict=True):
            at = (point * variance + self.epsilon).rsqrt()
            scale += weight * at
            bend -= weight * point / 2 * at**3
        return scale, bend * moved


def split_norm(
    size: int, *, epsilon: float = 1e-5, centred: bool = True, keep: bool = True
) -> tuple[Variance, Division]:
    """The two halves of a norm on a stream of `size` coordinates and the constant.

    The node layers are (r, 1), then (v, r, 1), then (y, r, 1) or, without `keep`, (y, 1), where
    r is the stream, v its variance and y the normalised stream; scale and shift belong to what
    reads y.

    Args:
        size: coordinates of the stream, the constant not counted.
        epsilon: what the model adds to the variance.
        centred: True for LayerNorm, False for RMSNorm.
        keep: whether the stream itself goes on, as a residual stream does.
    """
    # In double precision until the network's is known: 1/size is no round number.
    stream = torch.eye(size, dtype=torch.float64)
    stream = stream - 1 / size if centred else stream
    eye = torch.eye(size + 1, dtype=torch.float64)
    first = Variance(
        torch.nn.functional.pad(eye, (1, 0)),
        torch.nn.functional.pad(stream, (0, 0, 0, 1)),
        torch.eye(1, size + 2).to(eye),
    )
    goes_on = eye if keep else eye[:, size:]
    second = Division(
        torch.nn.functional.pad(goes_on, (size, 0, 1, 0)),
        torch.eye(size + 2, 1).to(eye),
        torch.nn.functional.pad(stream, (0, 0, 1, 1)),
        torch.eye(size, size + goes_on.shape[1]).to(eye),
        epsilon,
    )
    return first, second
