"""A chain of parts as one section: it multiplies the derivatives of its parts.

Where each position is by itself its Jacobian Gram is taken at the narrowest place between two
parts, so that no matrix is wider than it need be.

Source: docs/math.md §5.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from libgraph.sections import autodiff
from libgraph.sections.chunks import chunks
from libgraph.sections.closed_form import ClosedForm
from libgraph.sections.linear import Linear
from libgraph.sections.section import LinearMap, Section


def chain(parts: Sequence[Section]) -> Section:
    """The parts one after the other, as one section; linear ones are multiplied into others.

    Raises:
        ValueError: if there are no parts, or if neighbours do not fit together.
    """
    if not parts:
        raise ValueError("A chain needs at least one part.")
    for first, second in pairwise(parts):
        if first.d_out != second.d_in:
            raise ValueError(
                f"A part that gives {first.d_out} coordinates cannot be followed by one that "
                f"takes {second.d_in}."
            )
    joined = [parts[0]]
    for part in parts[1:]:
        if isinstance(part, Linear):
            joined[-1] = joined[-1].rebase(encoder=part.matrix)
        elif isinstance(joined[-1], Linear):
            joined[-1] = part.rebase(decoder=joined[-1].matrix)
        else:
            joined.append(part)
    return joined[0] if len(joined) == 1 else Chain(joined)


class Chain(ClosedForm):
    """y = (… ∘ f₂ ∘ f₁)(x); `chain` makes one and leaves out what is linear.

    Args:
        parts: in the order in which they act, at least one.
    """

    def __init__(self, parts: Sequence[Section]) -> None:
        super().__init__(parts[0].d_in, parts[-1].d_out)
        self.parts = cast("Sequence[Section]", nn.ModuleList(parts))
        self.positionwise = all(part.positionwise for part in parts)

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t d_out"]:
        """All parts in turn."""
        return reduce(lambda y, part: part(y), self.parts, x)

    def transform(self, left: LinearMap, right: LinearMap) -> Chain:
        """The first part changed where the input comes in, the last where the output leaves."""
        parts = list(self.parts)
        parts[0] = parts[0].transform(left, lambda factor: factor)
        parts[-1] = parts[-1].transform(lambda factor: factor, right)
        return Chain(parts)

    def linearize(self, x: Float[Tensor, "n s d_in"]) -> LinearMap:
        """The parts' derivatives one after the other, each at what the parts before it give."""
        return self._linearize(x, self.parts)[0]

    def _linearize(self, x: Tensor, parts: Sequence[Section]) -> tuple[LinearMap, Tensor]:
        steps = []
        for part in parts:
            steps.append(part.linearize(x))
            x = part(x)
        return lambda tangents: reduce(lambda moved, step: step(moved), steps, tangents), x

    def jacobian_gram(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "d_in d_in"]:
        """Σ L (R Rᵀ) Lᵀ, J = L R cut where fewest coordinates pass; autodiff if positions mix."""
        if not self.positionwise:
            return autodiff.jacobian_gram(self, x)
        widths = [part.d_out for part in self.parts]
        cut = widths.index(min(widths)) + 1
        rows, waist = (torch.eye(d).to(x)[None, :, None] for d in (self.d_in, widths[cut - 1]))
        total = x.new_zeros(self.d_in, self.d_in, dtype=torch.float64)
        x = x.reshape(-1, 1, self.d_in)
        for samples in chunks(len(x), max(*widths, self.d_in) ** 2, x):
            first, between = self._linearize(x[samples], self.parts[:cut])
            left = passed = first(rows).squeeze(2)
            if cut < len(self.parts):
                second, _ = self._linearize(between, self.parts[cut:])
                right = second(waist).squeeze(2)
                passed = left @ (right @ right.transpose(1, 2))
            total += torch.einsum("mik,mjk->ij", passed, left).double()
        return total

    def elements_per_effect(self, positions: int) -> int:
        """What the largest part has."""
        return max(part.elements_per_effect(positions) for part in self.parts)
