"""What a section need not multiply: coordinates that it carries on, and others that it ignores.

In its own coordinates a residual stream goes on unchanged, and of the matrix S that does so all is
zeros and ones but the row of biases; what reads the normalised stream has zeros for the other one.
Features see both mixed; then these are products like any other.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

SMALLEST = 64
"""Matrices with fewer rows are multiplied whatever they hold."""


PIECES = 8
"""Stretches of coordinates that may go on together; with more a product is as fast."""


MOST_READ = 0.8
"""Share of the coordinates up to which it pays to leave the others out of a product."""


SINGLE = 4
"""Bytes of a number of single precision."""


Found = TypeVar("Found")


_LOOKED = [0]
"""How often all matrices were to be looked at again."""


def look_again() -> None:
    """Believe nothing that was found before: changes through `.data` raise no matrix's version."""
    _LOOKED[0] += 1


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
        y = self._copied(x)
        if self.mixed is None:
            return y
        if not is_constant(x):
            # vmap does the other in a loop, and warns.
            return y + x[..., self.mixed, None] * factor[self.mixed]
        return y.addcmul_(x[..., self.mixed, None], factor[self.mixed])

    @property
    def _sizes(self) -> list[int]:
        """Of the stretches and what lies between them."""
        return [s.stop - s.start if isinstance(s, slice) else s for s in self.sources]

    def _copied(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_out"]:
        """The stretches one after the other."""
        if not is_constant(x):
            parts = [
                x[..., source]
                if isinstance(source, slice)
                else x.new_zeros(()).expand(*x.shape[:-1], source)
                for source in self.sources
            ]
            return torch.cat(parts, dim=-1)
        # Copies use all threads, a concatenation of what is apart in memory does not.
        sizes = self._sizes
        y = x.new_empty(*x.shape[:-1], sum(sizes))
        for source, part in zip(self.sources, y.split(sizes, dim=-1), strict=True):
            if isinstance(source, slice):
                part.copy_(x[..., source])
            else:
                part.zero_()
        return y


@dataclass(frozen=True)
class Centred:
    """The identity, or the mean taken out, of one stretch of coordinates: I + c 𝟏𝟏ᵀ there.

    Args:
        rows: the stretch; other rows are zero.
        shared: c, −1/n where the mean is taken out.
    """

    rows: slice
    shared: float

    @classmethod
    def of(cls, factor: Float[Tensor, "d_in d_out"]) -> Centred | None:
        """What a matrix centres, or None if it does something else."""
        size = factor.shape[1]
        if factor.element_size() < SINGLE:
            # A sum would be rounded to few digits, or be infinite; a product adds up in more.
            return None
        read = (factor != 0).any(1).nonzero().squeeze(1)
        if len(read) != size or size < 2 or int(read[-1] - read[0]) != size - 1:
            return None
        rows = slice(int(read[0]), int(read[-1]) + 1)
        shared = factor[rows.start, 1].clone()
        rest = factor[rows] - shared
        rest.diagonal().sub_(1)
        # The diagonal was rounded, and is again.
        exact = rest.abs() <= torch.finfo(factor.dtype).eps * torch.eye(size).to(factor)
        return cls(rows, float(shared)) if bool(exact.all()) else None

    def __call__(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d"]:
        """x times the matrix."""
        part = x[..., self.rows]
        return part + self.shared * part.sum(-1, keepdim=True) if self.shared else part


def rows_read(factor: Float[Tensor, "d_in d_out"]) -> tuple[slice, ...] | None:
    """The rows that are not zero, the longest stretch of them first; None if they are too many."""
    read = (factor != 0).any(1).int()
    if not 0 < int(read.sum()) <= MOST_READ * len(factor):
        return None
    steps = torch.diff(torch.nn.functional.pad(read, (1, 1)))
    starts, stops = ((sign * steps > 0).nonzero()[:, 0].tolist() for sign in (1, -1))
    stretches = sorted(map(slice, starts, stops), key=lambda rows: rows.start - rows.stop)
    return tuple(stretches) if len(stretches) <= PIECES else None


class Memory(Generic[Found]):
    """Remembers what was found in a matrix, as long as it is the same matrix.

    Args:
        find: says what there is in a matrix, or None.
    """

    def __init__(self, find: Callable[[Tensor], Found | None]) -> None:
        self._find = find
        self._known: tuple[weakref.ref[Tensor], tuple[int, int], Found | None] | None = None

    def __reduce__(self) -> tuple[type[Memory[Found]], tuple[Callable[[Tensor], Found | None]]]:
        # A copy of the section has another matrix.
        return Memory, (self._find,)

    def of(self, factor: Float[Tensor, "d_in d_out"]) -> Found | None:
        """What was found in this matrix; nothing in a small one, or where all entries count."""
        # Of a matrix that is differentiated, or that stands for many, all do.
        if len(factor) < SMALLEST or not is_constant(factor):
            return None
        version = _LOOKED[0], factor._version
        if self._known is not None:
            matrix, known, found = self._known
            if matrix() is factor and version == known:
                return found
        found = self._find(factor)
        self._known = weakref.ref(factor), version, found
        return found


def is_constant(tensor: Tensor) -> bool:
    """Whether it is plain numbers: not differentiated, and not many tensors that look like one."""
    if tensor.requires_grad or tensor.is_inference():
        return False
    # In forward mode by hand, without torch.func, a tensor looks plain but has a tangent.
    if unpack_dual(tensor).tangent is not None:
        return False
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True


class Carrier:
    """Products with a matrix that mostly copies."""

    def __init__(self) -> None:
        self.copies = Memory(Stretches.of)

    def __call__(
        self, x: Float[Tensor, "*n d_in"], factor: Float[Tensor, "d_in d_out"]
    ) -> Float[Tensor, "*n d_out"]:
        """x @ factor."""
        stretches = self.copies.of(factor)
        return x @ factor if stretches is None else stretches(x, factor)

    def onto(
        self,
        y: Float[Tensor, "*n d_out"],
        x: Float[Tensor, "*n d_in"],
        factor: Float[Tensor, "d_in d_out"],
    ) -> Float[Tensor, "*n d_out"]:
        """x @ factor + y, added up in the first of them."""
        stretches = self.copies.of(factor)
        if stretches is None or not (is_constant(x) and is_constant(y)):
            return y + self(x, factor)
        return stretches(x, factor).add_(y)


class Centrer:
    """Products with a matrix that mostly takes out a mean."""

    def __init__(self) -> None:
        self.centred = Memory(Centred.of)

    def __call__(
        self, x: Float[Tensor, "*n d_in"], factor: Float[Tensor, "d_in d_out"]
    ) -> Float[Tensor, "*n d_out"]:
        """x @ factor."""
        centred = self.centred.of(factor)
        return x @ factor if centred is None else centred(x)


class Reader:
    """Products with a matrix that does not read all coordinates."""

    def __init__(self) -> None:
        self.read = Memory(rows_read)

    def __call__(
        self, x: Float[Tensor, "*n d_in"], factor: Float[Tensor, "d_in d_out"]
    ) -> Float[Tensor, "*n d_out"]:
        """x @ factor."""
        stretches = self.read.of(factor)
        if stretches is None:
            return x @ factor
        longest, *others = stretches
        y = x[..., longest] @ factor[longest]
        for rows in others:
            # Of one coordinate, such as the constant, a product is a sum.
            single = rows.stop - rows.start == 1
            part, of_part = x[..., rows], factor[rows]
            y = y.addcmul_(part, of_part) if single else y + part @ of_part
        return y
