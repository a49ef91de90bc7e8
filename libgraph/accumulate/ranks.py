"""The processes of a `torchrun` job: who this one is, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from libgraph.accumulate.exact import ExactSums

Value = TypeVar("Value")


def ranks() -> tuple[int, int]:
    """This process's rank and how many there are: (0, 1) outside a `torch.distributed` job."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def shared(compute: Callable[[], Value]) -> Value:
    """What the first rank computes, on all ranks; all have to ask at the same time."""
    rank, world = ranks()
    if world == 1:
        return compute()
    values: list[Value | None] = [compute() if rank == 0 else None]
    dist.broadcast_object_list(values, 0)
    return values[0]  # type: ignore[return-value]


def smallest(number: int) -> int:
    """The smallest of all ranks' numbers."""
    _, world = ranks()
    if world == 1:
        return number
    numbers = [number] * world
    dist.all_gather_object(numbers, number)
    return min(numbers)


def share_first(*tensors: Tensor) -> None:
    """Replace tensors by those of the first rank: processors differ in rounding."""
    if ranks()[1] > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def add_ranks(sums: ExactSums) -> ExactSums:
    """The sums over all ranks, from the first on; a rank without a batch takes part with zeros."""
    rank, world = ranks()
    shapes: list[dict[str, torch.Size]] = [{} for _ in range(world)]
    dist.all_gather_object(shapes, {name: value.shape for name, value in sums.high.items()})
    shape_of = dict(sorted(pair for of_rank in shapes for pair in of_rank.items()))
    device = next((value.device for value in sums.high.values()), torch.device("cpu"))
    zeros = torch.zeros((), dtype=torch.float64, device=device)
    own = torch.cat(
        [
            part.get(name, zeros.expand(shape)).flatten()
            for part in (sums.high, sums.low)
            for name, shape in shape_of.items()
        ]
    )
    sizes = [shape.numel() for shape in shape_of.values()]
    whole = ExactSums()
    for sender in range(world):
        flat = own if sender == rank else torch.empty_like(own)
        dist.broadcast(flat, sender)
        # Parts of one tensor are added to, and are not to be that tensor.
        parts = [part.clone() for part in flat.split([*sizes, *sizes])]
        named = {
            name: part.reshape(shape_of[name])
            for name, part in zip(shape_of, parts[: len(sizes)], strict=True)
        }
        rests = {
            name: part.reshape(shape_of[name])
            for name, part in zip(shape_of, parts[len(sizes) :], strict=True)
        }
        whole.include(ExactSums(named, rests))
    return whole
