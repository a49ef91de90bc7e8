"""The blocks of a transformer as sections, through the names that TransformerLens gives.

Pre-norm blocks of attention and an MLP, one after the other (GPT-2, GPT-Neo) or side by side
(GPT-NeoX): absolute or rotary positions, LayerNorm or RMSNorm, plain or gated MLPs, grouped heads,
local attention. Scale and shift of each norm are folded into what reads it. Node layers are called
by TransformerLens's hooks: `0.ln1.scale` is `blocks.0.ln1.hook_scale`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import gelu, pad, silu

from libgraph.backend import BackendError, NodeLayer
from libgraph.sections import (
    Attention,
    AttentionMask,
    GatedMLP,
    Parallel,
    Section,
    SkipMLP,
    split_norm,
)
from libgraph_backends.lm.loading import config_of

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation, as GPT-2 has it."""
    return gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu": gelu,
    "relu": torch.relu,
    "silu": silu,
    "swish": silu,
}


Component: TypeAlias = Any
"""A part of a model; TransformerLens gives it the parameters by their names."""


class Step(NamedTuple):
    """A section, with the node layer that it leads to."""

    section: Section
    layer: NodeLayer


def block_steps(bridge: TransformerBridge, i: int) -> Iterator[Step]:
    """The steps of one block, from the residual stream before it to the one after it."""
    block, width = bridge.blocks[i], bridge.cfg.d_model + 1
    after = f"{i}.resid_post" if i + 1 == bridge.cfg.n_layers else f"{i + 1}.resid_pre"
    yield from norm_steps(bridge, f"{i}.ln1")
    if bridge.cfg.parallel_attn_mlp:
        yield Step(_side_by_side(bridge, i), NodeLayer(after, width))
        return
    yield Step(_attention(bridge, i), NodeLayer(f"{i}.resid_mid", width))
    yield from norm_steps(bridge, f"{i}.ln2")
    skip = _residual(_bias(block.mlp, "b_out", width - 1))
    yield Step(_mlp(bridge, i, block.ln2, skip), NodeLayer(after, width))


def norm_steps(bridge: TransformerBridge, name: str, keep: bool = True) -> Iterator[Step]:
    """The residual stream to its variance and itself, then to both streams, or one normalised."""
    d = bridge.cfg.d_model
    centred = bridge.cfg.normalization_type == "LN"
    first, second = split_norm(d, epsilon=bridge.cfg.eps, centred=centred, keep=keep)
    yield Step(first, NodeLayer(f"{name}.scale", d + 2, isolated=(0,)))
    yield Step(second, NodeLayer(f"{name}.normalized", 2 * d + 1 if keep else d + 1))


def unembedding(bridge: TransformerBridge) -> Float[Tensor, "d_plus_1 vocabulary"]:
    """The normalised stream and the constant to logits."""
    bias = _bias(bridge, "b_U", bridge.cfg.d_vocab)
    return _folded(bridge.ln_final, torch.cat([weight_of(bridge, "W_U"), bias[None]]))


# What is read of a model


def weight_of(part: Component, name: str) -> Tensor:
    """A parameter in float64, in which norms are folded.

    Raises:
        BackendError: if the part of the model does not have it.
    """
    tensor = _parameter(part, name)
    if tensor is None:
        raise BackendError(f"The model has no parameter '{name}' that a section needs.")
    return tensor


def _bias(part: Component, name: str, size: int) -> Float[Tensor, " size"]:
    """A parameter in float64; zeros where there is none."""
    tensor = _parameter(part, name)
    return torch.zeros(size, dtype=torch.float64) if tensor is None else tensor


def _parameter(part: Component, name: str) -> Tensor | None:
    try:
        value = getattr(part, name)
    except AttributeError:
        return None
    return None if value is None else value.detach().cpu().double()


def _folded(norm: Component, weight: Float[Tensor, "d_plus_1 m"]) -> Float[Tensor, "d_plus_1 m"]:
    """A weight with its bias in the last row, seen from before the norm's scale and shift."""
    scale = weight_of(norm, "weight").unsqueeze(1)
    shift = _bias(norm, "bias", len(scale))
    bias = shift @ weight[:-1] + weight[-1]
    return torch.cat([scale * weight[:-1], bias[None]])


def _reader(norm: Component, weight: Tensor, bias: Tensor) -> Float[Tensor, "d_in m"]:
    """A weight that reads (y, r, 1) through a norm: nothing is read from r."""
    folded = _folded(norm, torch.cat([weight, bias[None]]))
    return torch.cat([folded[:-1], torch.zeros_like(weight), folded[-1:]])


