"""The samples of a split as computations take them: limited, in halves, on a device, in a dtype."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from libgraph.backend.checks import check_batch
from libgraph.backend.contract import Backend, Batch, Split
from libgraph.backend.state import ordinary
from libgraph.errors import DataError


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
            batch = check_batch(batch, self.split)
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
        return ordinary(tensor.to(device=self.device, dtype=dtype))
