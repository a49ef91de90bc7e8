"""Cutting a transformer of Hugging Face into sections: a network, and what follows it.

`blocks` makes sections of a model; here they are put together between the node layers that were
asked for, and the logits that come out are compared with the model's own. A model with a part for
which there is no section is refused, by name where it is known, and else by that comparison.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from libgraph.backend import BackendError, Network, NodeLayer, UsageError
from libgraph.sections import Attention, Parallel, Section, chain
from libgraph_backends.lm.blocks import (
    ACTIVATIONS,
    Step,
    block_steps,
    norm_steps,
    unembedding,
    weight_of,
)
from libgraph_backends.lm.loading import AGREEMENT, config_of
from libgraph_backends.lm.options import Cuts, LMOptions
from libgraph_backends.shared.embedding import Embedding

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

log = logging.getLogger("libgraph")


CUTS: dict[Cuts, tuple[str, ...]] = {
    "all": ("resid_pre", "resid_mid", "scale", "normalized"),
    "sublayers": ("resid_pre", "resid_mid"),
    "blocks": ("resid_pre",),
}
"""Which node layers there are: all of them, those around each attention and MLP, or each block."""


LARGEST_LOGITS = 2**25
"""Logits computed at a time: vocabularies are larger than node layers."""


class Head:
    """What follows a network: later blocks, the final norm and the unembedding.

    Args:
        sections: up to the normalised stream.
        unembed: normalised stream and constant to logits `(d + 1, vocabulary)`.
    """

    def __init__(
        self, sections: Sequence[Section], unembed: Float[Tensor, "d_plus_1 vocabulary"]
    ) -> None:
        self.sections = tuple(sections)
        self.unembed = unembed
        self._copies: dict[tuple[torch.dtype, torch.device], tuple[list[Section], Tensor]] = {}

    def logits(self, outputs: Float[Tensor, "n t d"]) -> Float[Tensor, "n t vocabulary"]:
        """Logits from the network's outputs, in their dtype and on their device."""
        key = (outputs.dtype, outputs.device)
        if key not in self._copies:
            sections = [deepcopy(section).to(outputs) for section in self.sections]
            self._copies[key] = sections, self.unembed.to(outputs)
        sections, unembed = self._copies[key]
        for section in sections:
            outputs = section(outputs)
        return outputs @ unembed

    def losses(
        self, outputs: Float[Tensor, "n t d"], targets: Int[Tensor, "n t"]
    ) -> Float[Tensor, " n"]:
        """Mean cross-entropy of the targets in each row, in nats."""
        return self.token_losses(outputs, targets).mean(1)

    def token_losses(
        self, outputs: Float[Tensor, "n t d"], targets: Int[Tensor, "n t"]
    ) -> Float[Tensor, "n t"]:
        """Cross-entropy of each target, in nats."""
        rows = max(1, LARGEST_LOGITS // (targets.shape[1] * self.unembed.shape[1]))
        losses = [
            cross_entropy(self.logits(part).flatten(0, 1), wanted.flatten(), reduction="none")
            for part, wanted in zip(outputs.split(rows), targets.split(rows), strict=True)
        ]
        by_token: Tensor = torch.cat(losses).unflatten(0, targets.shape)
        return by_token

    def fingerprint(self) -> str:
        """SHA-256 over structure and parameters."""
        sections = nn.ModuleList(self.sections)
        digest = hashlib.sha256(repr(sections).encode())
        for name, tensor in [*sorted(sections.state_dict().items()), ("unembed", self.unembed)]:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class CutTransformer:
    """A transformer cut into sections.

    Args:
        network: the blocks asked for; earlier ones are part of its embedding.
        head: what follows them.
    """

    network: Network
    head: Head


def cut_transformer(
    bridge: TransformerBridge, options: LMOptions, prefix: int | None
) -> CutTransformer:
    """Cut a `TransformerBridge` in compatibility mode, weights unprocessed, into sections.

    Args:
        bridge: the model.
        options: which blocks, and which node layers there are.
        prefix: a token that stands before every sequence and is no position of the network: what
            attention reads there is a constant. None for none.

    Raises:
        BackendError: naming the part of the model that has no section here.
        UsageError: if the model does not have the blocks asked for.
    """
    first, last = _range(options.layers, bridge.cfg.n_layers)
    _check_supported(bridge)
    blocks = [list(block_steps(bridge, i)) for i in range(bridge.cfg.n_layers)]
    embed, blocks = _embedding(bridge, blocks, prefix)
    parts = blocks[:first], blocks[first:last], blocks[last:]
    before, inside, after = ([step for block in part for step in block] for part in parts)
    # The final norm belongs to the network if its last block does.
    (after if after else inside).extend(norm_steps(bridge, "ln_final", keep=False))
    stream = NodeLayer(f"{first}.resid_pre", bridge.cfg.d_model + 1)
    start = nn.Sequential(embed, *(step.section for step in before)) if before else embed
    network = _network(start, stream, inside, options.cuts)
    return CutTransformer(network, Head([step.section for step in after], unembedding(bridge)))


def check_logits(
    cut: CutTransformer, bridge: TransformerBridge, inputs: Int[Tensor, "n t"], prefix: int | None
) -> None:
    """Compare the logits of the sections with the model's own.

    Raises:
        BackendError: if they differ: the model has something that sections do not.
    """
    tokens = inputs
    if prefix is not None:
        tokens = torch.cat([torch.full_like(inputs[:, :1], prefix), inputs], dim=1)
    with torch.no_grad():
        expected = bridge(tokens)[:, -inputs.shape[1] :].double()
        actual = cut.head.logits(cut.network(inputs))
    error = float((actual - expected).abs().max() / expected.abs().max())
    if not error < AGREEMENT:
        kind = config_of(bridge).model_type
        raise BackendError(
            f"Cut into sections the model '{kind}' gives other logits (by {error:.1e} of the "
            "largest): it has a part for which there is no section."
        )
    log.info("Sections and model agree on logits to %.1e of the largest.", error)


def _range(layers: str | None, count: int) -> tuple[int, int]:
    """The first block asked for, and the one before which the network ends."""
    start, _, stop = (layers or ":").partition(":")
    first, last = int(start or 0), int(stop or count)
    if not 0 <= first < last <= count:
        raise UsageError(
            f"The model has blocks 0 to {count - 1}: layers={layers} is no "
            f"range of them, 0:{count} is all."
        )
    return first, last


def _network(embed: nn.Module, first: NodeLayer, steps: Sequence[Step], cuts: Cuts) -> Network:
    """Chains of steps between the node layers that are asked for, the first and the last one."""
    layers = [first, *(step.layer for step in steps)]
    chosen = {i for i, layer in enumerate(layers) if _is_cut(layer.name, cuts)}
    places = sorted(chosen | {0, len(layers) - 1})
    sections = [chain([step.section for step in steps[a:b]]) for a, b in pairwise(places)]
    return Network(embed, sections, [layers[i] for i in places])


def _is_cut(name: str, cuts: Cuts) -> bool:
    kind = name.rpartition(".")[2]
    return kind in CUTS[cuts] or kind == "resid_post" or name == "ln_final.normalized"


# A token before every sequence


def _embedding(
    bridge: TransformerBridge, blocks: list[list[Step]], prefix: int | None
) -> tuple[Embedding, list[list[Step]]]:
    """The embedding, and the blocks with what attention reads from the prefix as a constant."""
    absolute = bridge.cfg.positional_embedding_type == "standard"
    tokens = weight_of(bridge, "W_E")
    positions = weight_of(bridge, "W_pos") if absolute else None
    embed = Embedding(tokens, positions)
    if prefix is None:
        return embed, blocks
    x: Tensor = embed(torch.tensor([[prefix]]))
    prefixed: list[list[Step]] = []
    for block in blocks:
        prefixed.append([])
        for section, layer in block:
            prefixed[-1].append(Step(_with_prefix(section, x), layer))
            x = section(x)
    return Embedding(tokens, None if positions is None else positions[1:]), prefixed


def _with_prefix(section: Section, x: Float[Tensor, "1 1 d"]) -> Section:
    """A section whose attention reads the activations `x` before all others."""
    if isinstance(section, Parallel):
        first, *others = section.branches
        return Parallel([_with_prefix(first, x), *others])
    return section.with_prefix(x[0]) if isinstance(section, Attention) else section


# What has no section


def _check_supported(bridge: TransformerBridge) -> None:
    """Refuse what is known not to fit, by name; the rest is found by comparing logits."""
    kind = config_of(bridge).model_type
    # What is left of logits in half precision is too little to compare.
    halves = {p.dtype for p in bridge.parameters()} & {torch.half, torch.bfloat16}
    if halves:
        raise BackendError(
            f"The model '{kind}' computes in {str(halves.pop()).removeprefix('torch.')}: load it "
            "with dtype=torch.float32, which holds the same parameters."
        )
    for part, is_there in _unsupported(bridge).items():
        if is_there:
            raise BackendError(
                f"The model '{kind}' has {part}, for which there is no section: use "
                "GPT-2, GPT-Neo, GPT-NeoX or a model built like one of them."
            )


def _unsupported(bridge: TransformerBridge) -> dict[str, bool]:
    """Structures without a section, and whether the model has them."""
    cfg, config, blocks = bridge.cfg, config_of(bridge), bridge.blocks
    positions, norms = cfg.positional_embedding_type, cfg.normalization_type
    caps = ("attn_scores_soft_cap", "output_logits_soft_cap")
    return {
        f"positions of the kind '{positions}'": positions not in ("standard", "rotary"),
        f"norms of the kind '{norms}'": norms not in ("LN", "RMS"),
        f"the activation '{cfg.act_fn}'": cfg.act_fn not in ACTIVATIONS,
        "cross-attention": bool(
            getattr(config, "is_encoder_decoder", False)
            or getattr(config, "add_cross_attention", False)
        ),
        "a mixture of experts": bool(getattr(cfg, "num_experts", None)),
        "norms of queries and keys": bool(getattr(cfg, "use_qk_norm", False)),
        "a soft cap on attention or logits": any((getattr(cfg, cap, 0) or 0) > 0 for cap in caps),
        "attention scaled otherwise": bool(
            getattr(config, "scale_attn_by_inverse_layer_idx", False)
            or not getattr(config, "scale_attn_weights", True)
        ),
        "blocks without attention, MLP or norms": not all(
            hasattr(block, part) for block in blocks for part in ("ln1", "attn", "mlp")
        ),
        "norms after attention or MLP": any(
            hasattr(block, part) for block in blocks for part in ("ln1_post", "ln2_post")
        ),
    }
