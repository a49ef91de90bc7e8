"""How long an activation is, as a coordinate of what comes out, or with what is divided by it.

Standard deviations of single activations, and their root mean squares, are lengths of linear
functions of these. Unlike a norm of the network, which is split in two (`norm`), one of these is
only read by dictionaries, and what is divided by it is written nowhere. Source: docs/math.md §10.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.sections.section import LinearMap, Section


class Length(Section):
    """y = x S + n(x) b with n(x) = |x L| + ε.

    Args:
        skip: S `(d_in, d_out)`.
        stream: L `(d_in, d)`, of which the length is taken.
        direction: b `(1, d_out)`, where it goes.
        epsilon: ε.
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
        epsilon: float = 0.0,
    ) -> None:
        super().__init__(*skip.shape)
        self.register_buffer("skip", skip)
        self.register_buffer("stream", stream)
        self.register_buffer("direction", direction)
        self.epsilon = epsilon

    def extra_repr(self) -> str:
        """The ε."""
        return f"epsilon={self.epsilon}"

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n s d_out"]:
        """x S + (|x L| + ε) b."""
        length: Tensor = torch.linalg.vector_norm(x @ self.stream, dim=-1, keepdim=True)
        return x @ self.skip + (length + self.epsilon) * self.direction

    def transform(self, left: LinearMap, right: LinearMap) -> Length:
        """The same with S, L and b changed at their outer ends."""
        return Length(
            right(left(self.skip)), left(self.stream), right(self.direction), self.epsilon
        )

    def linearize(self, x: Float[Tensor, "n s d_in"]) -> LinearMap:
        """Tangents times S + L uᵀ b, u = x L / |x L|, and 0 where that is."""
        moved = x @ self.stream
        length = moved.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        along = (moved / length).unsqueeze(1)
        return lambda tangents: (
            tangents @ self.skip
            + ((tangents @ self.stream) * along).sum(-1, keepdim=True) * self.direction
        )


class Divided(Section):
    """y = x S + (x R) B / n(x) with n(x) = |x L| + ε.

    Args:
        skip: S `(d_in, d_out)`.
        read: R `(d_in, h)`, what is divided.
        stream: L `(d_in, d)`, of which the length is taken.
        outer: B `(h, d_out)`, where it goes.
        epsilon: ε.
    """

    positionwise = True
    skip: Tensor
    read: Tensor
    stream: Tensor
    outer: Tensor

    def __init__(
        self,
        skip: Float[Tensor, "d_in d_out"],
        read: Float[Tensor, "d_in h"],
        stream: Float[Tensor, "d_in d"],
        outer: Float[Tensor, "h d_out"],
        epsilon: float = 0.0,
    ) -> None:
        super().__init__(*skip.shape)
        self.register_buffer("skip", skip)
        self.register_buffer("read", read)
        self.register_buffer("stream", stream)
        self.register_buffer("outer", outer)
        self.epsilon = epsilon

    def extra_repr(self) -> str:
        """The ε."""
        return f"epsilon={self.epsilon}"

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n s d_out"]:
        """x S + (x R) B / (|x L| + ε)."""
        return x @ self.skip + divided(x, self.read, self.stream, self.epsilon) @ self.outer

    def transform(self, left: LinearMap, right: LinearMap) -> Divided:
        """The same with S, R, L and B changed at their outer ends."""
        return Divided(
            right(left(self.skip)),
            left(self.read),
            left(self.stream),
            right(self.outer),
            self.epsilon,
        )

    def linearize(self, x: Float[Tensor, "n s d_in"]) -> LinearMap:
        """Tangents t to t S + (t R − (t L · u) x R / n) B / n, u = x L / |x L|; to t S at n = 0."""
        moved = x @ self.stream
        length = moved.norm(dim=-1, keepdim=True)
        tiny = torch.finfo(x.dtype).tiny
        size = (length + self.epsilon).unsqueeze(1)
        # Where nothing is long there is no direction in which it would be divided by more.
        inverse = (size >= tiny) / size.clamp(min=tiny)
        along = (moved / length.clamp(min=tiny)).unsqueeze(1)
        value = (x @ self.read).unsqueeze(1) * inverse
        return lambda tangents: (
            tangents @ self.skip
            + (
                (
                    tangents @ self.read
                    - ((tangents @ self.stream) * along).sum(-1, keepdim=True) * value
                )
                * inverse
            )
            @ self.outer
        )


def divided(
    x: Float[Tensor, "*n d_in"],
    read: Float[Tensor, "d_in h"],
    stream: Float[Tensor, "d_in d"],
    epsilon: float,
) -> Float[Tensor, "*n h"]:
    """x R / (|x L| + ε); 0 where nothing is long."""
    length = torch.linalg.vector_norm(x @ stream, dim=-1, keepdim=True) + epsilon
    found: Tensor = (x @ read) / length.clamp(min=torch.finfo(x.dtype).tiny)
    return found
