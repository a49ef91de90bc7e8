"""A model that somebody has in a `TransformerBridge`: its parameters are the bridge's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from libgraph.backend import BackendError
from libgraph_backends.lm.hugging_face import NEIGHBOURS
from libgraph_backends.lm.memory import digest_of
from libgraph_backends.lm.parts import (
    ACTIVATIONS,
    AttentionParts,
    Block,
    MLPParts,
    Model,
    Norm,
    Rotary,
    Shape,
)
from libgraph_backends.shared.state_dicts import check_finite

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Component = Any
"""A part of a model; TransformerLens gives it the parameters by their names."""


class BridgedModel(Model):
    """A bridge in compatibility mode, its weights unprocessed.

    Args:
        bridge: which is not changed.
    """

    def __init__(self, bridge: TransformerBridge) -> None:
        self.bridge, cfg = bridge, bridge.cfg
        original: Any = bridge.original_model
        self.config: Any = original.config
        self.shape = Shape(
            kind=str(self.config.model_type),
            blocks=int(cfg.n_layers),
            width=int(cfg.d_model),
            heads=int(cfg.n_heads),
            d_head=int(cfg.d_head),
            vocabulary=int(cfg.d_vocab),
            positions=int(cfg.n_ctx),
            centred=cfg.normalization_type == "LN",
        )
        self.first = getattr(self.config, "bos_token_id", None)

    def tokens(self) -> Float[Tensor, "vocabulary d"]:
        """W_E."""
        return self._needed(self.bridge, "W_E")

    def positions(self) -> Float[Tensor, "positions d"] | None:
        """W_pos, where positions are absolute."""
        absolute = self.bridge.cfg.positional_embedding_type == "standard"
        return self._needed(self.bridge, "W_pos") if absolute else None

    def final_norm(self) -> Norm:
        """`ln_final`."""
        return self._norm(self.bridge.ln_final)

    def unembedding(self) -> tuple[Float[Tensor, "d vocabulary"], Float[Tensor, " v"] | None]:
        """W_U and b_U."""
        return self._needed(self.bridge, "W_U"), self._there(self.bridge, "b_U")

    def block(self, i: int) -> Block:
        """One block by TransformerLens's names."""
        block, parallel = self.bridge.blocks[i], bool(self.bridge.cfg.parallel_attn_mlp)
        second = block.ln2 if hasattr(block, "ln2") else block.ln1
        norms = (self._norm(block.ln1), None, self._norm(second), None)
        return Block(self._attention(i), self._mlp(i), norms, parallel)

    def _norm(self, norm: Component) -> Norm:
        cfg = self.bridge.cfg
        return Norm(
            self._needed(norm, "weight"),
            self._there(norm, "bias"),
            float(cfg.eps),
            centred=self.shape.centred,
            offset=float(bool(getattr(cfg, "rmsnorm_uses_offset", False))),
        )

    def _attention(self, i: int) -> AttentionParts:
        attn = self.bridge.blocks[i].attn
        return AttentionParts(
            self._needed(attn, "W_Q"),
            self._needed(attn, "W_K"),
            self._needed(attn, "W_V"),
            self._needed(attn, "W_O"),
            (
                self._there(attn, "b_Q"),
                self._there(attn, "b_K"),
                self._there(attn, "b_V"),
                self._there(attn, "b_O"),
            ),
            # GPT-Neo does not divide by √d_head.
            scale=1.0 if self.shape.kind == "gpt_neo" else float(self.shape.d_head) ** -0.5,
            window=self._window(i),
            rotary=self._rotary(),
        )

    def _window(self, i: int) -> int | None:
        """How many positions attention reads, itself included; None for all before it."""
        kinds = getattr(self.config, "attention_layers", None)
        if kinds is not None and kinds[i] != "local":
            return None
        window: int | None = None if kinds is None else getattr(self.config, "window_size", None)
        return window or getattr(self.config, "sliding_window", None)

    def _rotary(self) -> Rotary | None:
        cfg = self.bridge.cfg
        if cfg.positional_embedding_type != "rotary":
            return None
        buffers = self.bridge.original_model.named_buffers()
        frequencies = [buffer for name, buffer in buffers if name.endswith("inv_freq")]
        same = len({len(buffer) for buffer in frequencies}) == 1
        if not same or cfg.rotary_adjacent_pairs or self.shape.kind in NEIGHBOURS:
            raise BackendError(
                "The model has rotary positions of a kind for which there is no section."
            )
        return Rotary.halves(frequencies[0].detach().cpu(), self.shape.d_head)

    def _mlp(self, i: int) -> MLPParts:
        cfg, mlp = self.bridge.cfg, self.bridge.blocks[i].mlp
        gate = self._needed(mlp, "W_gate") if cfg.gated_mlp else None
        gate_bias = self._there(mlp, "b_gate") if cfg.gated_mlp else None
        return MLPParts(
            self._needed(mlp, "W_in"),
            self._needed(mlp, "W_out"),
            (self._there(mlp, "b_in"), gate_bias, self._there(mlp, "b_out")),
            ACTIVATIONS[cfg.act_fn],
            gate,
        )

    def _needed(self, part: Component, name: str) -> Tensor:
        tensor = self._there(part, name)
        if tensor is None:
            raise BackendError(f"The model has no parameter '{name}' that a section needs.")
        return tensor

    def _there(self, part: Component, name: str) -> Tensor | None:
        try:
            value = getattr(part, name)
        except AttributeError:
            return None
        if value is None:
            return None
        tensor: Tensor = value.detach().cpu()
        check_finite(f"Parameter '{name}' of the model", tensor)
        return tensor

    def check_supported(self) -> None:
        """Refuse what is known not to fit, by name; the rest is found by comparing logits."""
        # What is left of logits in half precision is too little to compare.
        halves = {p.dtype for p in self.bridge.parameters()} & {torch.half, torch.bfloat16}
        if halves:
            raise BackendError(
                f"The model '{self.shape.kind}' computes in "
                f"{str(halves.pop()).removeprefix('torch.')}: load it with dtype=torch.float32, "
                "which holds the same parameters, or give Hugging Face's model in place of a "
                "bridge."
            )
        for part, is_there in self._unsupported().items():
            if is_there:
                raise BackendError(
                    f"The model '{self.shape.kind}' has {part}, for which there is no section of a "
                    "bridge: give Hugging Face's model in its place, or use one of those in "
                    "docs/language-models.md."
                )

    def _unsupported(self) -> dict[str, bool]:
        """Structures without a section, and whether the model has them."""
        cfg, config, blocks = self.bridge.cfg, self.config, self.bridge.blocks
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
            "a soft cap on attention or logits": any(
                (getattr(cfg, cap, 0) or 0) > 0 for cap in caps
            ),
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

    def logits(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n t vocabulary"]:
        """The bridge's own."""
        with torch.no_grad():
            logits: Tensor = self.bridge(tokens)
        return logits

    def digest(self) -> str:
        """Of the bridge's parameters."""
        return digest_of(dict(self.bridge.named_parameters()))
