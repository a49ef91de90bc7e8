"""Cells of recurrent networks written out, so that their parts are recognised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


def tanh_cell(x: Tensor, h: Tensor, *weights: Tensor | None) -> Tensor:
    """The next state tanh(W x + U h + b)."""
    return torch.tanh(_sum(x, h, *weights))


def relu_cell(x: Tensor, h: Tensor, *weights: Tensor | None) -> Tensor:
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


def decompositions() -> dict[Any, Callable[..., Any]]:
    """By the operator that they stand for."""
    aten = torch.ops.aten
    return {
        aten.rnn_tanh_cell.default: tanh_cell,
        aten.rnn_relu_cell.default: relu_cell,
        aten.gru_cell.default: gru_cell,
        aten.lstm_cell.default: lstm_cell,
    }
