"""Arrays of NumPy that somebody brings, read without running any code in them."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np

from libgraph.backend import DataError

LONGEST_HEADER = 2**16
"""Bytes; NumPy itself reads no longer ones."""

READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,
}
"""By version; the third one is the second with names of fields in UTF-8, which ours have not."""


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    begin: int
    rest: int

    @property
    def claimed(self) -> int:
        """Bytes that the array takes, if the header is right."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_array(file: Path | BytesIO) -> np.ndarray | None:
    """What a .npy file holds; None if that is no array, or the file is damaged.

    A file is mapped; nothing is allocated before the header is held against its size.

    Raises:
        DataError: if it holds more than one array.
        OSError: if it cannot be read.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            header = _header(opened, file.stat().st_size)
    else:
        header = _header(file, len(file.getbuffer()))
    if header is None or header.claimed > header.rest:
        return None
    if isinstance(file, Path) and header.claimed < header.rest:
        more = header.rest - header.claimed
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


def _header(file: IO[bytes], size: int) -> _Header | None:
    """What the first bytes say; None if they are no header of an array of plain numbers."""
    file.seek(0)
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
    whole = all(isinstance(n, int) and n >= 0 for n in shape)
    if not whole or dtype.hasobject or not dtype.itemsize:
        return None
    return _Header(shape, fortran, dtype, head.tell(), size - head.tell())
