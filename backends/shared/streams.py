"""Random numbers of steps of training, which do not depend on the order of drawing."""

from __future__ import annotations

import torch


def step_generator(seed: int, step: int) -> torch.Generator:
    """Random numbers of a step of training: the same whenever it is taken."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)
