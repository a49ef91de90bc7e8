"""Models of TransformerLens's HookedTransformer, which its fourth version no longer has.

Their state dicts go by TransformerLens's own names, `blocks.0.attn.W_Q`, and their configuration
says how scores are scaled, what is normalised and where positions are. Weights may be processed
(folded norms, centred writing weights), as `from_pretrained` leaves them, or as they were trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, ValidationError
from torch import Tensor

from libgraph.backend import BackendError, mistake_in_words
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
from libgraph_backends.lm.plain import own_precision, run_blocks
from libgraph_backends.shared.checkpoints import fitting, renamed
from libgraph_backends.shared.state_dicts import StateDict, check_finite

BUFFERS = (".mask", ".IGNORE", ".rotary_sin", ".rotary_cos", ".alibi")
"""Ends of names of what attention computes from its configuration."""


OPTIONAL = ("b_Q", "b_K", "b_V", "b_O", "_b_K", "_b_V", "b_in", "b_out", "b_U")
"""Biases that older versions and converted models do not have: zero where they are not there."""


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class HookedConfig(BaseModel, extra="ignore"):
    """`HookedTransformerConfig.to_dict()`: of its fields those that a model's numbers depend on."""

    n_layers: int = Field(ge=1)
    d_model: int = Field(ge=1)
    d_head: int = Field(ge=1)
    n_ctx: int = Field(ge=1)
    d_vocab: int = Field(ge=1)
    n_heads: int = -1
    n_key_value_heads: int | None = None
    d_mlp: int | None = None
    act_fn: str | None = None
    attn_only: bool = False
    gated_mlp: bool = False
    parallel_attn_mlp: bool = False
    normalization_type: Literal["LN", "LNPre", "RMS", "RMSPre"] | None = Field(
        validation_alias=AliasChoices("normalization_type", "normalization")
    )
    eps: float = 1e-5
    final_rms: bool = False
    use_normalization_before_and_after: bool = False
    use_qk_norm: bool = False
    positional_embedding_type: Annotated[str, BeforeValidator(_lower)] = "standard"
    rotary_dim: int | None = None
    rotary_base: float = 10000.0
    rotary_adjacent_pairs: bool = False
    use_attn_scale: bool = True
    attn_scale: float = -1.0
    scale_attn_by_inverse_layer_idx: bool = False
    attn_scores_soft_cap: float = -1.0
    output_logits_soft_cap: float = -1.0
    use_local_attn: bool = False
    window_size: int | None = None
    attn_types: list[str] | None = None
    d_vocab_out: int = -1
    # What there is no section for, if it is not as here.
    attention_dir: str = "causal"
    num_experts: int | None = None
    post_embedding_ln: bool = False
    ntk_by_parts: bool = Field(False, validation_alias="use_NTK_by_parts_rope")
    rope_scaling: object = None
    rotary_base_local: float | None = None
    shortformer_pos: bool = False

    @property
    def heads(self) -> int:
        """Of attention; as many as fit into the stream where none is said."""
        return self.n_heads if self.n_heads > 0 else self.d_model // self.d_head

    @property
    def units(self) -> int:
        """Of an MLP."""
        return self.d_mlp or 4 * self.d_model


def is_hooked(config: Mapping[str, object]) -> bool:
    """Whether a `config.json` is one of TransformerLens and none of Hugging Face."""
    return "model_type" not in config and {"d_model", "n_layers", "d_head"} <= set(config)


def read_config(config: Mapping[str, object], where: str) -> HookedConfig:
    """The configuration, checked.

    Raises:
        BackendError: naming what is missing or wrong, or has no section.
    """
    try:
        read = HookedConfig.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise BackendError(
            f"{where} is no configuration of a HookedTransformer: '{name}': "
            f"{mistake_in_words(first)}."
        ) from None
    for part, is_there in _unsupported(read).items():
        if is_there:
            raise BackendError(f"{where} says {part}, for which there is no section.")
    return read


def _unsupported(config: HookedConfig) -> dict[str, bool]:
    """What there is no section for, and whether a model has it."""
    act = config.act_fn or "none"
    return {
        f"positions of the kind '{config.positional_embedding_type}'": (
            config.positional_embedding_type not in ("standard", "rotary")
        ),
        f"the activation '{act}'": not config.attn_only and act not in ACTIVATIONS,
        "attention in both directions": config.attention_dir != "causal",
        "a mixture of experts": bool(config.num_experts),
        "a norm of the embeddings": config.post_embedding_ln,
        "rotary positions that are scaled": bool(
            config.ntk_by_parts or config.rope_scaling or config.rotary_base_local
        ),
        "positions that attention alone sees": config.shortformer_pos,
        f"{config.d_vocab_out} outputs for {config.d_vocab} tokens, which are no next tokens": (
            config.d_vocab_out > 0 and config.d_vocab_out != config.d_vocab
        ),
        "local attention without attn_types and window_size": config.use_local_attn
        and (config.window_size is None or len(config.attn_types or ()) != config.n_layers),
    }


