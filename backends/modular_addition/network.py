"""A one-layer transformer as sections: its parameters, what they have to fit, and where it is cut.

Names and shapes of parameters are those of TransformerLens 1.x. Biases stand in the row of the
constant coordinate.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from libgraph.backend import BackendError, Network, NodeLayer, plain
from libgraph.sections import Attention, AttentionMask, Linear, SkipMLP
from libgraph_backends.shared.checkpoints import own_part, renamed
from libgraph_backends.shared.embedding import Embedding
from libgraph_backends.shared.state_dicts import (
    check_finite,
    check_floating,
    check_shape,
    read_own_or_bundled,
)

BUNDLED = files("libgraph_backends.modular_addition") / "weights" / "model.safetensors"


PARAMETERS: dict[str, tuple[str, str]] = {
    "embed.W_E": ("vocabulary model", "ln1.0"),
    "pos_embed.W_pos": ("positions model", "ln1.0"),
    "blocks.0.attn.W_Q": ("heads model head", "ln2.0"),
    "blocks.0.attn.W_K": ("heads model head", "ln2.0"),
    "blocks.0.attn.W_V": ("heads model head", "ln2.0"),
    "blocks.0.attn.W_O": ("heads head model", "ln2.0"),
    "blocks.0.attn.b_Q": ("heads head", "ln2.0"),
    "blocks.0.attn.b_K": ("heads head", "ln2.0"),
    "blocks.0.attn.b_V": ("heads head", "ln2.0"),
    "blocks.0.attn.b_O": ("model", "ln2.0"),
    "blocks.0.mlp.W_in": ("model hidden", "unembed"),
    "blocks.0.mlp.b_in": ("hidden", "unembed"),
    "blocks.0.mlp.W_out": ("hidden model", "unembed"),
    "blocks.0.mlp.b_out": ("model", "unembed"),
    "unembed.W_U": ("model vocabulary", "output"),
    "unembed.b_U": ("vocabulary", "output"),
}
"""Each parameter's shape in terms of sizes, and the node layer whose activations it shapes."""


BUFFERS = ("blocks.0.attn.mask", "blocks.0.attn.IGNORE")
"""What TransformerLens keeps beside parameters: which positions attend to which, and a number."""


def read(own: Path | None) -> dict[str, Tensor]:
    """The parameters in a user's file, or the bundled ones; checked.

    Raises:
        BackendError: if the file cannot be read, or a parameter is missing or has a wrong shape.
        NumericalError: if a parameter is not finite.
    """
    state = read_own_or_bundled(own, BUNDLED)
    return check(state.tensors, state.where)


def check(weights: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The parameters alone, once their names, shapes and values are found to be right.

    Raises:
        BackendError: naming the parameter that is missing, has the wrong shape, or is of another
            model.
        NumericalError: naming the parameter that is not finite, and its node layer.
    """
    weights = own_part(renamed(weights, PARAMETERS), where)
    sizes = {"positions": 3}
    found = {}
    for name, (dimensions, layer) in PARAMETERS.items():
        if name not in weights:
            raise BackendError(
                f"{where}: there is no parameter '{name}' in it; expected is the "
                "state dict of a one-layer TransformerLens model."
            )
        if not isinstance(weights[name], Tensor):
            kind = type(weights[name]).__name__
            raise BackendError(f"{where}: parameter '{name}' is a {kind}, not a tensor.")
        tensor, words = plain(weights[name], name, where), dimensions.split()
        check_shape(where, name, tensor, [sizes.get(word, word) for word in words])
        sizes |= dict(zip(words, tensor.shape, strict=True))
        check_floating(where, name, tensor)
        check_finite(f"{where}: parameter '{name}', which makes node layer '{layer}',", tensor)
        found[name] = tensor
    _check_rest(weights, where)
    return found


def _check_rest(weights: Mapping[str, Tensor], where: str) -> None:
    """Raise a `BackendError` for what a one-layer transformer without norms does not have."""
    for name in weights:
        if name not in PARAMETERS and name not in BUFFERS:
            raise BackendError(
                f"{where}: '{name}' is no parameter of a one-layer transformer without norms, "
                "which is all that can be read here."
            )
    mask = weights.get(BUFFERS[0])
    if mask is not None and not bool(mask[..., :3, :3][..., -1, :].all()):
        raise BackendError(
            f"{where}: by '{BUFFERS[0]}' the last position does not attend to all of them."
        )


def network_of(weights: Mapping[str, Tensor]) -> Network:
    """Embedding, attention (last position on), MLP, unembedding."""
    width, vocabulary = len(weights["blocks.0.mlp.b_out"]), len(weights["unembed.b_U"])
    return Network(
        Embedding(weights["embed.W_E"], weights["pos_embed.W_pos"]),
        [_attention(weights), _mlp(weights), _unembedding(weights)],
        [
            *(NodeLayer(name, width + 1) for name in ("ln1.0", "ln2.0", "unembed")),
            NodeLayer("output", vocabulary, constant=False, rotated=False),
        ],
    )


def _attention(weights: Mapping[str, Tensor]) -> Attention:
    def heads(which: str) -> Tensor:
        weight = weights[f"blocks.0.attn.W_{which}"].transpose(0, 1).flatten(1)
        return _with_bias(weight, weights[f"blocks.0.attn.b_{which}"])

    return Attention(
        _residual(weights["blocks.0.attn.b_O"]),
        heads("Q"),
        heads("K"),
        heads("V"),
        _no_constant(weights["blocks.0.attn.W_O"].flatten(0, 1)),
        heads=len(weights["blocks.0.attn.W_Q"]),
        mask=AttentionMask(last_only=True),
    )


def _mlp(weights: Mapping[str, Tensor]) -> SkipMLP:
    return SkipMLP(
        _residual(weights["blocks.0.mlp.b_out"]),
        _with_bias(weights["blocks.0.mlp.W_in"], weights["blocks.0.mlp.b_in"]),
        _no_constant(weights["blocks.0.mlp.W_out"]),
    )


def _unembedding(weights: Mapping[str, Tensor]) -> Linear:
    return Linear(_with_bias(weights["unembed.W_U"], weights["unembed.b_U"]))


def _with_bias(weight: Tensor, bias: Tensor) -> Tensor:
    return torch.cat([weight, bias.reshape(1, -1)])


def _residual(bias: Tensor) -> Tensor:
    """Passes the residual stream and the constant on, the bias added."""
    skip = torch.eye(len(bias) + 1, dtype=bias.dtype, device=bias.device)
    skip[-1, :-1] = bias
    return skip


def _no_constant(weight: Tensor) -> Tensor:
    return nn.functional.pad(weight, (0, 1))
