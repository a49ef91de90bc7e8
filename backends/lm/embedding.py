"""What stands before the first node layer: tables of embeddings as they are stored, earlier blocks.

Of a table the rows that are asked for are converted, never the whole; earlier blocks run in the
model's own precision, a block at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from libgraph_backends.lm.parts import Model
from libgraph_backends.lm.plain import own_precision, run_blocks


class Tables:
    """Embeddings of tokens and positions, which copies of a network share: nobody changes them.

    Args:
        model: whose they are.
        first: the first position that counts.
    """

    def __init__(self, model: Model, first: int = 0) -> None:
        self.model, self.first = model, first

    def __deepcopy__(self, memo: dict[int, Any]) -> Tables:
        return self

    def look_up(self, inputs: Int[Tensor, "n s"], like: Tensor) -> Float[Tensor, "n s d"]:
        """Tokens `(n, s)` embedded, in the dtype and on the device of `like`."""
        table, positions = self.model.tokens(), self.model.positions()
        x = table[inputs.to(table.device)].to(like)
        if self.model.embedding_scale != 1.0:
            x = x * self.model.embedding_scale
        if positions is not None:
            x = x + positions[self.first : self.first + inputs.shape[1]].to(like)
        # When it was read for the first time, all of the table was looked at.
        self.model.release()
        return x

    def whole(self, like: Tensor) -> dict[str, Tensor]:
        """All of both tables, converted: to hash or to save."""
        tables = {"tokens": self.model.tokens().to(like)}
        if self.model.embedding_scale != 1.0:
            tables["tokens"] = tables["tokens"] * self.model.embedding_scale
        positions = self.model.positions()
        if positions is not None:
            tables["positions"] = positions[self.first :].to(like)
        return tables


class Embedding(nn.Module):
    """Token and, where there are any, position embeddings, with the constant appended.

    Args:
        tables: as they are stored.
    """

    _like: Tensor

    def __init__(self, tables: Tables) -> None:
        super().__init__()
        self.tables = tables
        # Follows the network's dtype and device.
        self.register_buffer("_like", torch.empty(0, dtype=torch.float64), persistent=False)

    def forward(self, inputs: Int[Tensor, "n s"]) -> Float[Tensor, "n s d_plus_1"]:
        """Tokens `(n, s)` to activations."""
        return with_constant(self.tables.look_up(inputs, self._like))

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        for name, table in self.tables.whole(self._like).items():
            destination[prefix + name] = table


class EarlierBlocks(nn.Module):
    """Tokens to the residual stream after some blocks, with the constant appended.

    Args:
        tables: as they are stored.
        blocks: how many.
        prefix: a token before every sequence, left out of what comes out; None for none.
    """

    _like: Tensor

    def __init__(self, tables: Tables, blocks: int, prefix: int | None) -> None:
        super().__init__()
        self.tables, self.blocks, self.prefix = tables, blocks, prefix
        self.register_buffer("_like", torch.empty(0, dtype=torch.float64), persistent=False)

    def extra_repr(self) -> str:
        """What tells these blocks from others."""
        return f"blocks={self.blocks}, prefix={self.prefix}, of={self.tables.model.digest()}"

    def forward(self, inputs: Int[Tensor, "n s"]) -> Float[Tensor, "n s d_plus_1"]:
        """Tokens `(n, s)` to activations."""
        if self.prefix is not None:
            inputs = torch.cat([torch.full_like(inputs[:, :1], self.prefix), inputs], dim=1)
        return with_constant(self.stream(inputs).to(self._like))[:, self.prefix is not None :]

    def stream(self, inputs: Int[Tensor, "n s"]) -> Float[Tensor, "n s d"]:
        """The residual stream of all tokens that are given, in the model's own precision."""
        model = self.tables.model
        like = self._like.to(own_precision(model))
        return run_blocks(model, self.tables.look_up(inputs, like), range(self.blocks))


def with_constant(x: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d_plus_1"]:
    """Activations with the constant 1 that carries biases."""
    return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], dim=-1)
