"""Cutting a transformer of Hugging Face into sections, through the names TransformerLens gives.

Any model made of pre-norm blocks of attention and an MLP, one after the other (GPT-2, GPT-Neo) or
side by side (GPT-NeoX): absolute or rotary positions, LayerNorm or RMSNorm, plain or gated MLPs,
grouped heads, local attention. Scale and shift of each norm are folded into what reads it. Node
layers are called by TransformerLens's hooks: `0.ln1.scale` is `blocks.0.ln1.hook_scale`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, pad, silu

from libgraph.errors import BackendError
from libgraph.network.network import Network, NodeLayer
from libgraph.sections import (
    Attention,
    AttentionMask,
    GatedMLP,
    Parallel,
    Section,
    SkipMLP,
    chain,
    split_norm,
)
from libgraph_backends.shared.embedding import Embedding


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


CUTS = {
    "all": ("resid_pre", "resid_mid", "scale", "normalized"),
    "sublayers": ("resid_pre", "resid_mid"),
    "blocks": ("resid_pre",),
}
"""Which node layers there are: all of them, those around each attention and MLP, or each block."""


@dataclass(frozen=True)
class Step:
    """A section, with the node layer that it leads to."""

    section: Section
    layer: NodeLayer


@dataclass(frozen=True)
class CutTransformer:
    """A transformer cut into sections.

    Args:
        network: the blocks asked for; earlier ones are part of its embedding.
        rest: the sections after them, up to the normalised stream.
        unembed: normalised stream and constant to logits `(d + 1, vocabulary)`.
    """

    network: Network
    rest: tuple[Section, ...]
    unembed: Float[Tensor, "d_plus_1 vocabulary"]


def cut_transformer(
    bridge: Any, *, first: int, last: int, cuts: str, prefix: int | None
) -> CutTransformer:
    """Cut a `TransformerBridge` in compatibility mode, weights unprocessed, into sections.

    Args:
        bridge: the model.
        first: block at which the network begins.
        last: block before which it ends; the final norm belongs to it if that is the last one.
        cuts: which node layers there are, a key of `CUTS`.
        prefix: a token that stands before every sequence and is no position of the network: what
            attention reads there is a constant. None for none.

    Raises:
        BackendError: naming the part of the model that has no section here.
    """
    _check_supported(bridge)
    blocks = [list(_block(bridge, i)) for i in range(bridge.cfg.n_layers)]
    final = list(_final_norm(bridge))
    positions = _of(bridge, "W_pos") if _kind(bridge) == "standard" else None
    embed: nn.Module = Embedding(_of(bridge, "W_E"), positions)
    if prefix is not None:
        steps = _with_prefix(embed, [step for block in blocks for step in block], prefix)
        counts = iter(steps)
        blocks = [[next(counts) for _ in block] for block in blocks]
        embed = Embedding(_of(bridge, "W_E"), None if positions is None else positions[1:])
    whole = last == bridge.cfg.n_layers
    inside = [step for block in blocks[first:last] for step in block]
    inside += final if whole else []
    # What a block leads to is the next one's input; at the end of all it is the last one's output.
    d = bridge.cfg.d_model
    layers = [NodeLayer(f"{first}.resid_pre", d + 1), *(s.layer for s in inside)]
    kept = [i for i, layer in enumerate(layers) if _is_kept(layer.name, cuts)]
    kept = sorted({0, *kept, len(layers) - 1})
    sections = [chain([step.section for step in inside[a:b]]) for a, b in pairwise(kept)]
    before = [step.section for block in blocks[:first] for step in block]
    after = [step.section for block in blocks[last:] for step in block]
    after += [] if whole else [step.section for step in final]
    network = Network(
        nn.Sequential(embed, *before) if before else embed, sections, [layers[i] for i in kept]
    )
    unembed = torch.cat([_of(bridge, "W_U"), _of(bridge, "b_U", bridge.cfg.d_vocab)[None]])
    return CutTransformer(network, tuple(after), _fold(bridge.ln_final, unembed))


def _is_kept(name: str, cuts: str) -> bool:
    kind = name.rpartition(".")[2]
    return kind in CUTS[cuts] or kind == "resid_post" or name == "ln_final.normalized"


def _check_supported(bridge: Any) -> None:
    """Refuse what is known not to fit, by name; the rest is found by comparing logits."""
    cfg, config = bridge.cfg, bridge.original_model.config
    blocks = bridge.blocks
    wrong = {
        f"positions of the kind '{_kind(bridge)}'": _kind(bridge) not in ("standard", "rotary"),
        f"norms of the kind '{cfg.normalization_type}'": cfg.normalization_type
        not in ("LN", "RMS"),
        f"the activation '{cfg.act_fn}'": cfg.act_fn not in ACTIVATIONS,
        "cross-attention": getattr(config, "is_encoder_decoder", False)
        or getattr(config, "add_cross_attention", False),
        "a mixture of experts": bool(getattr(cfg, "num_experts", None)),
        "norms of queries and keys": bool(getattr(cfg, "use_qk_norm", False)),
        "a soft cap on attention or logits": max(
            getattr(cfg, "attn_scores_soft_cap", -1.0) or -1.0,
            getattr(cfg, "output_logits_soft_cap", -1.0) or -1.0,
        )
        > 0,
        "attention scaled otherwise": getattr(config, "scale_attn_by_inverse_layer_idx", False)
        or not getattr(config, "scale_attn_weights", True),
        "blocks without attention, MLP or norms": not all(
            hasattr(block, part) for block in blocks for part in ("ln1", "attn", "mlp")
        ),
        "norms after attention or MLP": any(
            hasattr(block, part) for block in blocks for part in ("ln1_post", "ln2_post")
        ),
    }
    for what, found in wrong.items():
        if found:
            raise BackendError(
                f"The model '{config.model_type}' has {what}, for which there is no section: use "
                "GPT-2, GPT-Neo, GPT-NeoX or a model built like one of them."
            )


def _kind(bridge: Any) -> str:
    return str(bridge.cfg.positional_embedding_type)


def _of(where: Any, name: str, size: int | None = None) -> Tensor:
    """A parameter in float64, in which norms are folded; zeros of `size` where there is none."""
    try:
        value = getattr(where, name)
    except AttributeError:
        value = None
    if value is None:
        if size is None:
            raise BackendError(f"The model has no parameter '{name}' that a section needs.")
        return torch.zeros(size, dtype=torch.float64)
    tensor: Tensor = value.detach().cpu().double()
    return tensor


def _fold(norm: Any, weight: Float[Tensor, "d_plus_1 m"]) -> Float[Tensor, "d_plus_1 m"]:
    """A weight with its bias in the last row, seen from before the norm's scale and shift."""
    scale = _of(norm, "weight").unsqueeze(1)
    shift = _of(norm, "bias", len(scale))
    bias = shift @ weight[:-1] + weight[-1]
    return torch.cat([scale * weight[:-1], bias[None]])


