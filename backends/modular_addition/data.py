"""All pairs (x, y) of numbers modulo p, their sums, and which of them are held out."""

from __future__ import annotations

import torch
from torch import Tensor


def all_pairs(p: int) -> Tensor:
    """All inputs (x, y, =), row-major: tokens `(p², 3)`."""
    x, y = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
    return torch.stack([x, y, torch.full_like(x, p)], dim=1)
