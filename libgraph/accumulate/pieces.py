"""Batches that do not fit into memory, halved until they do.

Whoever adds up over batches measures pieces of them: whole ones first, and where memory runs out,
halves of halves. What fits is remembered for later passes over the same data, and said once.
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from libgraph.backend.contract import Batch
from libgraph.errors import is_out_of_memory

log = logging.getLogger("libgraph")

Item = TypeVar("Item")


class Piece(NamedTuple, Generic[Item]):
    """A batch, or a part of one, and where it is among all.

    Args:
        number: of the batch, whichever rank has it.
        first: of its samples, counted within the batch.
        batch: the samples.
    """

    number: int
    first: int
    batch: Item

    @property
    def seed(self) -> int:
        """Of what is drawn for it: the number of a whole batch, another one for a later part."""
        return self.number + (self.first << 32)


@dataclass
class _Notes:
    """What is known of some data.

    Args:
        fitting: samples that fit, by stage.
        said: whether it was said that some do not.
    """

    fitting: dict[str, int]
    said: bool = False


_KNOWN: dict[int, _Notes] = {}
"""By the identity of the data, as long as they live."""


class Pieces(Generic[Item]):
    """Of the batches of one pass.

    Args:
        batches: what is gone through; `source` of it says which data they are of.
        stage: what is measured.
    """

    def __init__(self, batches: object, stage: str) -> None:
        self._source = getattr(batches, "source", batches)
        self._stage = stage

    def measured(
        self, item: Item, measure: Callable[[Item], Mapping[str, Tensor]]
    ) -> Iterator[Mapping[str, Tensor]]:
        """What is measured of a batch: of all of it, or part by part in its order.

        Raises:
            MemoryError: or what the device calls it, if not even single samples fit.
        """
        waiting = [item]
        while waiting:
            piece = waiting.pop()
            size = _samples(piece)
            known = _KNOWN.get(id(self._source))
            fitting = None if known is None else known.fitting.get(self._stage)
            if fitting is None or size <= fitting:
                values = self._attempted(piece, size, measure)
                if values is not None:
                    yield values
                    continue
            waiting += reversed(_halves(piece, size))

    def _attempted(
        self, piece: Item, size: int, measure: Callable[[Item], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor] | None:
        """What is measured, or None if it does not fit but a half may."""
        try:
            return measure(piece)
        except Exception as error:
            if size < 2 or not is_out_of_memory(error):
                raise
        # Only here, where the error no longer holds what was computed.
        free_memory()
        self._note(size)
        return None

    def _note(self, size: int) -> None:
        key = id(self._source)
        if key not in _KNOWN:
            _KNOWN[key] = _Notes({})
            weakref.finalize(self._source, _KNOWN.pop, key, None)
        notes = _KNOWN[key]
        notes.fitting[self._stage] = size // 2 + size % 2
        if not notes.said:
            log.warning(
                "A batch of %d samples does not fit into memory, and is halved until it does: "
                "a smaller memory='…' makes smaller batches from the beginning.",
                size,
            )
        notes.said = True


def free_memory() -> None:
    """Give back what is held by nobody any more, after memory ran out."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _samples(item: object) -> int:
    """How many samples there are to halve; 1 of what cannot be."""
    if isinstance(item, Piece):
        return _samples(item.batch)
    if isinstance(item, Batch):
        return len(item.inputs)
    return int(getattr(item, "samples", 1))


def _halves(item: Item, size: int) -> tuple[Item, Item]:
    middle = size // 2 + size % 2
    halves: tuple[object, object]
    if isinstance(item, Piece):
        one, other = _halves(item.batch, size)
        halves = (
            Piece(item.number, item.first, one),
            Piece(item.number, item.first + middle, other),
        )
    elif isinstance(item, Batch):
        halves = (
            Batch(item.inputs[:middle], item.targets[:middle]),
            Batch(item.inputs[middle:], item.targets[middle:]),
        )
    else:
        halves = item.halves(middle)  # type: ignore[attr-defined]
    return halves  # type: ignore[return-value]
