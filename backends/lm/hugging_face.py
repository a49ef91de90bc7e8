"""Models of Hugging Face, taken apart by the names that TransformerLens knows for their parts.

TransformerLens's bridge copies what it splits, of every block. Its adapters alone say which module
is which and split one block's parameters when they are asked to: that is all that is needed here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from libgraph.backend import BackendError
from libgraph_backends.lm.adapters import adapter_of
from libgraph_backends.lm.memory import digest_of, evaluating, in_single_precision
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

NEIGHBOURS = ("gptj", "codegen", "cohere", "cohere2", "glm", "glm4", "ernie4_5")
"""Kinds whose rotary planes are neighbouring coordinates."""


NORMED_LATE = ("hunyuan_v1_dense",)
"""Kinds that normalise queries and keys after their positions have turned them."""


Component = Any
"""What TransformerLens has for a part of a model: its name, and how it is split."""


class HuggingFaceModel(Model):
    """A model of Hugging Face as it is: no parameter is copied before its block is needed.

    Args:
        name: what to call it in messages.
        model: in evaluation mode.
        identity: tells its parameters from others; by default they are hashed.
        let_go: gives back the memory of what was read of a file.

    Raises:
        BackendError: if TransformerLens does not know models of this kind.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        identity: Callable[[], str] | None = None,
        let_go: Callable[[], None] | None = None,
    ) -> None:
        self.name, self.model, self.config = name, model, model.config
        self._identity, self._let_go = identity, let_go
        self._names = {id(p): key for key, p in model.named_parameters(remove_duplicate=False)}
        self._checked: set[int] = set()
        adapter = adapter_of(name, model)
        self.cfg, self.mapping = adapter.cfg, adapter.component_mapping
        config, cfg = self.config, self.cfg
        self.shape = Shape(
            kind=str(config.model_type),
            blocks=int(cfg.n_layers),
            width=int(cfg.d_model),
            heads=int(cfg.n_heads),
            d_head=int(cfg.d_head),
            vocabulary=int(cfg.d_vocab),
            positions=int(cfg.n_ctx),
            centred=cfg.normalization_type == "LN",
        )
        self.first = getattr(config, "bos_token_id", None)
        cap = getattr(cfg, "output_logits_soft_cap", None) or 0
        self.logit_cap = float(cap) if cap > 0 else None
        self.logit_scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )
        self.embedding_scale = self._embedding_scale()

    def _embedding_scale(self) -> float:
        module = self._top("embed")
        # In half precision the library rounds it, and multiplies by what it has rounded.
        scale = getattr(module, "embed_scale", None)
        if scale is not None:
            return float(scale)
        return float(getattr(self.config, "embedding_multiplier", None) or 1.0)

    # Modules by TransformerLens's names

    def _top(self, key: str) -> nn.Module:
        module: nn.Module = self.model.get_submodule(self.mapping[key].name)
        return module

    def _component(self, *keys: str) -> Component | None:
        component = self.mapping["blocks"]
        for key in keys:
            component = component.submodules.get(key)
            if component is None:
                return None
        return component

    def _module(self, i: int, *keys: str) -> nn.Module | None:
        """The module of block i that has this name, or None where it has none."""
        component = self.mapping["blocks"]
        module: nn.Module | None = self.model.get_submodule(f"{component.name}.{i}")
        for key in keys:
            component = component.submodules.get(key)
            if component is None or module is None:
                return None
            for part in (component.name or "").split("."):
                module = getattr(module, part, None) if part else module
        return module

    # Parameters

    def _read(self, module: nn.Module | None, name: str) -> Tensor | None:
        """A parameter as it is stored, found to be finite once."""
        parameter = getattr(module, name, None)
        if not isinstance(parameter, Tensor):
            return None
        if id(parameter) not in self._checked:
            key = self._names.get(id(parameter), name)
            check_finite(f"Parameter '{key}' of the model '{self.name}'", parameter)
            self._checked.add(id(parameter))
        return parameter.detach()

    def _weight(self, module: nn.Module | None, what: str) -> Tensor:
        """A linear map's weight as `[in, out]`."""
        weight = self._read(module, "weight")
        if weight is None:
            raise BackendError(f"The model has no parameter for its {what} that a section needs.")
        return weight if type(module).__name__ == "Conv1D" else weight.T

    def _norm(self, module: nn.Module | None) -> Norm | None:
        if module is None or isinstance(module, nn.Identity):
            return None
        weight = self._read(module, "weight")
        if weight is not None and weight.ndim != 1:
            raise BackendError(
                f"The model '{self.shape.kind}' has norms of a kind for which there is no section."
            )
        names = ("eps", "variance_epsilon", "layer_norm_epsilon")
        epsilon = next((getattr(module, n) for n in names if hasattr(module, n)), self.cfg.eps)
        return Norm(
            weight,
            self._read(module, "bias"),
            float(epsilon),
            centred="RMS" not in type(module).__name__,
            offset=float(bool(getattr(self.cfg, "rmsnorm_uses_offset", False))),
        )

    # What a model is made of

    def tokens(self) -> Float[Tensor, "vocabulary d"]:
        """Embeddings of tokens, as they are stored."""
        tokens = self._read(self._top("embed"), "weight")
        if tokens is None:
            raise BackendError("The model has no embedding of tokens.")
        return tokens

    def positions(self) -> Float[Tensor, "positions d"] | None:
        """Embeddings of positions, as they are stored."""
        if "pos_embed" not in self.mapping:
            return None
        module = self._top("pos_embed")
        positions = self._read(module, "weight")
        return None if positions is None else positions[int(getattr(module, "offset", 0)) :]

    def final_norm(self) -> Norm:
        """Before the unembedding."""
        norm = self._norm(self._top("ln_final"))
        if norm is None:
            raise BackendError("The model has no norm before its unembedding.")
        return norm

    def unembedding(self) -> tuple[Float[Tensor, "d vocabulary"], Float[Tensor, " v"] | None]:
        """W_U and its bias."""
        module = self._top("unembed")
        return self._weight(module, "logits"), self._read(module, "bias")

    def block(self, i: int) -> Block:
        """One block, split as TransformerLens splits it."""
        keys = (("ln1",), ("ln1_post",), ("ln2",), ("ln2_post",))
        before, after, before_mlp, after_mlp = (self._norm(self._module(i, *k)) for k in keys)
        parallel = bool(getattr(self.cfg, "parallel_attn_mlp", False))
        if parallel and before_mlp is None:
            # Both read one norm.
            before_mlp = before
        return Block(
            self._attention(i),
            self._mlp(i),
            (before, after, before_mlp, after_mlp),
            parallel,
            float(getattr(self.config, "residual_multiplier", None) or 1.0),
        ).scaled()

    def _attention(self, i: int) -> AttentionParts:
        module, component = self._module(i, "attn"), self._component("attn")
        if self._module(i, "attn", "q") is not None:
            parts = [self._module(i, "attn", key) for key in "qkv"]
        else:
            joint = self._module(i, "attn", "qkv")
            self._read(joint, "weight"), self._read(joint, "bias")
            with torch.no_grad():
                parts = list(cast("Any", component).split_qkv_matrix(module))
        output = self._module(i, "attn", "o")
        size = self.shape.d_head
        query, key, value = (
            self._weight(part, "attention").unflatten(1, (-1, size)).transpose(0, 1)
            for part in parts
        )
        q_bias, k_bias, v_bias = (
            None if bias is None else bias.unflatten(0, (-1, size))
            for bias in (self._read(part, "bias") for part in parts)
        )
        rotary, factor = self._rotary(i, module)
        cap = getattr(self.cfg, "attn_scores_soft_cap", None) or 0
        return AttentionParts(
            query,
            key,
            value,
            self._weight(output, "attention").unflatten(0, (-1, size)),
            (q_bias, k_bias, v_bias, self._read(output, "bias")),
            scale=self._scale(module) * factor**2,
            soft_cap=float(cap) if cap > 0 else None,
            window=self._window(i),
            rotary=rotary,
            query_norm=self._head_norm(i, "q_norm"),
            key_norm=self._head_norm(i, "k_norm"),
        )

    def _head_norm(self, i: int, key: str) -> Norm | None:
        norm = self._norm(self._module(i, "attn", key))
        if norm is not None and norm.centred:
            raise BackendError(
                f"The model '{self.shape.kind}' has LayerNorms of queries and keys, for which "
                "there is no section."
            )
        return norm

    def _scale(self, module: nn.Module | None) -> float:
        """What scores are multiplied by; a module of attention says it in one way or another."""
        if self.shape.kind == "gpt_neo":
            return 1.0
        for name in ("scaling", "inv_norm_factor"):
            if isinstance(getattr(module, name, None), float):
                return float(getattr(module, name))
        divisor = getattr(module, "scale_attn", None)
        return 1 / float(divisor) if divisor is not None else float(self.shape.d_head) ** -0.5

    def _layer_type(self, i: int) -> str | None:
        types = getattr(self.config, "layer_types", None)
        return None if types is None else str(types[i])

    def _window(self, i: int) -> int | None:
        """How many positions attention reads, itself included; None for all before it."""
        config = self.config
        kinds = getattr(config, "attention_layers", None)
        if kinds is not None:
            return int(config.window_size) if kinds[i] == "local" else None
        layer_type = self._layer_type(i)
        if layer_type is not None and "sliding" not in layer_type:
            return None
        if not getattr(config, "use_sliding_window", True):
            return None
        window = getattr(config, "sliding_window", None)
        return None if window is None else int(window)

    def _rotary(self, i: int, module: nn.Module | None) -> tuple[Rotary | None, float]:
        """Positions of block i, and what queries and keys are multiplied by on the way."""
        kind, size = self.shape.kind, self.shape.d_head
        if self.cfg.positional_embedding_type != "rotary" or not getattr(module, "use_rope", True):
            return None, 1.0
        plain = Rotary.neighbours if kind in NEIGHBOURS else Rotary.halves
        if getattr(self.config, "rotary_dim", None) is not None and kind in ("gptj", "codegen"):
            turned = int(self.config.rotary_dim)
            powers = torch.arange(0, turned, 2, dtype=torch.int64).float() / turned
            return plain(1.0 / 10000**powers, size), 1.0
        layer_type = self._layer_type(i)
        suffixes = ([f"{layer_type}_"] if layer_type else []) + [""]
        for prefix in suffixes:
            for part in self.model.modules():
                angles = getattr(part, f"{prefix}inv_freq", None)
                if isinstance(angles, Tensor):
                    factor = float(getattr(part, f"{prefix}attention_scaling", None) or 1.0)
                    if factor != 1.0 and 2 * len(angles) < size:
                        raise BackendError(
                            f"The model '{kind}' has rotary positions of a kind for which there "
                            "is no section."
                        )
                    return plain(angles.detach().cpu(), size), factor
        raise BackendError(
            f"The model '{kind}' has rotary positions of a kind for which there is no section."
        )

    def _mlp(self, i: int) -> MLPParts:
        module, component = self._module(i, "mlp"), self._component("mlp")
        gate: nn.Module | None = None
        inner = self._module(i, "mlp", "in")
        if inner is None and hasattr(component, "split_gate_up_matrix"):
            for part in cast("nn.Module", module).children():
                self._read(part, "weight"), self._read(part, "bias")
            with torch.no_grad():
                gate, inner = cast("Any", component).split_gate_up_matrix(module)
        elif getattr(self.cfg, "gated_mlp", False):
            gate = self._module(i, "mlp", "gate")
        outer = self._module(i, "mlp", "out")
        return MLPParts(
            self._weight(inner, "MLP"),
            self._weight(outer, "MLP"),
            (self._read(inner, "bias"), self._read(gate, "bias"), self._read(outer, "bias")),
            ACTIVATIONS[self._activation()],
            None if gate is None else self._weight(gate, "MLP"),
        )

    def _activation(self) -> str:
        """Of the MLP; TransformerLens does not know every configuration's name for it."""
        for name in ("hidden_activation", "hidden_act", "activation_function", "activation"):
            value = getattr(self.config, name, None)
            if isinstance(value, str):
                return value
        return str(self.cfg.act_fn)

    # The whole model

    def check_supported(self) -> None:
        """Refuse what is known not to fit, by name; the rest is found by comparing logits."""
        for part, is_there in self._unsupported().items():
            if is_there:
                raise BackendError(
                    f"The model '{self.shape.kind}' has {part}, for which there is no section: "
                    "use GPT-2, Llama or a model built like one of those in "
                    "docs/language-models.md."
                )

    def _unsupported(self) -> dict[str, bool]:
        """Structures without a section, and whether the model has them."""
        cfg, config = self.cfg, self.config
        positions, norms = cfg.positional_embedding_type, cfg.normalization_type
        blocks = self.mapping["blocks"].submodules
        return {
            f"positions of the kind '{positions}'": positions not in ("standard", "rotary"),
            f"norms of the kind '{norms}'": norms not in ("LN", "RMS"),
            f"the activation '{self._activation()}'": self._activation() not in ACTIVATIONS,
            "cross-attention": bool(
                getattr(config, "is_encoder_decoder", False)
                or getattr(config, "add_cross_attention", False)
            ),
            "a mixture of experts": bool(getattr(cfg, "num_experts", None)),
            "values of attention that are clipped": bool(getattr(config, "clip_qkv", None)),
            "norms of queries and keys after they are turned": self.shape.kind in NORMED_LATE,
            "attention in chunks": "chunked_attention"
            in (getattr(config, "layer_types", None) or ()),
            "embeddings of another width": bool(
                getattr(config, "word_embed_proj_dim", self.shape.width) != self.shape.width
            ),
            "norms after attention in place of before it": not getattr(
                config, "do_layer_norm_before", True
            ),
            "blocks without attention or MLP": not {"attn", "mlp"} <= set(blocks),
        }

    def logits(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n t vocabulary"]:
        """Hugging Face's own, in single precision at least, a module's parameters at a time."""
        with (
            torch.no_grad(),
            evaluating(self.model),
            in_single_precision(self.model, self.release),
        ):
            logits: Tensor = self.model(tokens, use_cache=False).logits
        return logits

    def digest(self) -> str:
        """Of the files that it was read from, or of its parameters."""
        if self._identity is None:
            return digest_of(self.model.state_dict())
        return self._identity()

    def release(self) -> None:
        """Give back the pages of its files."""
        if self._let_go is not None:
            self._let_go()
