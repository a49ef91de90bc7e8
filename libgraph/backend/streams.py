"""Random numbers that depend on what they are for, and not on the order of drawing."""

from __future__ import annotations

import numpy as np
import torch


def stream(seed: int, number: int) -> torch.Generator:
    """One of many independent streams of random numbers from a seed.

    PyTorch's generator on the CPU takes no notice of more than 32 bits of its seed, so the two are
    hashed into so many.

    Args:
        seed: of all streams.
        number: of this one.
    """
    state = np.random.SeedSequence((seed, number)).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))
