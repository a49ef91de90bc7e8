"""A one-layer transformer as sections: its parameters, what they have to fit, and where it is cut.

Names and shapes of parameters are those of TransformerLens 1.x. Biases stand in the row of the
constant coordinate.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from libgraph.errors import BackendError, NumericalError
from libgraph.sections import Attention, AttentionMask, Linear, SkipMLP

# Every parameter, its shape in terms of sizes, and the node layer whose activations it shapes.
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


def check(weights: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The parameters alone, once their names, shapes and values are found to be right.

    Raises:
        BackendError: naming the parameter that is missing or has the wrong shape.
        NumericalError: naming the parameter that is not finite, and its node layer.
    """
    sizes: dict[str, int] = {"positions": 3}
    for name, (dims, layer) in PARAMETERS.items():
        if name not in weights:
            raise BackendError(
                f"{where}: there is no parameter '{name}' in it; expected is the "
                "state dict of a one-layer TransformerLens model."
            )
        tensor, expected = weights[name], dims.split()
        shape = tuple(
            sizes.setdefault(dim, size) for dim, size in zip(expected, tensor.shape, strict=False)
        )
        if tuple(tensor.shape) != shape or tensor.ndim != len(expected):
            wanted = " × ".join(str(sizes.get(dim, dim)) for dim in expected)
            got = " × ".join(map(str, tensor.shape)) or "a number"
            raise BackendError(f"{where}: parameter '{name}' should be {wanted}, not {got}.")
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise BackendError(
                f"{where}: parameter '{name}' should hold dense floating-point numbers, "
                f"not {tensor.dtype} in layout {tensor.layout}."
            )
        if not bool(tensor.isfinite().all()):
            raise NumericalError(
                f"{where}: parameter '{name}', which makes node layer '{layer}', "
                "holds NaN or infinite values."
            )
    return {name: weights[name] for name in PARAMETERS}


def sections(w: Mapping[str, Tensor]) -> tuple[Attention, SkipMLP, Linear]:
    """The chain of sections, biases in the rows of the constant coordinate."""

    def with_bias(weight: Tensor, bias: Tensor) -> Tensor:
        return torch.cat([weight, bias.reshape(1, -1)])

    def residual(bias: Tensor) -> Tensor:
        skip = torch.eye(len(bias) + 1).to(bias)
        skip[-1, :-1] = bias
        return skip

    def heads(which: str) -> Tensor:
        weight = w[f"blocks.0.attn.W_{which}"].transpose(0, 1).flatten(1)
        return with_bias(weight, w[f"blocks.0.attn.b_{which}"])

    def no_constant(weight: Tensor) -> Tensor:
        return nn.functional.pad(weight, (0, 1))

    attention = Attention(
        residual(w["blocks.0.attn.b_O"]),
        heads("Q"),
        heads("K"),
        heads("V"),
        no_constant(w["blocks.0.attn.W_O"].flatten(0, 1)),
        heads=len(w["blocks.0.attn.W_Q"]),
        mask=AttentionMask(last_only=True),
    )
    mlp = SkipMLP(
        residual(w["blocks.0.mlp.b_out"]),
        with_bias(w["blocks.0.mlp.W_in"], w["blocks.0.mlp.b_in"]),
        no_constant(w["blocks.0.mlp.W_out"]),
    )
    return attention, mlp, Linear(with_bias(w["unembed.W_U"], w["unembed.b_U"]))
