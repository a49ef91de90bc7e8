"""The processes of a `torchrun` job: who this one is, and what all of them have in common.

Batches of data are shared out by `accumulate`; whole tasks, such as draws of a null model, by
`shared_out`. Whatever a rank does for itself alone is the same to the bit as in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from libgraph.accumulate.exact import ExactSums
from libgraph.errors import LostRank

Value = TypeVar("Value")

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


def ranks() -> tuple[int, int]:
    """This process's rank and how many there are: (0, 1) outside a `torch.distributed` job.

    Within `alone` there are no others.
    """
    if not _ALONE.get() and dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def alone() -> Iterator[None]:
    """Have this rank do what is in the block as if there were no others."""
    before = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(before)


def shared_out(tasks: Sequence[Callable[[], Value]]) -> list[Value]:
    """What each of the tasks gives, in order and on all ranks, each done by one of them.

    The n-th task is that of rank n modulo their number, which does it as if it were alone.

    Args:
        tasks: the same on all ranks; they do not depend on each other.

    Raises:
        LostRank: if another rank has failed.
    """
    rank, world = ranks()
    if world == 1:
        return [task() for task in tasks]
    with alone():
        own = [task() for task in tasks[rank::world]]
    of_ranks: list[list[Value]] = [[] for _ in range(world)]
    with _in_touch():
        dist.all_gather_object(of_ranks, own)
    return [of_ranks[number % world][number // world] for number in range(len(tasks))]


def shared(compute: Callable[[], Value]) -> Value:
    """What the first rank computes, on all ranks; all have to ask at the same time."""
    rank, world = ranks()
    if world == 1:
        return compute()
    values: list[Value | None] = [compute() if rank == 0 else None]
    with _in_touch():
        dist.broadcast_object_list(values, 0)
    return values[0]  # type: ignore[return-value]


def trained(descend: Callable[[], Mapping[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """What the first rank comes to by descent, on all ranks, which wait for it.

    It alone keeps checkpoints, so that no other rank could go on after an interruption; and
    ranks that differ in rounding, or in free memory, would come to other places.

    Args:
        descend: gives tensors by name, and does without other ranks.
        device: where they are wanted.

    Raises:
        LostRank: if another rank has failed.
    """

    def on_the_host() -> dict[str, Tensor]:
        with alone():
            return {name: tensor.cpu() for name, tensor in descend().items()}

    return {name: tensor.to(device) for name, tensor in shared(on_the_host).items()}


def smallest(number: int) -> int:
    """The smallest of all ranks' numbers."""
    _, world = ranks()
    if world == 1:
        return number
    numbers = [number] * world
    with _in_touch():
        dist.all_gather_object(numbers, number)
    return min(numbers)


def share_first(*tensors: Tensor) -> None:
    """Replace tensors, which are contiguous, by those of the first rank.

    Processors differ in rounding, and ranks in free memory.
    """
    if ranks()[1] > 1:
        with _in_touch():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def add_ranks(sums: ExactSums) -> ExactSums:
    """The sums over all ranks, from the first on; a rank without a batch takes part with zeros."""
    rank, world = ranks()
    shapes: list[dict[str, torch.Size]] = [{} for _ in range(world)]
    devices = [""] * world
    with _in_touch():
        dist.all_gather_object(shapes, {name: value.shape for name, value in sums.high.items()})
        kinds = {value.device.type for value in sums.high.values()}
        dist.all_gather_object(devices, max(kinds, default="cpu"))
    shape_of = dict(sorted(pair for of_rank in shapes for pair in of_rank.items()))
    # What one rank has read from a file may be elsewhere than what another has computed.
    device = torch.device(max(devices))
    zeros = torch.zeros((), dtype=torch.float64, device=device)
    own = torch.cat(
        [
            part.get(name, zeros.expand(shape)).to(device).flatten()
            for part in (sums.high, sums.low)
            for name, shape in shape_of.items()
        ]
    )
    sizes = [shape.numel() for shape in shape_of.values()]
    whole = ExactSums()
    for sender in range(world):
        flat = own if sender == rank else torch.empty_like(own)
        with _in_touch():
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


@contextmanager
def _in_touch() -> Iterator[None]:
    """Tell in a sentence that others do not answer: gloo and nccl raise errors of their own.

    Raises:
        LostRank: if they do not.
    """
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise LostRank(
            f"Another of the {dist.get_world_size()} processes of the job has ended ({reason}): "
            "look at what it, or torchrun, has said."
        ) from error
