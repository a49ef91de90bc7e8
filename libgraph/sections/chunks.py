"""How intermediate results are cut: into chunks of a size that memory hands out quickly.

On processors freed blocks of these sizes are used again, while larger ones go back to the system
and cost more to get than to fill; an accelerator would be idle with small ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor


class ChunkSize(NamedTuple):
    """Bytes of a chunk, by where it is."""

    processor: int
    accelerator: int

    def at(self, like: Tensor) -> int:
        """Bytes of a chunk where this tensor is."""
        return self.processor if like.device.type == "cpu" else self.accelerator


CLOSED_FORMS = ChunkSize(8 * 2**20, 256 * 2**20)
"""Intermediate results of closed forms are cut to about this size."""


DERIVATIVES = ChunkSize(16 * 2**20, 128 * 2**20)
"""Derivatives by automatic differentiation that are held at once: with 128 MiB attention takes
twice as long on a processor, gradients of a whole network three times (measured)."""


def chunks(count: int, elements: int, like: Tensor) -> Iterator[slice]:
    """Slices of `count` things of so many elements each, of about a chunk."""
    size = chunk_length(elements, like)
    return (slice(i, min(i + size, count)) for i in range(0, count, size))


def chunk_length(elements: int, like: Tensor) -> int:
    """How many things of so many elements each make a chunk, at least one."""
    return max(1, CLOSED_FORMS.at(like) // max(1, elements * like.element_size()))
