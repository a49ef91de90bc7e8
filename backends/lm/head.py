"""What follows a network: later blocks, the final norm, the unembedding and the loss.

Nothing is summed over Jacobians of it: it runs in the model's own precision on the parameters as
they are stored, and of the unembedding a piece at a time is converted where it is large.
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from libgraph_backends.lm.blocks import PIECE, unembedding
from libgraph_backends.lm.parts import Model
from libgraph_backends.lm.plain import own_precision, run_blocks, through

LARGEST_LOGITS = 2**25
"""Logits computed at a time: vocabularies are larger than node layers."""


LARGEST_KEPT = 2**23
"""Numbers of an unembedding that is kept converted; of a larger one a piece at a time is made."""


class Head:
    """From a network's outputs to logits and losses.

    Args:
        model: whose.
        blocks: the first block that follows.
        normalised: whether outputs are the normalised stream already.
        prefix: the residual stream of a token before every sequence, where blocks follow;
            None for none.
    """

    def __init__(
        self, model: Model, blocks: int, *, normalised: bool, prefix: Tensor | None = None
    ) -> None:
        self.model, self.blocks = model, range(blocks, model.shape.blocks)
        self.normalised, self.prefix = normalised, prefix
        self._kept: tuple[tuple[torch.dtype, torch.device], Tensor] | None = None

    def unembed(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, "d_plus_1 vocabulary"]:
        """The normalised stream and the constant to logits, computed in double precision."""
        return unembedding(self.model, dtype)

    def logits(self, outputs: Float[Tensor, "n t d"]) -> Float[Tensor, "n t vocabulary"]:
        """Logits from the network's outputs, in their dtype and on their device."""
        return self._logits(self._stream(outputs)).to(outputs.dtype)

    def losses(
        self, outputs: Float[Tensor, "n t d"], targets: Int[Tensor, "n t"]
    ) -> Float[Tensor, " n"]:
        """Mean cross-entropy of the targets in each row, in nats."""
        return self.token_losses(outputs, targets).mean(1)

    def token_losses(
        self, outputs: Float[Tensor, "n t d"], targets: Int[Tensor, "n t"]
    ) -> Float[Tensor, "n t"]:
        """Cross-entropy of each target, in nats."""
        rows = max(1, LARGEST_LOGITS // (targets.shape[1] * self.model.shape.vocabulary))
        losses = [
            cross_entropy(
                self._logits(part).to(outputs.dtype).flatten(0, 1),
                wanted.flatten(),
                reduction="none",
            )
            for part, wanted in zip(
                self._stream(outputs).split(rows), targets.split(rows), strict=True
            )
        ]
        self.model.release()
        by_token: Tensor = torch.cat(losses).unflatten(0, targets.shape)
        return by_token

    def _stream(self, outputs: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d_stream"]:
        """The normalised stream: with the constant if the network normalised it."""
        if self.normalised:
            return outputs
        x = outputs[..., :-1].to(own_precision(self.model))
        if self.prefix is not None:
            x = torch.cat([self.prefix.to(x).expand(len(x), -1, -1), x], dim=1)
        x = run_blocks(self.model, x, self.blocks)[:, self.prefix is not None :]
        return through(self.model.final_norm(), x)

    def _logits(self, stream: Float[Tensor, "n t d_stream"]) -> Float[Tensor, "n t vocabulary"]:
        model = self.model
        if self.normalised and model.shape.width * model.shape.vocabulary <= LARGEST_KEPT:
            return self._capped(stream @ self._folded(stream))
        if self.normalised:
            norm, stream = model.final_norm(), stream[..., :-1]
            if norm is not None:
                stream = stream * norm.scale(stream[0, 0])
                stream = stream if norm.bias is None else stream + norm.bias.to(stream)
        weight, bias = model.unembedding()
        pieces = weight.split(max(1, PIECE // len(weight)), dim=1)
        logits = torch.cat([stream @ piece.to(stream) for piece in pieces], dim=-1)
        logits = logits if bias is None else logits + bias.to(logits)
        return self._capped(logits if model.logit_scale == 1.0 else model.logit_scale * logits)

    def _folded(self, like: Tensor) -> Float[Tensor, "d_plus_1 vocabulary"]:
        key = (like.dtype, like.device)
        if self._kept is None or self._kept[0] != key:
            self._kept = key, self.unembed().to(like)
        return self._kept[1]

    def _capped(self, logits: Tensor) -> Tensor:
        cap = self.model.logit_cap
        return logits if cap is None else cap * (logits / cap).tanh()

    def fingerprint(self) -> str:
        """SHA-256 over all that logits depend on beside the outputs."""
        if not self.normalised:
            prefix = None if self.prefix is None else self.prefix.double().sum().item()
            text = f"{self.model.digest()} {self.blocks} {prefix}"
            return hashlib.sha256(text.encode()).hexdigest()
        unembed = self.unembed()
        digest = hashlib.sha256(repr(nn.ModuleList()).encode())
        digest.update(f"unembed {unembed.dtype} {tuple(unembed.shape)}".encode())
        digest.update(unembed.contiguous().numpy().data)
        if self.model.logit_cap is not None:
            digest.update(f"cap {self.model.logit_cap}".encode())
        return digest.hexdigest()
