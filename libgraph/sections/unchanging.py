"""Functions that leave what they are given as it is, whoever wrote them.

A function that works in place, as `nn.ReLU(inplace=True)` does, would change what a section is
given, what a watcher has noted and the tangents of derivatives: it is called on copies.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

PROBE = (-1e4, -30.0, -3.0, -1.0, -0.3, 0.0, 0.3, 1.0, 3.0, 30.0, 1e4)
"""What is looked at for changes: a pointwise function that makes any makes one of these."""


class Unchanging(nn.Module):
    """A function of a copy of its input."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Call the function on a copy."""
        return self.function(x.clone())

    def extra_repr(self) -> str:
        """Which function it is, as far as its name tells."""
        return getattr(self.function, "__name__", "")


def unchanging(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A pointwise function as it is, or of copies if it changes its input."""
    if isinstance(activation, Unchanging):
        return activation
    given = torch.tensor(PROBE, dtype=torch.float32, device="cpu")
    x = given.clone()
    try:
        with torch.no_grad():
            activation(x)
    except Exception:
        # Whatever a function of another dtype or device runs into: a copy does no harm.
        return Unchanging(activation)
    return activation if torch.equal(x, given) else Unchanging(activation)
