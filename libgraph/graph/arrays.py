"""Types of arrays and of layer pairs that the graph is made of."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
Pair = tuple[str, str]
"""Names of the input and of the output node layer."""

AnyArray = TypeVar("AnyArray", bound=NDArray[Any])


def read_only(array: AnyArray) -> AnyArray:
    """The array itself, which from now on cannot be changed, so that it can be shared."""
    array.flags.writeable = False
    return array
