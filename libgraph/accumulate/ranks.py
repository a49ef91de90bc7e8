"""The processes of a `torchrun` job: who this one is, and sums over all of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


def ranks() -> tuple[int, int]:
    """This process's rank and how many there are: (0, 1) outside a `torch.distributed` job."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def add_ranks(sums: dict[str, Tensor]) -> None:
    """Replace every sum by its sum over ranks; a rank without a batch takes part with zeros."""
    shapes: list[dict[str, torch.Size]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(shapes, {name: value.shape for name, value in sums.items()})
    shape_of = dict(sorted(pair for of_rank in shapes for pair in of_rank.items()))
    device = next((value.device for value in sums.values()), torch.device("cpu"))
    zeros = torch.zeros((), dtype=torch.float64, device=device)
    flat = torch.cat([sums.get(name, zeros.expand(shape_of[name])).flatten() for name in shape_of])
    dist.all_reduce(flat)
    parts = flat.split([shape.numel() for shape in shape_of.values()])
    sums.update({n: part.reshape(shape_of[n]) for n, part in zip(shape_of, parts, strict=True)})
