"""The blocks of a transformer as sections, in double precision.

Blocks of attention and an MLP, one after the other (GPT-2, Llama) or side by side (GPT-NeoX, Phi),
with norms before them, after them or both (Gemma 2). Scale and shift of a norm before are folded
into what reads it, those of a norm after into what it writes. Node layers are called by
TransformerLens's hooks: `0.ln1.scale` is `blocks.0.ln1.hook_scale`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from libgraph.backend import NodeLayer
from libgraph.sections import (
    Attention,
    AttentionMask,
    Division,
    GatedMLP,
    NormedAttention,
    Parallel,
    Section,
    SkipMLP,
    Variance,
    split_norm,
)
from libgraph_backends.lm.parts import AttentionParts, Block, MLPParts, Model, Norm


class Step(NamedTuple):
    """A section, with the node layer that it leads to."""

    section: Section
    layer: NodeLayer


def block_steps(model: Model, i: int) -> Iterator[Step]:
    """The steps of one block, from the residual stream before it to the one after it."""
    block, width = model.block(i), model.shape.width + 1
    after = stream_after(model, i)
    before, written, before_mlp, written_mlp = block.norms
    if block.parallel and block.mlp is not None:
        if before is not None:
            yield from norm_steps(before, f"{i}.ln1", width - 1)
        yield Step(_side_by_side(block, block.mlp), after)
        return
    if before is not None:
        yield from norm_steps(before, f"{i}.ln1", width - 1)
    bias = _bias(block.attention.biases[3], width - 1)
    attention = _attention(block.attention, before, _residual(bias, before, written))
    middle = NodeLayer(f"{i}.resid_mid", width, hooks=(f"blocks.{i}.hook_resid_mid",))
    attended = after if block.mlp is None else middle
    if written is None:
        yield Step(attention, attended)
    else:
        yield Step(attention, NodeLayer(f"{i}.attn_out", 2 * width - 1))
        yield from _written_steps(written, f"{i}.ln1_post", attended)
    if block.mlp is None:
        return
    if before_mlp is not None:
        yield from norm_steps(before_mlp, f"{i}.ln2", width - 1)
    bias = _bias(block.mlp.biases[2], width - 1)
    mlp = _mlp(block.mlp, before_mlp, _residual(bias, before_mlp, written_mlp))
    if written_mlp is None:
        yield Step(mlp, after)
    else:
        yield Step(mlp, NodeLayer(f"{i}.mlp_out", 2 * width - 1))
        yield from _written_steps(written_mlp, f"{i}.ln2_post", after)


MODULES = ("layers", "model.layers", "h", "transformer.h", "gpt_neox.layers", "model.h")
"""What Hugging Face's models call their blocks, whose outputs are the stream after them."""


def stream_before(i: int, width: int) -> NodeLayer:
    """The residual stream before block i, known to other tools as what the one before puts out."""
    hooks = [f"blocks.{i}.hook_resid_pre"]
    if i:
        hooks += _hooks_after(i - 1)
    return NodeLayer(f"{i}.resid_pre", width, hooks=tuple(hooks))


def stream_after(model: Model, i: int) -> NodeLayer:
    """The residual stream after block i, before the next one if there is one."""
    width = model.shape.width + 1
    if i + 1 < model.shape.blocks:
        return stream_before(i + 1, width)
    return NodeLayer(f"{i}.resid_post", width, hooks=tuple(_hooks_after(i)))


def _hooks_after(i: int) -> list[str]:
    return [
        f"blocks.{i}.hook_resid_post",
        *(f"{name}.{i}" for name in MODULES),
        f"resid_post_layer_{i}",
    ]


def norm_steps(norm: Norm, name: str, d: int, keep: bool = True) -> Iterator[Step]:
    """The residual stream to its variance and itself, then to both streams, or one normalised."""
    first, second = split_norm(d, epsilon=norm.epsilon, centred=norm.centred, keep=keep)
    yield Step(first, NodeLayer(f"{name}.scale", d + 2, isolated=(0,)))
    yield Step(second, NodeLayer(f"{name}.normalized", 2 * d + 1 if keep else d + 1))


