"""How large an activation is, for dictionaries that divide each one by its own size.

Such a dictionary reads (h − m) / n with n(h) the standard deviation of h over its coordinates, or
its root mean square, and m their mean, or 0. Times n its pre-activations are linear in the
activation and in n: n is one coordinate more that latents read. Source: docs/math.md §10.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.sections.chains import chain
from libgraph.sections.length import Length
from libgraph.sections.section import Section


@dataclass(frozen=True)
class Size:
    """n(x) = |x L| + ε, and how much of it features read.

    Args:
        stream: L `(d, m)`.
        epsilon: ε.
        read: `(k)`, by feature: 1 for the size itself, biases for latents.
    """

    stream: Float[Tensor, "d m"]
    epsilon: float
    read: Float[Tensor, " k"]

    def to(self, *where: Any) -> Size:
        """The same on another device or in another precision."""
        return replace(self, stream=self.stream.to(*where), read=self.read.to(*where))

    def of(self, kept: Tensor) -> Size:
        """As these features read it."""
        return replace(self, read=self.read[kept])

    def beside(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d_and_1"]:
        """Activations with their size as the last coordinate."""
        return torch.cat([x, self.at(x)], dim=-1)

    def at(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n 1"]:
        """n(x)."""
        length: Tensor = torch.linalg.vector_norm(x @ self.stream, dim=-1, keepdim=True)
        return length + self.epsilon

    def after(self, section: Section) -> Section:
        """A section whose output has its size as one coordinate more."""
        size = len(self.stream)
        skip, last = (
            torch.eye(size + 1).to(self.stream)[rows] for rows in (slice(size), slice(size, None))
        )
        return chain([section, Length(skip, self.stream, last, self.epsilon)])
