"""How intermediate results are cut: into chunks of a size that memory hands out quickly."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

CHUNK_BYTES = 8 * 2**20
"""Intermediate results of closed forms are cut to about this size. Freed blocks of this size are
used again, while larger ones go back to the system and cost more to get than to fill."""


DEVICE_CHUNK_BYTES = 256 * 2**20
"""The same on an accelerator, which small chunks would leave idle."""


def chunks(count: int, elements: int, like: Tensor) -> Iterator[slice]:
    """Slices of `count` things of so many elements each, of about a chunk."""
    size = chunk_length(elements, like)
    return (slice(i, min(i + size, count)) for i in range(0, count, size))


def chunk_length(elements: int, like: Tensor) -> int:
    """How many things of so many elements each make a chunk, at least one."""
    size = CHUNK_BYTES if like.device.type == "cpu" else DEVICE_CHUNK_BYTES
    return max(1, size // max(1, elements * like.element_size()))