def _written_steps(norm: Norm, name: str, layer: NodeLayer) -> Iterator[Step]:
    """What attention or MLP writes beside the stream, (o, r, 1), to (r + norm(o), 1)."""
    d = layer.size - 1
    stream = torch.eye(d, dtype=torch.float64)
    stream = stream - 1 / d if norm.centred else stream
    eye = torch.eye(2 * d + 1, dtype=torch.float64)
    scale, shift = norm.scale(stream[0]), _bias(norm.bias, d)
    yield Step(
        Variance(pad(eye, (1, 0)), pad(stream, (0, 0, 0, d + 1)), torch.eye(1, 2 * d + 2).to(eye)),
        NodeLayer(f"{name}.scale", 2 * d + 2, isolated=(0,)),
    )
    goes_on = torch.cat([torch.zeros(d + 1, d + 1).to(eye), torch.eye(d + 1).to(eye)])
    goes_on[-1, :-1] = shift
    yield Step(
        Division(
            goes_on,
            torch.eye(2 * d + 2, 1).to(eye),
            pad(stream, (0, 0, 1, d + 1)),
            pad(torch.diag(scale), (0, 1)),
            norm.epsilon,
        ),
        layer,
    )


PIECE = 2**22
"""Numbers of an unembedding that are converted at a time."""


