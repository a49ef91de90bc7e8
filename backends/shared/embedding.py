"""What stands before the first node layer of a transformer: tokens and positions to activations."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Embedding(nn.Module):
    """Token and, where there are any, position embeddings, with the constant appended.

    Args:
        tokens: `(vocabulary, d)`.
        positions: `(positions, d)`, or None.
    """

    tokens: Tensor
    positions: Tensor | None

    def __init__(self, tokens: Tensor, positions: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("tokens", tokens)
        self.register_buffer("positions", positions)

    def forward(self, inputs: Tensor) -> Float[Tensor, "n s d_plus_1"]:
        """Tokens `(n, s)` to activations."""
        x = self.tokens[inputs]
        if self.positions is not None:
            x = x + self.positions[: inputs.shape[1]]
        return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], dim=-1)
