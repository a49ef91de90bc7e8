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
from libgraph.sections.length import Divided, Length, divided
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


@dataclass(frozen=True)
class Normalised:
    """h̃(x) = (x R) / (|x L| + ε), which latents of a transcoder read in place of x R.

    What they write is of another place, and is not multiplied by what they were divided by.

    Args:
        centred: R `(d, h)`.
        stream: L `(d, m)`.
        epsilon: ε.
        read: `(h, k)`, what features read of h̃.
    """

    centred: Float[Tensor, "d h"]
    stream: Float[Tensor, "d m"]
    epsilon: float
    read: Float[Tensor, "h k"]

    def to(self, *where: Any) -> Normalised:
        """The same on another device or in another precision."""
        return replace(
            self,
            centred=self.centred.to(*where),
            stream=self.stream.to(*where),
            read=self.read.to(*where),
        )

    def of(self, kept: Tensor) -> Normalised:
        """As these features read it."""
        return replace(self, read=self.read[:, kept])

    def beside(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d_and_h"]:
        """Activations with h̃ as the last coordinates."""
        return torch.cat([x, divided(x, self.centred, self.stream, self.epsilon)], dim=-1)

    def after(self, section: Section) -> Section:
        """A section whose output has h̃ as so many coordinates more."""
        size, more = self.centred.shape
        skip, last = torch.eye(size + more).to(self.centred).split([size, more])
        return chain([section, Divided(skip, self.centred, self.stream, last, self.epsilon)])
