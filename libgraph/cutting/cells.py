"""Cells of recurrent networks written out, so that their parts are recognised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear


def tanh_cell(x: Tensor, h: Tensor, *weights: Any) -> Tensor:
    """The next state tanh(W x + U h + b)."""
    return torch.tanh(_sum(x, h, *weights))


def relu_cell(x: Tensor, h: Tensor, *weights: Any) -> Tensor:
    """The next state relu(W x + U h + b)."""
    return torch.relu(_sum(x, h, *weights))


def gru_cell(
    x: Tensor,
    h: Tensor,
    w: Tensor,
    u: Tensor,
    b: Tensor | None = None,
    c: Tensor | None = None,
) -> Tensor:
    """The next state of a gated recurrent unit."""
    reset_x, update_x, new_x = linear(x, w, b).chunk(3, 1)
    reset_h, update_h, new_h = linear(h, u, c).chunk(3, 1)
    reset, update = torch.sigmoid(reset_x + reset_h), torch.sigmoid(update_x + update_h)
    new = torch.tanh(new_x + reset * new_h)
    return new + update * (h - new)


def lstm_cell(
    x: Tensor,
    state: list[Tensor],
    w: Tensor,
    u: Tensor,
    b: Tensor | None = None,
    c: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The next output and state of a long short-term memory."""
    h, cell = state
    entry, forget, change, exit_ = (linear(x, w, b) + linear(h, u, c)).chunk(4, 1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(entry) * torch.tanh(change)
    return torch.sigmoid(exit_) * torch.tanh(cell), cell


def _sum(
    x: Tensor,
    h: Tensor,
    w: Tensor,
    u: Tensor,
    b: Tensor | None = None,
    c: Tensor | None = None,
) -> Tensor:
    return linear(x, w, b) + linear(h, u, c)


def written_out(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor | None:
    """Bags of embeddings, all of one size, as sums of embeddings; None of other bags."""
    if input.ndim != 2 or offsets is not None or max_norm is not None or mode == "max":
        return None
    each = embedding(input, weight)
    if per_sample_weights is not None:
        each = each * per_sample_weights.unsqueeze(-1)
    if padding_idx is None:
        return each.sum(1) if mode == "sum" else each.mean(1)
    shown = (input != padding_idx % len(weight)).to(each.dtype).unsqueeze(-1)
    total = (each * shown).sum(1)
    return total if mode == "sum" else total / shown.sum(1).clamp(min=1)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """By the operator that they stand for."""
    aten = torch.ops.aten
    return {
        aten.rnn_tanh_cell.default: tanh_cell,
        aten.rnn_relu_cell.default: relu_cell,
        aten.gru_cell.default: gru_cell,
        aten.lstm_cell.default: lstm_cell,
    }
