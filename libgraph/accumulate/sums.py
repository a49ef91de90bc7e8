"""Sums over data: the one verb of the toolkit.

Statistics, Jacobian Grams, interactions and scores are all sums over batches of some measure of
one batch. `accumulate` adds them up in float64, reports progress, and in a `torchrun` job gives
every rank its share of the batches and adds the ranks' sums at the end; as sums do not depend on
their order, one rank or many give the same bits. Memory is that of one batch and twice the sums,
whatever the number of batches; a batch that does not fit is measured in parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from libgraph.accumulate.exact import ExactSums
from libgraph.accumulate.halfway import place
from libgraph.accumulate.pieces import Piece, Pieces
from libgraph.accumulate.ranks import add_ranks, ranks
from libgraph.progress import Progress, silent

Sums = Mapping[str, Tensor]


Item = TypeVar("Item")
Items = TypeVar("Items", covariant=True)


class Batches(Protocol[Items]):
    """What can be gone through, and knows how much there is."""

    def __iter__(self) -> Iterator[Items]:
        """One after the other."""

    def __len__(self) -> int:
        """How many."""


@dataclass(frozen=True)
class Numbered(Generic[Item]):
    """The same batches, each with its number among all and where in it a part of it begins."""

    batches: Batches[Item]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Piece[Item]]:
        for number, batch in enumerate(self.batches):
            yield Piece(number, 0, batch)

    @property
    def source(self) -> object:
        """What the batches are of."""
        return self.batches


def accumulate(
    batches: Iterable[Item],
    measure: Callable[[Item], Sums],
    *,
    stage: str = "",
    label: str | None = None,
    progress: Progress = silent,
) -> dict[str, Tensor]:
    """Add up what `measure` returns for each batch, in float64, over all batches and all ranks.

    Within a stage of a run that was interrupted it goes on after the batches that were measured
    before, which are gone through but not measured again (`libgraph.accumulate.halfway`).

    Args:
        batches: gone through once; a rank of a `torch.distributed` job measures every
            world-size-th of them.
        measure: named tensors for one batch; names and shapes are the same for every batch. What
            it gives may depend on the batch's number (`Numbered`), not on those before it. Where
            memory runs out it is called again with each half of the batch.
        stage: name under which progress is reported.
        label: which of several passes of that name it is, if there may be others between.
        progress: told after every batch.
    """
    total = len(batches) if isinstance(batches, Sized) else None
    rank, world = ranks()
    where = place()
    name, sums, done, ended = "", ExactSums(), 0, False
    if where is not None:
        name, sums, done, ended = where.begin(label or stage)

    def tell() -> None:
        measured = done * world
        progress(stage, measured if total is None else min(measured, total), total)

    tell()
    pieces, adding = Pieces[Item](batches, stage), False
    try:
        with torch.no_grad():
            rest = () if ended else itertools.islice(batches, rank + done * world, None, world)
            for batch in rest:
                for values in pieces.measured(batch, measure):
                    # From here on the batch is in the sums in part, until all of it is.
                    adding = True
                    sums.add(values)
                done, adding = done + 1, False
                tell()
                if where is not None:
                    where.note(name, sums, done, ended=False)
    except (KeyboardInterrupt, MemoryError):
        # What was interrupted while it was added is in doubt; then the last time counts.
        if where is not None and not adding:
            where.interrupted()
        raise
    if where is not None and not ended:
        where.note(name, sums, done, ended=True)
    if world > 1:
        sums = add_ranks(sums)
    return sums.total()
