"""Arrays in NumPy's format (`.npy`) that somebody brings, read without running any code in them.

What a header says is held against what there is before anything else is allocated; members of an
archive are read by `archives`, after the same headers.
"""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np

from libgraph.errors import DataError

LONGEST_HEADER = 2**16
"""Bytes; NumPy itself reads no longer ones."""

READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,
}
"""By version; the third one is the second with names of fields in UTF-8, which ours have not."""


class ArrayHeader(NamedTuple):
    """What a header says, and where it ends.

    Args:
        shape: of the array; no number is negative.
        fortran: whether the first index varies fastest.
        dtype: of its numbers.
        begin: byte at which they begin.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    begin: int

    @property
    def claimed(self) -> int:
        """Bytes that the array takes, if the header is right."""
        # Python's numbers, as a product of NumPy's could turn over.
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def plain(self) -> bool:
        """Whether elements are neither Python's objects, which only pickles can hold, nor empty."""
        return not self.dtype.hasobject and self.dtype.itemsize > 0


def read_header(file: IO[bytes]) -> ArrayHeader | None:
    """What the first bytes of a file say; None if they are no header of an array."""
    # Apart: what says how long it is, a file makes room for before it reads.
    head = BytesIO(file.read(LONGEST_HEADER))
    try:
        version = np.lib.format.read_magic(head)
        if version not in READ_HEADER:
            return None
        shape, fortran, dtype = READ_HEADER[version](head)
    except Exception:
        # A damaged header leads NumPy, and Python's parser for it, to errors of many kinds.
        return None
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        return None
    return ArrayHeader(shape, fortran, dtype, head.tell())


def read_array(file: Path | BytesIO) -> np.ndarray | None:
    """What a .npy file holds; None if that is no array, or the file is damaged.

    A file is mapped; nothing is allocated before the header is held against its size.

    Raises:
        DataError: if it holds more than one array.
        OSError: if it cannot be read.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            header, size = read_header(opened), file.stat().st_size
    else:
        file.seek(0)
        header, size = read_header(file), len(file.getbuffer())
    if header is None or not header.plain:
        return None
    more = size - header.begin - header.claimed
    if more < 0:
        return None
    if isinstance(file, Path) and more:
        raise DataError(f"'{file}' goes on for {more} bytes after its array: save one alone.")
    order: Literal["C", "F"] = "F" if header.fortran else "C"
    try:
        if not header.claimed:
            return np.zeros(header.shape, header.dtype)
        buffer = np.memmap(file, np.uint8, "r") if isinstance(file, Path) else file.getbuffer()
        return np.ndarray(header.shape, header.dtype, buffer, header.begin, order=order)
    except (ValueError, TypeError, OverflowError):
        # Shapes that no array has.
        return None
