"""Functions that stand in the captured graph for what modules compute in several ways.

Norms become a variance and a division, attention one function, whoever wrote them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def spread(constant: Tensor, dim: int, size: int) -> Tensor:
    """A constant that is the same for all samples, with as many of them as there are."""
    shape = list(constant.shape)
    shape[dim] = size
    return constant.expand(shape)


def cast_like(x: Tensor, like: Tensor) -> Tensor:
    """Whole numbers in the precision of the network."""
    return x.to(like.dtype)


def as_complex(x: Tensor) -> Tensor:
    """Pairs of real numbers `(…, 2)` as complex ones."""
    return torch.view_as_complex(x.contiguous())


def centre(x: Tensor, dims: Sequence[int]) -> Tensor:
    """x less its mean over some dimensions."""
    return x - x.mean(list(dims), keepdim=True)


def mean_square(x: Tensor, dims: Sequence[int]) -> Tensor:
    """The mean of squares over some dimensions, which are kept."""
    return (x * x).mean(list(dims), keepdim=True)


def divide(x: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    """x (v + ε)^{-1/2}."""
    return x * (variance + epsilon).rsqrt()


def group_centre(x: Tensor, groups: int) -> Tensor:
    """x `(n, c, …)` less its mean over the channels and positions of each group."""
    grouped = x.unflatten(1, (groups, -1))
    dims = list(range(2, grouped.ndim))
    centred: Tensor = (grouped - grouped.mean(dims, keepdim=True)).flatten(1, 2)
    return centred


def group_square(x: Tensor, groups: int) -> Tensor:
    """Mean squares of each group `(n, groups, …)`, at every position."""
    grouped = x.unflatten(1, (groups, -1))
    dims = list(range(2, grouped.ndim))
    means = (grouped * grouped).mean(dims, keepdim=True).squeeze(2)
    everywhere: Tensor = means.expand(-1, -1, *x.shape[2:])
    return everywhere


def every_channel(x: Tensor, channels: int) -> Tensor:
    """What each group has, for each of its channels."""
    return x.repeat_interleave(channels // x.shape[1], dim=1)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """Σ_s softmax(scale q kᵀ + mask)_ts v_s, which is differentiated in any mode."""
    scores = scale * (q @ k.transpose(-1, -2))
    if causal:
        ones = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
        scores = scores.masked_fill(~ones.tril(), -torch.inf)
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -torch.inf)
        else:
            scores = scores + mask
    return scores.softmax(-1) @ v
