"""What convolutions read, and several of them side by side as windows with a matrix an offset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from libgraph.cutting.kinds import CONVOLUTIONS, is_affine, name_of
from libgraph.cutting.values import Value


class Window(NamedTuple):
    """What `(t, K)` offsets read, and their matrices `(K, d + 1, c)`."""

    reads: Tensor
    matrices: Tensor


def first_convolutions(order: Sequence[Value]) -> list[Value]:
    """Convolutions that read no other one, among values that are affine."""
    reached: set[Value] = set()
    first = []
    for value in order:
        if any(source in reached for source in value.sources):
            reached.add(value)
        elif name_of(value) in CONVOLUTIONS and value.depends and is_affine(value):
            first.append(value)
            reached.add(value)
    return first


def geometry(anchor: Value, dims: int) -> tuple[list[int], list[int] | None, list[int], int]:
    """Stride, padding, dilation and groups of a convolution."""

    def numbers(at: int, name: str, default: int) -> list[int]:
        given = anchor.args[at] if len(anchor.args) > at else anchor.kwargs.get(name, default)
        given = [given] if isinstance(given, int) else list(given)
        return given * dims if len(given) == 1 else given

    stride, dilation = numbers(3, "stride", 1), numbers(5, "dilation", 1)
    groups = anchor.args[6] if len(anchor.args) > 6 else anchor.kwargs.get("groups", 1)
    padding = anchor.args[4] if len(anchor.args) > 4 else anchor.kwargs.get("padding", 0)
    if padding == "valid":
        return stride, [0] * dims, dilation, groups
    if padding == "same":
        reach = [
            d * (k - 1) for d, k in zip(dilation, anchor.args[1].constant.shape[2:], strict=True)
        ]
        even = all(r % 2 == 0 for r in reach)
        return stride, [r // 2 for r in reach] if even else None, dilation, groups
    return stride, numbers(4, "padding", 0), dilation, groups


def ungrouped(weight: Tensor, groups: int) -> Tensor:
    """A weight with groups as one without, zeros between them."""
    if groups == 1:
        return weight
    out, within = weight.shape[0] // groups, weight.shape[1]
    dense = weight.new_zeros(weight.shape[0], within * groups, *weight.shape[2:])
    for group in range(groups):
        rows = slice(group * out, (group + 1) * out)
        dense[rows, group * within : (group + 1) * within] = weight[rows]
    return dense


def merge(parts: Sequence[Window]) -> tuple[Tensor, Tensor] | None:
    """The sum of several: offsets that read the same share a matrix."""
    count = len(parts[0].reads)
    reads: list[Tensor] = []
    matrices: list[Tensor] = []
    for part in parts:
        if len(part.reads) != count:
            return None
        for column, matrix in zip(part.reads.T, part.matrices, strict=True):
            same = next((i for i, known in enumerate(reads) if torch.equal(known, column)), None)
            if same is None:
                reads.append(column)
                matrices.append(matrix)
            else:
                matrices[same] = matrices[same] + matrix
    return torch.stack(reads, 1), torch.stack(matrices)


def with_bias(reads: Tensor, matrices: Tensor, bias: Tensor) -> Tensor | None:
    """The bias added in the constant's row of an offset that is inside everywhere."""
    if not bool(bias.any()):
        return matrices
    always = (reads >= 0).all(0).nonzero()
    if not len(always):
        return None
    matrices = matrices.clone()
    matrices[always[0, 0], -1] += bias
    return matrices
