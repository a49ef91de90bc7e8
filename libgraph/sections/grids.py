"""Grids of positions: which of them each window reads, convolutions and poolings as matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def windows(
    size: Sequence[int],
    kernel: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
) -> Int[Tensor, "t K"]:
    """The input position that each offset of each window reads, -1 outside of the grid.

    Positions, offsets and outputs are numbered row by row, as in a convolution of torch with the
    same arguments.

    Args:
        size: of the grid, one number per dimension.
        kernel: size of the window, one number for all dimensions or one for each.
        stride: from one window to the next, likewise.
        padding: how far windows reach out of the grid at both ends, likewise.
        dilation: from one offset to the next, likewise.

    Raises:
        ValueError: if the arguments do not fit together or leave no output.
    """
    options = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    sizes: dict[str, tuple[int, ...]] = {}
    for name, value in options.items():
        sizes[name] = (value,) * len(size) if isinstance(value, int) else tuple(value)
        least = 0 if name == "padding" else 1
        if len(sizes[name]) != len(size) or min(sizes[name], default=least) < least:
            raise ValueError(
                f"The {name} of windows over a grid of {_by(size)} must be {len(size)} numbers "
                f"of at least {least}, not {sizes[name]}."
            )
    reads, inside = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
    for length, width, step, margin, spacing in zip(size, *sizes.values(), strict=True):
        count = (length + 2 * margin - spacing * (width - 1) - 1) // step + 1
        if length < 1 or count < 1:
            raise ValueError(
                f"A window of {_by(sizes['kernel'])} with dilation {_by(sizes['dilation'])} leaves "
                f"no output on a grid of {_by(size)} with padding {_by(sizes['padding'])}."
            )
        at = (step * torch.arange(count) - margin).unsqueeze(1) + spacing * torch.arange(width)
        at, valid = at[:, None], ((at >= 0) & (at < length))[:, None]
        reads = (reads[:, None, :, None] * length + at).flatten(0, 1).flatten(1)
        inside = (inside[:, None, :, None] & valid).flatten(0, 1).flatten(1)
    return torch.where(inside, reads, -1)


def conv_factors(
    weight: Float[Tensor, "h c *kernel"],
    bias: Float[Tensor, " h"] | None,
    reads: Int[Tensor, "t K"],
) -> Float[Tensor, "K c+1 h"]:
    """A weight and a bias as torch's convolutions have them, as one matrix per offset.

    The rows are the channels and the constant, whose row holds the bias at one offset that is
    inside the grid at every output position.

    Args:
        weight: of a convolution in any number of dimensions, without groups.
        bias: one number per output channel, if there is one.
        reads: what each offset reads, as from `windows`.

    Raises:
        ValueError: if the kernel is not that of `reads`, or no offset can hold the bias.
    """
    offsets = math.prod(weight.shape[2:])
    if offsets != reads.shape[1]:
        raise ValueError(
            f"The weight's kernel of {_by(weight.shape[2:])} has {offsets} offsets, but the "
            f"windows have {reads.shape[1]}."
        )
    matrices = weight.reshape(*weight.shape[:2], offsets).permute(2, 1, 0)
    factors = torch.nn.functional.pad(matrices, (0, 0, 0, 1))
    if bias is None:
        return factors
    always = (reads >= 0).all(0).nonzero()
    if not len(always):
        raise ValueError(
            "The convolution's bias has no place: every offset of its window is outside of the "
            "grid at some output position."
        )
    holder = torch.zeros_like(factors)
    holder[always[0, 0], -1] = 1
    return factors + holder * bias


def _by(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))


def average_windows(reads: Int[Tensor, "t K"], positions: int) -> Float[Tensor, "t s"]:
    """P `(t, s)` that averages each window over those of its positions that are inside the grid.

    Args:
        reads: the position that each offset of each window reads, -1 outside, as from `windows`.
        positions: how many input positions there are.

    Raises:
        ValueError: if a window has no position inside, or one that there is not.
    """
    if int(reads.max()) >= positions:
        raise ValueError(
            f"The windows read input position {int(reads.max())}, but there are {positions}."
        )
    # In double precision until the network's is known: 1/3 is no round number.
    counts = torch.zeros(len(reads), positions + 1, dtype=torch.float64, device=reads.device)
    # Position -1 falls into a column of its own, which goes.
    counts = counts.scatter_add(1, reads + 1, torch.ones_like(reads, dtype=torch.float64))[:, 1:]
    sums = counts.sum(1, keepdim=True)
    empty = (sums == 0).nonzero()
    if len(empty):
        raise ValueError(f"The window of output position {int(empty[0, 0])} is all outside.")
    return counts / sums
