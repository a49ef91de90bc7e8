"""Arrays of NumPy that somebody brings, read without running any code in them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np

from libgraph.backend import DataError
from libgraph.files.arrays import read_header


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
