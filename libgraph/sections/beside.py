"""A section with latents beside it: some go on as they are, others are read off what comes out.

A dictionary's latents are no coordinates of a model's activations. Where later node layers need
them, they go with the activations, before the constant: (x, z, 1) to (f(x, 1), z, σ(f(x, 1) W), 1).
Source: docs/math.md §10.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from libgraph.errors import BackendError
from libgraph.sections.chains import Chain
from libgraph.sections.linear import Linear
from libgraph.sections.parallel import Parallel
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import Effects, LinearMap, Section, Seen
from libgraph.sections.skip_mlp import SkipMLP


class Beside(Section):
    """(x, z, 1) ↦ (f(x, 1), z, σ(f(x, 1) W), 1), σ(p) = p where p > θ and 0 elsewhere.

    Args:
        inner: f, whose last coordinates are the constant, on both sides.
        carried: how many latents z there are.
        ends: whether these do not go on.
        reading: W, of latents that join them.
        threshold: θ of those.
    """

    reading: Tensor
    threshold: Tensor

    def __init__(
        self,
        inner: Section,
        carried: int,
        reading: Float[Tensor, "d_out k"],
        threshold: Float[Tensor, " k"],
        *,
        ends: bool = False,
    ) -> None:
        self.carried, self.going = carried, 0 if ends else carried
        joining = reading.shape[1]
        super().__init__(inner.d_in + carried, inner.d_out + self.going + joining)
        self.inner = inner
        self.positionwise = inner.positionwise
        self.register_buffer("reading", reading)
        self.register_buffer("threshold", threshold)

    def extra_repr(self) -> str:
        """How many go on, of how many."""
        return f"{self.going} of {self.carried}"

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t d_out"]:
        """The inner section, with the latents.

        Raises:
            BackendError: if it has other positions after than before.
        """
        y: Tensor = self.inner(self._state(x))
        if y.shape[1] != x.shape[1]:
            raise BackendError(
                f"Latents cannot go from {x.shape[1]} positions to {y.shape[1]}: a cross-layer "
                "transcoder needs sections that keep positions."
            )
        p = y @ self.reading
        return self._joined(y, self._latents(x), p * self._open(p))

    def linearize(self, x: Float[Tensor, "n s d_in"]) -> LinearMap:
        """The inner derivative; latents go on, and new ones move where they are active."""
        state = self._state(x)
        linear = self.inner.linearize(state)
        open_ = self._open(self.inner(state) @ self.reading).to(x).unsqueeze(1)

        def along(tangents: Tensor) -> Tensor:
            moved = linear(self._state(tangents))
            going = self._latents(tangents).expand(*moved.shape[:-1], -1)
            return self._joined(moved, going, moved @ self.reading * open_)

        return along

    def seen(self, decoder: Float[Tensor, "k d_in"]) -> Seen:
        """What the inner section's effects need, and what decoders have of latents that go on."""
        if self.reading.shape[1]:
            return super().seen(decoder)
        return (*self.inner.seen(self._state(decoder)), self._latents(decoder))

    def effects(self, x: Float[Tensor, "n s d_in"], quadrature: Quadrature) -> Effects:
        """The inner section's own, beside f_j times its latents; by derivatives if some join."""
        if self.reading.shape[1]:
            return super().effects(x, quadrature)
        inner = self.inner.effects(self._state(x), quadrature)

        def effects(features: Tensor, seen: Seen) -> Tensor:
            *factors, latents = seen
            moved = inner(features, tuple(factors))
            going = features.transpose(1, 2).unsqueeze(-1) * latents[None, :, None]
            return self._joined(moved, going, moved[..., :0])

        return effects

    def transform(self, left: LinearMap, right: LinearMap) -> Section:
        """In features' coordinates latents mix with others, and are branches beside the section."""

        def rows(factor: Tensor) -> Tensor:
            return left(_stretched(factor, self.carried, -2))

        there = self.inner.d_out - 1
        joining = self.reading.shape[1]
        eye = torch.eye(self.carried).to(self.reading)[:, : self.going]
        onward = eye.new_zeros(self.d_in, self.d_out)
        onward[self.inner.d_in - 1 : -1, there : there + self.going] = eye
        branches = [
            self.inner.transform(
                rows, lambda factor: right(_stretched(factor, self.going + joining, -1))
            ),
            Linear(right(left(onward))),
        ]
        if joining:
            out = eye.new_zeros(joining, self.d_out)
            out[:, there + self.going : -1] = torch.eye(joining).to(out)
            out = right(out)
            gate = SkipMLP(
                out.new_zeros(joining, out.shape[-1]),
                torch.eye(joining).to(out),
                out,
                _Gate(self.threshold),
            )
            read = self.inner.transform(rows, lambda factor: factor @ self.reading)
            branches.append(Chain([read, gate]))
        return Parallel(branches)

    def elements_per_effect(self, positions: int) -> int:
        """What the inner section has, or the latents."""
        return max(
            self.inner.elements_per_effect(positions), super().elements_per_effect(positions)
        )

    def _state(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d"]:
        return torch.cat([x[..., : self.inner.d_in - 1], x[..., -1:]], dim=-1)

    def _latents(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n c"]:
        first = self.inner.d_in - 1
        return x[..., first : first + self.going]

    def _open(self, p: Float[Tensor, "*n k"]) -> Bool[Tensor, "*n k"]:
        return p > self.threshold

    def _joined(self, y: Tensor, going: Tensor, joining: Tensor) -> Float[Tensor, "*n d_out"]:
        return torch.cat([y[..., :-1], going, joining, y[..., -1:]], dim=-1)


class _Gate:
    """p where p > θ, and 0 elsewhere."""

    __name__ = "gate"

    def __init__(self, threshold: Float[Tensor, " k"]) -> None:
        self.threshold = threshold

    def __call__(self, p: Float[Tensor, "*n k"]) -> Float[Tensor, "*n k"]:
        return p * (p > self.threshold.to(p))


def _stretched(factor: Tensor, count: int, axis: int) -> Tensor:
    """With so many zeros before the last row or column."""
    shape = list(factor.shape)
    shape[axis] = count
    last = factor.shape[axis] - 1
    return torch.cat(
        [factor.narrow(axis, 0, last), factor.new_zeros(shape), factor.narrow(axis, last, 1)],
        dim=axis,
    )
