"""All pairs (x, y) of numbers modulo p, their sums, and which of them are held out."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from libgraph.backend import Split


def all_pairs(p: int) -> Int[Tensor, "p_squared 3"]:
    """All inputs (x, y, =), row-major; the equals sign is the token p."""
    x, y = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
    return torch.stack([x, y, torch.full_like(x, p)], dim=1)


def sums(inputs: Int[Tensor, "n 3"], p: int) -> Int[Tensor, " n"]:
    """x + y mod p."""
    total: Tensor = inputs[:, :2].sum(1) % p
    return total


def splits(p: int, train_share: float, seed: int) -> dict[Split, Int[Tensor, "n 3"]]:
    """All pairs in a random order, this share of them for training and the rest held out."""
    pairs = all_pairs(p)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    train = int(train_share * len(pairs))
    return {"train": pairs[order[:train]], "test": pairs[order[train:]]}