def _block(bridge: Any, i: int) -> Iterator[Step]:
    """The steps of one block, from the residual stream before it to the one after it."""
    cfg, block = bridge.cfg, bridge.blocks[i]
    d, name = cfg.d_model, str(i)
    last = i + 1 == cfg.n_layers
    after = f"{name}.resid_post" if last else f"{i + 1}.resid_pre"
    yield from _norm(bridge, f"{name}.ln1")
    attention = _attention(bridge, i, _residual(d, _of(block.attn, "b_O", d)))
    if cfg.parallel_attn_mlp:
        # Both norms have the same mean and variance, and differ in what is folded only.
        norm = block.ln2 if hasattr(block, "ln2") else block.ln1
        mlp = _mlp(bridge, i, norm, _residual(d, _of(block.mlp, "b_out", d)) * 0)
        mlp.skip[-1, :-1] = _of(block.mlp, "b_out", d)
        yield Step(Parallel([attention, mlp]), NodeLayer(after, d + 1))
        return
    yield Step(attention, NodeLayer(f"{name}.resid_mid", d + 1))
    yield from _norm(bridge, f"{name}.ln2")
    mlp = _mlp(bridge, i, block.ln2, _residual(d, _of(block.mlp, "b_out", d)))
    yield Step(mlp, NodeLayer(after, d + 1))


def _norm(bridge: Any, name: str, keep: bool = True) -> Iterator[Step]:
    """The residual stream to its variance and itself, then to both streams."""
    d = bridge.cfg.d_model
    centred = bridge.cfg.normalization_type == "LN"
    first, second = split_norm(d, epsilon=bridge.cfg.eps, centred=centred, keep=keep)
    yield Step(first, NodeLayer(f"{name}.scale", d + 2, isolated=(0,)))
    size = 2 * d + 1 if keep else d + 1
    yield Step(second, NodeLayer(f"{name}.normalized", size))


