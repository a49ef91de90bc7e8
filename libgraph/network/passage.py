"""A part of a network, such as an MLP, whose input and output are both at hand in a node layer.

A transcoder imitates such a part: its latents are read off what goes in, and write what comes out.
A node layer that holds both, and what the part's output is added to, can have them as features. The
section after it has to be linear, and to read what is written and the constant alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from libgraph.errors import BackendError


@dataclass(frozen=True, eq=False)
class Passage:
    """Where in a node layer's activations x a part's input and output are.

    Args:
        readers: what goes in, by what other tools call it: R `(size, d_in)`, where it is x R; first
            that which the part itself reads.
        writers: what other tools call what comes out.
        written: first of the coordinates that hold what comes out, added to what passes the part
            by, and the one after the last.
        passing: the same of those that hold what passes it by, as many.
    """

    readers: Mapping[str, Float[Tensor, "size d_in"]]
    writers: tuple[str, ...]
    written: tuple[int, int]
    passing: tuple[int, int]

    @property
    def width(self) -> int:
        """Coordinates of what comes out."""
        return self.written[1] - self.written[0]

    def check(self, name: str, size: int) -> None:
        """Raise a `BackendError` unless it fits a node layer of this name and size."""
        there, by = range(*self.written), range(*self.passing)
        inside = all(place.start >= 0 and place.stop <= size for place in (there, by))
        if not (inside and 0 < len(there) == len(by)) or set(there) & set(by):
            raise BackendError(
                f"The passage of node layer '{name}' writes coordinates {self.written} beside "
                f"{self.passing}: they should be as many, apart, and below {size}."
            )
        for hook, reader in self.readers.items():
            if reader.ndim != 2 or len(reader) != size:
                raise BackendError(
                    f"The passage of node layer '{name}' reads {hook} with a matrix of shape "
                    f"{tuple(reader.shape)}: it needs {size} rows."
                )


FOLDED = " (norm folded)"
"""Stands after the name of what a norm puts out, where its scale and shift are in what follows."""
