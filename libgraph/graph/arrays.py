"""Types of arrays and of layer pairs that the graph is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from libgraph.errors import TooLarge
from libgraph.files.limits import available_memory, in_bytes

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
Pair = tuple[str, str]
"""Names of the input and of the output node layer."""

SHARE = 2
"""Of the memory that is free, edges that are read may take one part in so many: others are made of
them, such as those that are kept."""

AnyArray = TypeVar("AnyArray", bound=NDArray[Any])


def read_only(array: AnyArray) -> AnyArray:
    """The array itself, which from now on cannot be changed, so that it can be shared."""
    array.flags.writeable = False
    return array


def no_edges(
    sizes: Mapping[str, int], pairs: Iterable[Pair], source: str
) -> dict[Pair, FloatArray]:
    """Zeros ``[out, in]`` of layer pairs, for those who read edges one by one.

    Args:
        sizes: Features by node layer.
        pairs: Layer pairs; what is there twice counts once.
        source: What is read, for the message.

    Raises:
        TooLarge: If they do not fit into memory: a few long layers make large matrices.
    """
    shapes = {(a, b): (sizes[b], sizes[a]) for a, b in pairs}
    taken = sum(8 * rows * columns for rows, columns in shapes.values())
    free = available_memory()
    if taken > free / SHARE:
        raise TooLarge(
            f"{source} has {len(shapes)} layer pairs with room for {taken / 8:.3g} edges: all of "
            f"them take {in_bytes(taken)}, and {in_bytes(free)} are free. Write fewer features."
        )
    return {pair: np.zeros(shape) for pair, shape in shapes.items()}
