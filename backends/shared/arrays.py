"""Arrays of NumPy that somebody brings, read without running any code in them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np


def read_array(file: Path | BytesIO) -> np.ndarray | None:
    """What a .npy file holds; None if that is no array, or the file is damaged.

    Raises:
        OSError: if it cannot be read.
    """
    # Mapped, so that a header cannot ask for more memory than the file has numbers.
    mode: Literal["r"] | None = "r" if isinstance(file, Path) else None
    try:
        array = np.load(file, mmap_mode=mode, allow_pickle=False)
    except (OSError, MemoryError):
        raise
    except Exception:
        # A damaged header leads NumPy, and Python's parser for it, to errors of many kinds.
        return None
    return array if isinstance(array, np.ndarray) else None