def unembedding(
    model: Model, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "d_plus_1 vocabulary"]:
    """The normalised stream and the constant to logits, computed in double precision.

    Args:
        model: whose.
        dtype: of what comes out, the only thing in memory that is as large.
    """
    weight, bias = model.unembedding()
    size, vocabulary = weight.shape
    bias, norm = _bias(bias, vocabulary), model.final_norm()
    whole = torch.empty(size + 1, vocabulary, dtype=dtype)
    tokens = max(1, PIECE // size)
    for piece, added, part in zip(
        weight.split(tokens, dim=1),
        bias.split(tokens),
        whole.split(tokens, dim=1),
        strict=True,
    ):
        folded = torch.cat([_double(piece), added[None]])
        folded = folded if norm is None else before_norm(norm, folded)
        part.copy_(folded if model.logit_scale == 1.0 else folded * model.logit_scale)
    model.release()
    return whole


# What is read of a model


def _bias(bias: Tensor | None, size: int) -> Float[Tensor, " size"]:
    """A parameter in float64; zeros where there is none."""
    return torch.zeros(size, dtype=torch.float64) if bias is None else bias.detach().cpu().double()


def before_norm(norm: Norm, weight: Float[Tensor, "d_plus_1 m"]) -> Float[Tensor, "d_plus_1 m"]:
    """A weight with its bias in the last row, seen from before the norm's scale and shift.

    Args:
        norm: whose scale and shift it is.
        weight: of what the norm puts out, and the constant.
    """
    scale = norm.scale(weight[:-1, 0]).unsqueeze(1)
    shift = _bias(norm.bias, len(scale))
    bias = shift @ weight[:-1] + weight[-1]
    return torch.cat([scale * weight[:-1], bias[None]])


def _reader(norm: Norm | None, weight: Tensor, bias: Tensor) -> Float[Tensor, "d_in m"]:
    """A weight that reads (y, r, 1) through a norm, nothing of r; or (r, 1) without one."""
    whole = torch.cat([weight, bias[None]])
    if norm is None:
        return whole
    folded = before_norm(norm, whole)
    return torch.cat([folded[:-1], torch.zeros_like(weight), folded[-1:]])


def _residual(
    bias: Float[Tensor, " d"], before: Norm | None, after: Norm | None
) -> Float[Tensor, "d_in d_out"]:
    """(y, r, 1), or (r, 1), to (r + bias, 1); to (bias, r, 1) where a norm comes after."""
    d = len(bias)
    skip = torch.eye(d + 1, dtype=torch.float64)
    if before is not None:
        skip = torch.cat([torch.zeros(d, d + 1), torch.eye(d + 1)]).double()
    if after is not None:
        skip = pad(skip, (d, 0))
    skip[-1, :d] = bias
    return skip


# Attention and MLP


def _side_by_side(block: Block, mlp: MLPParts) -> Parallel:
    """Attention and MLP that both read the residual stream before the block."""
    before, _, before_mlp, _ = block.norms
    d = block.attention.output.shape[2]
    # Both norms have the same mean and variance, and differ in what is folded only.
    skip = torch.zeros_like(_residual(_bias(None, d), before, None))
    # Attention passes the stream on; the MLP adds its bias alone.
    skip[-1, :-1] = _bias(mlp.biases[2], d)
    residual = _residual(_bias(block.attention.biases[3], d), before, None)
    return Parallel([_attention(block.attention, before, residual), _mlp(mlp, before_mlp, skip)])


def _attention(parts: AttentionParts, before: Norm | None, skip: Tensor) -> Section:
    """Attention that reads through the norm before it; `skip` says where its output goes."""
    heads, _, size = parts.query.shape
    order = None if parts.rotary is None else parts.rotary.order
    query, key, value = (
        _heads(weight, bias, before, order if which < 2 else None)
        for which, (weight, bias) in enumerate(
            zip((parts.query, parts.key, parts.value), parts.biases[:3], strict=True)
        )
    )
    angles = None
    if parts.rotary is not None:
        angles = parts.rotary.angles.detach().cpu().double()
        angles = pad(angles, (0, size // 2 - len(angles)))
    output = pad(_double(parts.output).flatten(0, 1), (0, skip.shape[1] - parts.output.shape[2]))
    mask = AttentionMask(window=parts.window)
    factor = size**0.5 * parts.scale
    if parts.query_norm is not None or parts.key_norm is not None:
        return NormedAttention(
            skip, query, key, value, output,
            heads=heads, mask=mask, rotary=angles, scale=factor, soft_cap=parts.soft_cap,
            query_norm=_head_norm(parts.query_norm, order),
            key_norm=_head_norm(parts.key_norm, order),
        )  # fmt: skip
    if not _is_one(factor):
        # A section divides by √d_head.
        query = factor * query
    return Attention(
        skip, query, key, value, output,
        heads=heads, mask=mask, rotary=angles, soft_cap=parts.soft_cap,
    )  # fmt: skip


def _is_one(factor: float) -> bool:
    return abs(factor - 1) < 1e-12


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()


def _heads(
    weight: Float[Tensor, "h d e"], bias: Tensor | None, before: Norm | None, order: Tensor | None
) -> Float[Tensor, "d_in m"]:
    """Queries, keys or values of all heads, seen from before the norm."""
    heads, _, size = weight.shape
    weight = _double(weight)
    bias = _bias(None if bias is None else bias.flatten(), heads * size).reshape(heads, size)
    if order is not None:
        weight, bias = weight[..., order], bias[..., order]
    return _reader(before, weight.transpose(0, 1).flatten(1), bias.flatten())


def _head_norm(norm: Norm | None, order: Tensor | None) -> tuple[Tensor, float] | None:
    """The scale of a norm of queries or keys in the order of their coordinates, and its ε."""
    if norm is None:
        return None
    if norm.weight is None:
        raise ValueError("A norm of queries or keys without a scale.")
    scale = norm.scale(_double(norm.weight))
    if order is not None:
        scale = scale.unflatten(0, (-1, len(order)))[:, order].flatten()
    return scale, norm.epsilon


def _mlp(parts: MLPParts, before: Norm | None, skip: Tensor) -> SkipMLP:
    weight = _double(parts.inner)
    outer = _double(parts.outer)
    outer = pad(outer, (0, skip.shape[1] - outer.shape[1]))
    inner = _reader(before, weight, _bias(parts.biases[0], weight.shape[1]))
    if parts.gate is None:
        return SkipMLP(skip, inner, outer, parts.activation)
    gate = _double(parts.gate)
    acted = _reader(before, gate, _bias(parts.biases[1], gate.shape[1]))
    return GatedMLP(skip, acted, inner, outer, parts.activation)
