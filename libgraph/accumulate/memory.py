"""How much memory an analysis may take for what it can give back: batches and kept activations.

The model, the bases and the sums are needed whole; what lies between is sized by a budget, half of
what may still be taken unless told otherwise. Batches are the same whatever is free, as long as
they fit, so that the same command gives the same bits on another day; where they do not, a run
keeps the budget that it was begun with, and goes on with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise

import torch

from libgraph.files.limits import available_memory
from libgraph.network.network import Network

BATCH_BYTES = 64 * 2**20
"""What the widest node layer of a batch takes, at most."""


BATCH_WORK = 2**41
"""Positions in a batch times the cube of the widest node layer's size, at most: an MLP's
interactions take so many multiplications, some twenty seconds, and what is interrupted loses no
more."""


BATCH_SHARE = 1 / 16
"""Share of the budget that it takes at most: a section holds several copies of its batch."""


LARGEST_BATCH = 1024
"""Samples in a batch, at most."""


PARTS = 224 * 2**20
"""What commands take beside batches and sums, however small the budget: parts that sections are
computed in, pictures, pieces that allocators keep."""


def chunk_bytes(most: int, memory: int | None) -> int:
    """Bytes of what is held some at a time: `most`, or a part of a budget that is given.

    A sixteenth, because what is computed from it has several times its size.
    """
    return most if memory is None else max(1, min(most, memory // 16))


def least_memory(network: Network, sample: torch.Tensor) -> int:
    """Bytes that an analysis may need beside the model, however small its batches are.

    Args:
        network: whose Grams, interactions and bases are needed whole.
        sample: raw inputs of one sample.
    """
    sizes = [layer.size for layer in network.node_layers]
    # Sums are pairs of numbers: two Grams of a node layer, interactions of two in turn.
    sums = 16 * (2 * sum(d * d for d in sizes) + sum(a * b for a, b in pairwise(sizes)))
    with torch.no_grad():
        widest = max(x.numel() * x.element_size() for x in network.activations(sample))
    # A decomposition has a few copies of its matrix, and a section of what goes through it.
    return PARTS + sums + 4 * 8 * max(sizes) ** 2 + 8 * widest


_BUDGET: ContextVar[tuple[str, int] | None] = ContextVar("budget", default=None)
"""Kind of device, and bytes on it, by which all goes that is computed now."""


@contextmanager
def within_budget(device: torch.device | str, budget: int) -> Iterator[None]:
    """Have what is computed in the block go by this budget, whatever is free by then."""
    before = _BUDGET.set((torch.device(device).type, budget))
    try:
        yield
    finally:
        _BUDGET.reset(before)


def memory_budget(device: torch.device | str) -> int:
    """Half of the bytes that are free on the device, or may be taken on the host.

    Now, or when the analysis that is made was begun.
    """
    place = torch.device(device)
    known = _BUDGET.get()
    if known is not None and known[0] == place.type:
        return known[1]
    if place.type == "cuda":
        return int(torch.cuda.mem_get_info(place)[0]) // 2
    return max(1, available_memory() // 2)


def batch_size(network: Network, sample: torch.Tensor, memory: int) -> int:
    """Samples in a batch: a power of two, as many as its constants and the budget allow.

    Args:
        network: its widest node layer counts.
        sample: raw inputs of one sample.
        memory: the budget in bytes.
    """
    with torch.no_grad():
        # A split may be empty, which has a message of its own elsewhere.
        sizes = [
            (x.numel() * x.element_size() or 1, x.shape[1] * x.shape[2] ** 3 or 1)
            for x in network.activations(sample)
        ]
    widest, work = (max(of_layer) for of_layer in zip(*sizes, strict=True))
    fitting = int(min(BATCH_BYTES, memory * BATCH_SHARE) / widest)
    fitting = max(1, min(fitting, int(BATCH_WORK / work)))
    return min(LARGEST_BATCH, 1 << (fitting.bit_length() - 1))