class HookedModel(Model):
    """A state dict by the names of HookedTransformer.

    Args:
        state: what was read.
        config: how the model computes.

    Raises:
        BackendError: naming a parameter that is missing, of another shape, or left over.
    """

    def __init__(self, state: StateDict, config: HookedConfig) -> None:
        self.config, self.where = config, state.where
        self.tensors = _fitted(state, config)
        self._checked: set[str] = set()
        self.shape = Shape(
            kind="HookedTransformer",
            blocks=config.n_layers,
            width=config.d_model,
            heads=config.heads,
            d_head=config.d_head,
            vocabulary=config.d_vocab,
            positions=config.n_ctx,
            centred=self._is_centred and not config.final_rms,
        )
        cap = config.output_logits_soft_cap
        self.logit_cap = cap if cap > 0 else None

    @property
    def _is_centred(self) -> bool:
        return (self.config.normalization_type or "").startswith("LN")

    def check_supported(self) -> None:
        """The configuration was read: what has no section was refused there."""

    def tokens(self) -> Float[Tensor, "vocabulary d"]:
        """W_E."""
        return self._needed("embed.W_E")

    def positions(self) -> Float[Tensor, "positions d"] | None:
        """W_pos, where positions are absolute."""
        return self._read("pos_embed.W_pos")

    def final_norm(self) -> Norm | None:
        """`ln_final`."""
        return self._norm("ln_final", centred=self.shape.centred)

    def unembedding(self) -> tuple[Float[Tensor, "d vocabulary"], Float[Tensor, " v"] | None]:
        """W_U and b_U."""
        return self._needed("unembed.W_U"), self._read("unembed.b_U")

    def block(self, i: int) -> Block:
        """One block."""
        config, name = self.config, f"blocks.{i}"
        after = config.use_normalization_before_and_after
        mlp = None if config.attn_only else self._mlp(f"{name}.mlp")
        norms = (
            self._norm(f"{name}.ln1"),
            self._norm(f"{name}.ln1_post") if after else None,
            None if mlp is None else self._norm(f"{name}.ln2"),
            self._norm(f"{name}.ln2_post") if after and mlp is not None else None,
        )
        parallel = config.parallel_attn_mlp and mlp is not None
        return Block(self._attention(i, f"{name}.attn"), mlp, norms, parallel)

    def _norm(self, name: str, *, centred: bool | None = None) -> Norm | None:
        if self.config.normalization_type is None:
            return None
        return Norm(
            self._read(f"{name}.w"),
            self._read(f"{name}.b"),
            self.config.eps,
            centred=self._is_centred if centred is None else centred,
        )

    def _attention(self, i: int, name: str) -> AttentionParts:
        config = self.config
        shared = "_" if config.n_key_value_heads is not None else ""
        scale = config.attn_scale if config.attn_scale > 0 else config.d_head**0.5
        if not config.use_attn_scale:
            scale = 1.0
        if config.scale_attn_by_inverse_layer_idx:
            scale *= i + 1
        is_local = config.use_local_attn and (config.attn_types or ())[i] == "local"
        cap = config.attn_scores_soft_cap
        return AttentionParts(
            self._needed(f"{name}.W_Q"),
            self._needed(f"{name}.{shared}W_K"),
            self._needed(f"{name}.{shared}W_V"),
            self._needed(f"{name}.W_O"),
            (
                self._read(f"{name}.b_Q"),
                self._read(f"{name}.{shared}b_K"),
                self._read(f"{name}.{shared}b_V"),
                self._read(f"{name}.b_O"),
            ),
            scale=1 / scale,
            soft_cap=cap if cap > 0 else None,
            window=config.window_size if is_local else None,
            rotary=self._rotary(),
            query_norm=self._head_norm(f"{name}.q_norm"),
            key_norm=self._head_norm(f"{name}.k_norm"),
        )

    def _head_norm(self, name: str) -> Norm | None:
        if not self.config.use_qk_norm:
            return None
        return Norm(self._needed(f"{name}.w"), None, self.config.eps, centred=False)

    def _rotary(self) -> Rotary | None:
        config = self.config
        if config.positional_embedding_type != "rotary":
            return None
        turned = config.rotary_dim or config.d_head
        powers = torch.arange(turned // 2, dtype=torch.float64) / (turned / 2)
        angles = config.rotary_base**-powers
        plain = Rotary.neighbours if config.rotary_adjacent_pairs else Rotary.halves
        return plain(angles, config.d_head)

    def _mlp(self, name: str) -> MLPParts:
        inner, outer = self._needed(f"{name}.W_in"), self._needed(f"{name}.W_out")
        b_in, b_out = self._read(f"{name}.b_in"), self._read(f"{name}.b_out")
        activation = ACTIVATIONS[self.config.act_fn or ""]
        if not self.config.gated_mlp:
            return MLPParts(inner, outer, (b_in, None, b_out), activation)
        # Added to the units after the gate: nothing but a part of the output's bias.
        if b_in is not None:
            added = b_in.double() @ outer.double()
            b_out = added if b_out is None else b_out.double() + added
        gate = self._needed(f"{name}.W_gate")
        return MLPParts(inner, outer, (None, None, b_out), activation, gate)

    def _needed(self, name: str) -> Tensor:
        tensor = self._read(name)
        assert tensor is not None  # noqa: S101
        return tensor

    def _read(self, name: str) -> Tensor | None:
        """A parameter as it is stored, found to be finite once; None for one that is zero."""
        tensor = self.tensors.get(name)
        if tensor is not None and name not in self._checked:
            check_finite(f"{self.where}: parameter '{name}'", tensor)
            self._checked.add(name)
        return tensor

    def logits(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n t vocabulary"]:
        """A plain pass: the library that such models come from no longer computes them."""
        x = self.tokens()[tokens].to(own_precision(self))
        positions = self.positions()
        if positions is not None:
            x = x + positions[: tokens.shape[1]].to(x)
        x = run_blocks(self, x, range(self.shape.blocks))
        norm, (weight, bias) = self.final_norm(), self.unembedding()
        logits = (x if norm is None else norm(x)) @ weight.to(x)
        logits = logits if bias is None else logits + bias.to(x)
        cap = self.logit_cap
        return logits if cap is None else cap * (logits / cap).tanh()

    def digest(self) -> str:
        """Of the parameters and of the configuration."""
        return f"{digest_of(self.tensors)} {self.config!r}"


def _fitted(state: StateDict, config: HookedConfig) -> dict[str, Tensor]:
    """The tensors that a model of this configuration has; biases only if they are there."""
    if config.n_layers > len(state.tensors):
        raise BackendError(
            f"{state.where}: its configuration says {config.n_layers} layers, more than the "
            f"{len(state.tensors)} parameters that it holds."
        )
    kept = {name: t for name, t in state.tensors.items() if not name.endswith(BUFFERS)}
    wanted = _shapes(config)
    there = renamed(kept, wanted)
    wanted = {
        name: shape
        for name, shape in wanted.items()
        if name in there or name.rpartition(".")[2] not in OPTIONAL
    }
    return fitting(state._replace(tensors=kept), wanted)


def _shapes(config: HookedConfig) -> dict[str, tuple[int, ...]]:
    """Parameters by name."""
    d, e, units, heads = config.d_model, config.d_head, config.units, config.heads
    shapes: dict[str, tuple[int, ...]] = {"embed.W_E": (config.d_vocab, d)}
    if config.positional_embedding_type == "standard":
        shapes["pos_embed.W_pos"] = (config.n_ctx, d)
    grouped = config.n_key_value_heads
    shared, groups = ("", heads) if grouped is None else ("_", grouped)
    kind = config.normalization_type

    def norm(name: str, rms: bool) -> dict[str, tuple[int, ...]]:
        if kind is None or kind.endswith("Pre"):
            return {}
        return {f"{name}.w": (d,)} if rms else {f"{name}.w": (d,), f"{name}.b": (d,)}

    rms = kind == "RMS"
    for i in range(config.n_layers):
        block, attn, mlp = f"blocks.{i}", f"blocks.{i}.attn", f"blocks.{i}.mlp"
        shapes |= norm(f"{block}.ln1", rms)
        if config.use_normalization_before_and_after:
            shapes |= norm(f"{block}.ln1_post", rms)
        shapes |= {
            f"{attn}.W_Q": (heads, d, e), f"{attn}.{shared}W_K": (groups, d, e),
            f"{attn}.{shared}W_V": (groups, d, e), f"{attn}.W_O": (heads, e, d),
            f"{attn}.b_Q": (heads, e), f"{attn}.{shared}b_K": (groups, e),
            f"{attn}.{shared}b_V": (groups, e), f"{attn}.b_O": (d,),
        }  # fmt: skip
        if config.use_qk_norm:
            shapes |= {f"{attn}.q_norm.w": (e,), f"{attn}.k_norm.w": (e,)}
        if config.attn_only:
            continue
        shapes |= norm(f"{block}.ln2", rms)
        if config.use_normalization_before_and_after:
            shapes |= norm(f"{block}.ln2_post", rms)
        shapes |= {
            f"{mlp}.W_in": (d, units), f"{mlp}.b_in": (units,),
            f"{mlp}.W_out": (units, d), f"{mlp}.b_out": (d,),
        }  # fmt: skip
        if config.gated_mlp:
            shapes[f"{mlp}.W_gate"] = d, units
    shapes |= norm("ln_final", rms or config.final_rms)
    return shapes | {"unembed.W_U": (d, config.d_vocab), "unembed.b_U": (config.d_vocab,)}
