"""Types of arrays and of layer pairs that the graph is made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IndexArray = NDArray[np.int64]


Pair = tuple[str, str]
