"""A section that is any module or function: what no class of this package has a structure for.

Source: docs/math.md §5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from jaxtyping import Float
from torch import Tensor, nn

from libgraph.sections.closures import moved
from libgraph.sections.section import Section


class Function(Section):
    """A section given as any module or function on `(n, s, d_in)` tensors; autodiff does the rest.

    Args:
        function: the map; samples must not see each other (no batch norm in training mode).
        d_in: coordinates in, the constant one included.
        d_out: coordinates out.
        positionwise: set it where the map treats positions alike and apart: it saves much work.

    Like any module it takes the dtype that `.to` gives it, float32 at first, and so do tensors and
    modules that a closure, a bound method or a `functools.partial` holds: the function then works
    with copies of them. Tensors that it takes from elsewhere stay as they are.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        d_in: int,
        d_out: int,
        positionwise: bool = False,
    ) -> None:
        super().__init__(d_in, d_out)
        self.function = function
        self.positionwise = positionwise

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t d_out"]:
        """Call the function, on a copy: it may work in place."""
        return self.function(x.clone())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if not isinstance(self.function, nn.Module):
            self.function = moved(self.function, fn)
        return self

    def extra_repr(self) -> str:
        """Which function it is, as far as its name tells."""
        return getattr(self.function, "__qualname__", type(self.function).__name__)
