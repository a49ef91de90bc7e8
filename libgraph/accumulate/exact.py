"""Sums whose order does not matter: pairs of numbers that keep what rounding would lose.

Each sum has a rest beside it, the rounding errors of all additions so far, which are known exactly
(Knuth's TwoSum). Both together are right to about 2⁻¹⁰⁰, so that whatever is added in whatever
order, in one process or in several, rounds to the same number. Source: Knuth (1969), The Art of
Computer Programming, vol. 2, §4.2.2; Ogita, Rump & Oishi (2005), doi:10.1137/030601818.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

LARGEST = "largest "
"""What names begin with of numbers, none below zero, of which the largest is kept, not the sum."""

AT_ONCE = 2**18
"""Numbers that are added at a time."""


class ExactSums:
    """Named sums in float64.

    Attributes:
        high: the sums as far as one number holds them.
        low: what is left.
    """

    def __init__(
        self, high: Mapping[str, Tensor] | None = None, low: Mapping[str, Tensor] | None = None
    ) -> None:
        self.high: dict[str, Tensor] = dict(high or {})
        self.low: dict[str, Tensor] = dict(low or {})

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add to each sum; a name that is new begins one.

        What memory could run out for is made before anything is added.
        """
        new = {name: value for name, value in values.items() if name not in self.high}
        high = {
            name: value.to(torch.float64, copy=True, memory_format=torch.contiguous_format)
            for name, value in new.items()
        }
        low = {name: torch.zeros_like(value) for name, value in high.items()}
        for name, value in values.items():
            if name not in new and self.high[name].device != value.device and value.ndim:
                # What was read back goes on where it is computed.
                high[name] = self.high[name].to(value.device)
                low[name] = self.low[name].to(value.device)
        self.high |= high
        self.low |= low
        for name, value in values.items():
            if name not in new:
                self._add(name, value)

    def include(self, others: ExactSums) -> None:
        """Add other sums with what is left of them."""
        self.add(others.high)
        for name, value in others.low.items():
            self._add(name, value)

    def total(self) -> dict[str, Tensor]:
        """Each sum, rounded once; infinite and undefined ones as they are."""
        sums = {}
        for name, high in self.high.items():
            whole = high + self.low[name]
            # Of infinities the rest is undefined.
            sums[name] = torch.where(high.isfinite(), whole, high)
        return sums

    def _add(self, name: str, value: Tensor) -> None:
        if name.startswith(LARGEST):
            # Nothing is left beside it, and of nothing zero is the largest.
            self.high[name] = torch.maximum(self.high[name], value.to(self.high[name]))
            return
        high, low = self.high[name].view(-1), self.low[name].view(-1)
        # In parts, so that what is made on the way takes little beside the sums themselves.
        parts = zip(*(t.split(AT_ONCE) for t in (high, low, value.reshape(-1))), strict=True)
        for high_part, low_part, value_part in parts:
            more = value_part.to(high_part)
            whole = high_part + more
            added = whole - high_part
            low_part += (high_part - (whole - added)) + (more - added)
            high_part.copy_(whole)
