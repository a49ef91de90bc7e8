"""Arrays of NumPy that somebody brings, read without running any code in them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np

from libgraph.backend import DataError


def read_array(file: Path | BytesIO) -> np.ndarray | None:
    """What a .npy file holds; None if that is no array, or the file is damaged.

    Raises:
        DataError: if it holds more than one array.
        OSError: if it cannot be read.
    """
    # Mapped, so that a header cannot ask for more memory than the file has numbers.
    mode: Literal["r"] | None = "r" if isinstance(file, Path) else None
    try:
        array: object = np.load(file, mmap_mode=mode, allow_pickle=False)
    except (OSError, MemoryError):
        raise
    except Exception:
        # A damaged header leads NumPy, and Python's parser for it, to errors of many kinds.
        return None
    if not isinstance(array, np.ndarray):
        return None
    if isinstance(file, Path) and isinstance(array, np.memmap):
        rest = file.stat().st_size - array.offset - array.nbytes
        if rest > 0:
            raise DataError(f"'{file}' goes on for {rest} bytes after its array: save one alone.")
    return array