def _final_norm(bridge: Any) -> Iterator[Step]:
    return _norm(bridge, "ln_final", keep=False)


def _residual(d: int, bias: Tensor) -> Float[Tensor, "d_in d_out"]:
    """(y, r, 1) to (r + bias, 1)."""
    skip = torch.cat([torch.zeros(d, d + 1), torch.eye(d + 1)]).double()
    skip[-1, :-1] = bias
    return skip


def _reads(norm: Any, weight: Tensor, bias: Tensor) -> Float[Tensor, "d_in m"]:
    """A weight that reads (y, r, 1) through a norm: nothing is read from r."""
    folded = _fold(norm, torch.cat([weight, bias[None]]))
    return torch.cat([folded[:-1], torch.zeros_like(weight), folded[-1:]])


def _attention(bridge: Any, i: int, skip: Tensor) -> Attention:
    cfg, block = bridge.cfg, bridge.blocks[i]
    config = bridge.original_model.config
    order, rotary = _rotary(bridge)
    scale = 1.0
    if config.model_type == "gpt_neo":
        # GPT-Neo does not divide by √d_head, a section does.
        scale = cfg.d_head**0.5
    factors = []
    for which in "QKV":
        weight = _of(block.attn, f"W_{which}")
        bias = _of(block.attn, f"b_{which}", weight.shape[0] * weight.shape[2])
        bias = bias.reshape(weight.shape[0], -1)
        if which in "QK" and order is not None:
            weight, bias = weight[..., order], bias[..., order]
        factor = _reads(block.ln1, weight.transpose(0, 1).flatten(1), bias.flatten())
        factors.append(scale * factor if which == "Q" else factor)
    layers = getattr(config, "attention_layers", None)
    local = layers[i] == "local" if layers is not None else True
    window = getattr(config, "window_size", None) if layers is not None else None
    window = window or getattr(config, "sliding_window", None)
    query, key, value = factors
    return Attention(
        skip,
        query,
        key,
        value,
        pad(_of(block.attn, "W_O").flatten(0, 1), (0, 1)),
        heads=cfg.n_heads,
        mask=AttentionMask(window=window if local else None),
        rotary=rotary,
    )


def _rotary(bridge: Any) -> tuple[Tensor | None, Tensor | None]:
    """The order of a head's coordinates in which planes are neighbours, and the planes' angles."""
    if _kind(bridge) != "rotary":
        return None, None
    cfg = bridge.cfg
    found = [b for name, b in bridge.original_model.named_buffers() if name.endswith("inv_freq")]
    if not found or cfg.rotary_adjacent_pairs or any(len(each) != len(found[0]) for each in found):
        raise BackendError(
            "The model has rotary positions of a kind for which there is no section."
        )
    angles = found[0].detach().cpu().double()
    turned = len(angles)
    # Planes are coordinates i and i + turned; what comes after them is at rest.
    order = torch.arange(2 * turned).reshape(2, -1).T.flatten()
    order = torch.cat([order, torch.arange(2 * turned, cfg.d_head)])
    return order, pad(angles, (0, cfg.d_head // 2 - turned))


def _mlp(bridge: Any, i: int, norm: Any, skip: Tensor) -> SkipMLP:
    cfg, mlp = bridge.cfg, bridge.blocks[i].mlp
    weight = _of(mlp, "W_in")
    outer = pad(_of(mlp, "W_out"), (0, 1))
    inner = _reads(norm, weight, _of(mlp, "b_in", weight.shape[1]))
    activation = ACTIVATIONS[cfg.act_fn]
    if not cfg.gated_mlp:
        return SkipMLP(skip, inner, outer, activation)
    gated = _of(mlp, "W_gate")
    acted = _reads(norm, gated, _of(mlp, "b_gate", gated.shape[1]))
    return GatedMLP(skip, acted, inner, outer, activation)


def _with_prefix(embed: nn.Module, steps: list[Step], token: int) -> list[Step]:
    """The steps with what attention reads from one token before the sequence as a constant."""
    x: Tensor = embed(torch.tensor([[token]]))
    result = []
    for step in steps:
        section = step.section
        if isinstance(section, Parallel):
            first, *others = section.branches
            section = Parallel([_prefixed(first, x), *others])
        result.append(Step(_prefixed(section, x), step.layer))
        x = step.section(x)
    return result


def _prefixed(section: Section, x: Tensor) -> Section:
    return section.with_prefix(x[0]) if isinstance(section, Attention) else section
