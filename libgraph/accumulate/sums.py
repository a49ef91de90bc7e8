"""Sums over data: the one verb of the toolkit.

Statistics, Jacobian Grams, interactions and scores are all sums over batches of some measure of
one batch. `accumulate` adds them up in float64, reports progress, and in a `torchrun` job gives
every rank its share of the batches and adds the ranks' sums at the end. Memory is that of one
batch and of the sums, whatever the number of batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import TypeVar

import torch
from torch import Tensor

from libgraph.accumulate.ranks import add_ranks, ranks
from libgraph.progress import Progress, silent

Sums = Mapping[str, Tensor]


Item = TypeVar("Item")


def accumulate(
    batches: Iterable[Item],
    measure: Callable[[Item], Sums],
    *,
    stage: str = "",
    progress: Progress = silent,
) -> dict[str, Tensor]:
    """Add up what `measure` returns for each batch, in float64, over all batches and all ranks.

    Args:
        batches: gone through once; a rank of a `torch.distributed` job measures every
            world-size-th of them.
        measure: named tensors for one batch; names and shapes are the same for every batch.
        stage: name under which progress is reported.
        progress: told after every batch.
    """
    total = len(batches) if isinstance(batches, Sized) else None
    rank, world = ranks()
    sums: dict[str, Tensor] = {}
    progress(stage, 0, total)
    with torch.no_grad():
        for done, batch in enumerate(itertools.islice(batches, rank, None, world)):
            for name, value in measure(batch).items():
                if name in sums:
                    sums[name] += value
                else:
                    sums[name] = value.to(torch.float64, copy=True)
            measured = (done + 1) * world
            progress(stage, measured if total is None else min(measured, total), total)
    if world > 1:
        add_ranks(sums)
    return sums