def _residual(bias: Float[Tensor, " d"]) -> Float[Tensor, "d_in d_out"]:
    """(y, r, 1) to (r + bias, 1)."""
    d = len(bias)
    skip = torch.cat([torch.zeros(d, d + 1), torch.eye(d + 1)]).double()
    skip[-1, :-1] = bias
    return skip


# Attention and MLP


def _side_by_side(bridge: TransformerBridge, i: int) -> Parallel:
    """Attention and MLP that both read the residual stream before the block."""
    block = bridge.blocks[i]
    # Both norms have the same mean and variance, and differ in what is folded only.
    norm = block.ln2 if hasattr(block, "ln2") else block.ln1
    bias = _bias(block.mlp, "b_out", bridge.cfg.d_model)
    # Attention passes the stream on; the MLP adds its bias alone.
    skip = torch.zeros_like(_residual(bias))
    skip[-1, :-1] = bias
    return Parallel([_attention(bridge, i), _mlp(bridge, i, norm, skip)])


def _attention(bridge: TransformerBridge, i: int) -> Attention:
    cfg, block = bridge.cfg, bridge.blocks[i]
    order, rotary = _rotary(bridge)
    query, key, value = (_heads(block, which, order) for which in "QKV")
    if config_of(bridge).model_type == "gpt_neo":
        # GPT-Neo does not divide by √d_head, a section does.
        query = cfg.d_head**0.5 * query
    return Attention(
        _residual(_bias(block.attn, "b_O", cfg.d_model)),
        query,
        key,
        value,
        pad(weight_of(block.attn, "W_O").flatten(0, 1), (0, 1)),
        heads=cfg.n_heads,
        mask=AttentionMask(window=_window(bridge, i)),
        rotary=rotary,
    )


def _heads(block: Component, which: str, order: Tensor | None) -> Float[Tensor, "d_in m"]:
    """Queries, keys or values of all heads, seen from before the norm."""
    weight = weight_of(block.attn, f"W_{which}")
    heads, _, size = weight.shape
    bias = _bias(block.attn, f"b_{which}", heads * size).reshape(heads, size)
    if which in "QK" and order is not None:
        weight, bias = weight[..., order], bias[..., order]
    return _reader(block.ln1, weight.transpose(0, 1).flatten(1), bias.flatten())


def _window(bridge: TransformerBridge, i: int) -> int | None:
    """How many positions attention reads, itself included; None for all before it."""
    config = config_of(bridge)
    kinds = getattr(config, "attention_layers", None)
    if kinds is not None and kinds[i] != "local":
        return None
    window: int | None = None if kinds is None else getattr(config, "window_size", None)
    return window or getattr(config, "sliding_window", None)


def _rotary(bridge: TransformerBridge) -> tuple[Tensor | None, Tensor | None]:
    """The order of a head's coordinates in which planes are neighbours, and the planes' angles."""
    cfg = bridge.cfg
    if cfg.positional_embedding_type != "rotary":
        return None, None
    buffers = bridge.original_model.named_buffers()
    frequencies = [buffer for name, buffer in buffers if name.endswith("inv_freq")]
    same = len({len(buffer) for buffer in frequencies}) == 1
    if not same or cfg.rotary_adjacent_pairs:
        raise BackendError(
            "The model has rotary positions of a kind for which there is no section."
        )
    angles = frequencies[0].detach().cpu().double()
    turned = len(angles)
    # Planes are coordinates i and i + turned; what comes after them is at rest.
    order = torch.arange(2 * turned).reshape(2, -1).T.flatten()
    order = torch.cat([order, torch.arange(2 * turned, cfg.d_head)])
    return order, pad(angles, (0, cfg.d_head // 2 - turned))


def _mlp(bridge: TransformerBridge, i: int, norm: Component, skip: Tensor) -> SkipMLP:
    cfg, mlp = bridge.cfg, bridge.blocks[i].mlp
    weight = weight_of(mlp, "W_in")
    outer = pad(weight_of(mlp, "W_out"), (0, 1))
    inner = _reader(norm, weight, _bias(mlp, "b_in", weight.shape[1]))
    activation = ACTIVATIONS[cfg.act_fn]
    if not cfg.gated_mlp:
        return SkipMLP(skip, inner, outer, activation)
    gate = weight_of(mlp, "W_gate")
    acted = _reader(norm, gate, _bias(mlp, "b_gate", gate.shape[1]))
    return GatedMLP(skip, acted, inner, outer, activation)
