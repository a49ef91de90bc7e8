"""Blocks as a model computes them, a block at a time and in the model's own precision.

What lies before the node layers of an analysis and after them is no section: nothing is summed
over its Jacobians. It runs here on parameters as they are stored, converted when their block's
turn comes and let go afterwards, so that there is no second model.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph_backends.lm.parts import AttentionParts, Block, MLPParts, Model, Norm, Rotary

SCORES = 2**24
"""Scores of attention that are computed at a time."""


def own_precision(model: Model) -> torch.dtype:
    """What a model computes in: at least single precision, whatever its file has."""
    return torch.promote_types(model.tokens().dtype, torch.float32)


def run_blocks(
    model: Model, x: Float[Tensor, "n s d"], blocks: Iterable[int]
) -> Float[Tensor, "n s d"]:
    """The residual stream through some blocks."""
    for i in blocks:
        block = model.block(i)
        rows = max(1, SCORES // (model.shape.heads * x.shape[1] ** 2))
        x = torch.cat([run_block(block, part) for part in x.split(rows)])
        del block
        model.release()
    return x


def run_block(block: Block, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
    """The residual stream through one block."""
    before, after, before_mlp, after_mlp = block.norms
    attended = through(after, attention(block.attention, through(before, x)))
    if block.mlp is None:
        return x + block.residual * attended
    middle = x if block.parallel else x + block.residual * attended
    moved = through(after_mlp, mlp(block.mlp, through(before_mlp, middle)))
    if block.parallel:
        middle = x + block.residual * attended
    return middle + block.residual * moved


def through(norm: Norm | None, x: Tensor) -> Tensor:
    """Normalised, or as it is without a norm."""
    return x if norm is None else norm(x)


def attention(parts: AttentionParts, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
    """What heads write, for the stream that they read."""
    q, k, v = (
        _heads(x, weight, bias)
        for weight, bias in zip(
            (parts.query, parts.key, parts.value), parts.biases[:3], strict=True
        )
    )
    q, k = _normalised(parts.query_norm, q), _normalised(parts.key_norm, k)
    if parts.rotary is not None:
        q, k = turned(parts.rotary, q), turned(parts.rotary, k)
    shared = q.shape[1] // k.shape[1]
    k, v = (vectors.repeat_interleave(shared, dim=1) for vectors in (k, v))
    scores = parts.scale * (q @ k.transpose(-1, -2))
    if parts.soft_cap is not None:
        scores = parts.soft_cap * (scores / parts.soft_cap).tanh()
    here = torch.arange(x.shape[1], device=x.device)
    back = here.unsqueeze(1) - here
    hidden = back < 0
    if parts.window is not None:
        hidden = hidden | (back >= parts.window)
    mixed = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
    written = mixed.transpose(1, 2).flatten(2) @ parts.output.flatten(0, 1).to(x)
    bias = parts.biases[3]
    return written if bias is None else written + bias.to(x)


def _heads(x: Tensor, weight: Tensor, bias: Tensor | None) -> Float[Tensor, "n h s e"]:
    heads, _, size = weight.shape
    y = x @ weight.transpose(0, 1).flatten(1).to(x)
    y = y if bias is None else y + bias.flatten().to(x)
    by_head: Tensor = y.unflatten(-1, (heads, size)).transpose(1, 2)
    return by_head


def _normalised(norm: Norm | None, vectors: Float[Tensor, "n h s e"]) -> Float[Tensor, "n h s e"]:
    """Each head's by itself, or all heads' at once where the norm is as wide."""
    if norm is None or norm.weight is None:
        return vectors if norm is None else norm(vectors)
    if len(norm.weight) == vectors.shape[-1]:
        return norm(vectors)
    flat = norm(vectors.transpose(1, 2).flatten(2))
    by_head: Tensor = flat.unflatten(-1, (vectors.shape[1], -1)).transpose(1, 2)
    return by_head


def turned(rotary: Rotary, vectors: Float[Tensor, "n h s e"]) -> Float[Tensor, "n h s e"]:
    """Vectors turned by the angles of their positions, coordinates in the order of planes."""
    vectors = vectors[..., rotary.order.to(vectors.device)]
    count = 2 * len(rotary.angles)
    positions = torch.arange(vectors.shape[-2]).to(vectors).unsqueeze(1)
    angles = positions * rotary.angles.to(vectors)
    cos, sin = angles.cos(), angles.sin()
    a, b = vectors[..., :count:2], vectors[..., 1:count:2]
    planes = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
    return torch.cat([planes, vectors[..., count:]], dim=-1)


def mlp(parts: MLPParts, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
    """What the MLP writes, for the stream that it reads."""
    inner, gate, outer = parts.biases
    hidden = _affine(x, parts.inner, inner)
    if parts.gate is None:
        hidden = parts.activation(hidden)
    else:
        hidden = hidden * parts.activation(_affine(x, parts.gate, gate))
    return _affine(hidden, parts.outer, outer)


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = x @ weight.to(x)
    return y if bias is None else y + bias.to(x)
