"""Sums over data: the one verb of the toolkit.

Statistics, Jacobian Grams, interactions and scores are all sums over batches of some measure of
one batch. `accumulate` adds them up in float64, reports progress, and in a `torchrun` job gives
every rank its share of the batches and adds the ranks' sums at the end. Memory is that of one
batch and of the sums, whatever the number of batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from libgraph.backend import Backend, Batch, Split
from libgraph.errors import DataError

Sums = Mapping[str, Tensor]
Item = TypeVar("Item")


class Progress(Protocol):
    """Told how far a stage has come; `total` is None where nobody knows."""

    def __call__(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """Take note."""


def silent(stage: str, done: int, total: int | None, note: str = "") -> None:
    """Progress that goes nowhere."""


@dataclass(frozen=True)
class Data:
    """One split of a backend's data, cut into batches that can be gone through again and again.

    Args:
        backend: where the batches come from.
        split: `train` or `test`.
        batch_size: samples in a batch.
        limit: use only the first samples of the split, this many.
        part: (k, m) for every m-th of those, from the k-th on.
        device: where the batches go.
        dtype: what floating-point inputs become.
        memory: bytes that batches and kept activations may take; None for half of what is free.
    """

    backend: Backend
    split: Split
    batch_size: int = 1024
    limit: int | None = None
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float64
    memory: int | None = None
    part: tuple[int, int] = (0, 1)

    def __len__(self) -> int:
        """Number of batches, from the backend's own count of samples."""
        samples = self.backend.samples(self.split)
        return -(-min(samples, self.limit or samples) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        left = self.limit
        first, every = self.part
        seen, empty = 0, True
        for batch in self.backend.batches(self.split, self.batch_size):
            size = len(batch.inputs)
            if left is not None:
                if left == 0:
                    break
                size = min(size, left)
                left -= size
            taken = slice((first - seen) % every, size, every)
            seen += size
            if not range(size)[taken]:
                continue
            empty = False
            yield Batch(self._place(batch.inputs[taken]), self._place(batch.targets[taken]))
        if empty:
            raise DataError(f"The {self.split} split of '{self.backend.name}' has no samples.")

    def _place(self, tensor: Tensor) -> Tensor:
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(device=self.device, dtype=dtype)


def ranks() -> tuple[int, int]:
    """This process's rank and how many there are: (0, 1) outside a `torch.distributed` job."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


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
        _add_ranks(sums)
    return sums


def _add_ranks(sums: dict[str, Tensor]) -> None:
    """Replace every sum by its sum over ranks; a rank without a batch takes part with zeros."""
    shapes: list[dict[str, torch.Size]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(shapes, {name: value.shape for name, value in sums.items()})
    known = dict(sorted((name, shape) for each in shapes for name, shape in each.items()))
    device = next((value.device for value in sums.values()), torch.device("cpu"))
    zeros = torch.zeros((), dtype=torch.float64, device=device)
    flat = torch.cat([sums.get(name, zeros.expand(known[name])).flatten() for name in known])
    dist.all_reduce(flat)
    parts = flat.split([shape.numel() for shape in known.values()])
    sums.update({n: part.reshape(known[n]) for n, part in zip(known, parts, strict=True)})
