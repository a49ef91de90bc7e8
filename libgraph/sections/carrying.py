"""What a section carries on as it is: copies of coordinates, not products with zeros and ones.

In its own coordinates a residual stream goes on unchanged, and of the matrix S that does so all is
zeros and ones but the row of biases. Features see it mixed; then it is a product like any other.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST = 64
"""Matrices with fewer rows are multiplied whatever they hold."""


PIECES = 8
"""Stretches of coordinates that may go on together; with more a product is as fast."""


@dataclass(frozen=True)
class Stretches:
    """A matrix of zeros and ones, but for one row.

    Args:
        sources: coordinates that go on, one stretch after the other, and as a number how many
            zeros there are between.
        mixed: the row that is none, if there is one.
    """

    sources: tuple[slice | int, ...]
    mixed: int | None

    @classmethod
    def of(cls, factor: Float[Tensor, "d_in d_out"]) -> Stretches | None:
        """What a matrix copies, or None if it does more than that."""
        marks = factor != 0
        apart = (marks & (factor != 1)).any(1)
        if int(apart.sum()) > 1:
            return None
        mixed = int(apart.nonzero()) if bool(apart.any()) else None
        if mixed is not None:
            marks = marks.clone()
            marks[mixed] = False
        if int(marks.sum(0).max()) > 1:
            return None
        # The coordinate that each column copies; one column of zeros as well as the next.
        origins = torch.where(marks.any(0), marks.int().argmax(0), -1).tolist()
        starts = [0]
        for column, (before, here) in enumerate(pairwise(origins), start=1):
            if here != (before + 1 if before >= 0 else -1):
                starts.append(column)
        if len(starts) > PIECES:
            return None
        sources: list[slice | int] = []
        for start, stop in pairwise([*starts, len(origins)]):
            origin = origins[start]
            length = stop - start
            sources.append(slice(origin, origin + length) if origin >= 0 else length)
        return cls(tuple(sources), mixed)

    def __call__(self, x: Float[Tensor, "*n d_in"], factor: Tensor) -> Float[Tensor, "*n d_out"]:
        """x times the matrix."""
        y = torch.cat(
            [
                x[..., source]
                if isinstance(source, slice)
                else x.new_zeros(()).expand(*x.shape[:-1], source)
                for source in self.sources
            ],
            dim=-1,
        )
        if self.mixed is None:
            return y
        return y + x[..., self.mixed, None] * factor[self.mixed]


class Carrier:
    """Remembers what the matrix of a section copies, as long as it is the same matrix."""

    def __init__(self) -> None:
        self._known: tuple[weakref.ref[Tensor], int, Stretches | None] | None = None

    def __reduce__(self) -> tuple[type[Carrier], tuple[()]]:
        # A copy of the section has another matrix.
        return Carrier, ()

    def __call__(
        self, x: Float[Tensor, "*n d_in"], factor: Float[Tensor, "d_in d_out"]
    ) -> Float[Tensor, "*n d_out"]:
        """x @ factor."""
        stretches = self._stretches(factor)
        return x @ factor if stretches is None else stretches(x, factor)

    def _stretches(self, factor: Tensor) -> Stretches | None:
        # Of a matrix that is differentiated, or that stands for many, all entries count.
        if len(factor) < SMALLEST or factor.requires_grad or factor.is_inference():
            return None
        try:
            factor.data_ptr()
        except RuntimeError:
            return None
        if self._known is not None:
            matrix, version, stretches = self._known
            if matrix() is factor and version == factor._version:
                return stretches
        stretches = Stretches.of(factor)
        self._known = weakref.ref(factor), factor._version, stretches
        return stretches
