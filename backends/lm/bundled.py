"""The bundled model, a GPT-2, read from its files as they are.

TransformerLens and the models of transformers take seconds to import, and are not needed to hand
out parameters whose names are known. What only the library can say, which logits it computes, is
asked of it when somebody wants to know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from libgraph_backends.lm.libraries import OWN_CODE
from libgraph_backends.lm.memory import digest_of_model
from libgraph_backends.lm.parts import (
    ACTIVATIONS,
    AttentionParts,
    Block,
    MLPParts,
    Model,
    Norm,
    Shape,
)

WEIGHTS = "model.safetensors"


class BundledModel(Model):
    """A GPT-2 by the names of Hugging Face's files.

    Args:
        folder: with the model.
        as_library: the same as the library has it, for its logits.

    Raises:
        ValueError: if the parameters are not those of the configuration, or not finite.
        OSError: if a file cannot be read.
        SafetensorError: if it is none.
    """

    def __init__(self, folder: Path, as_library: Callable[[], Model]) -> None:
        import transformers

        self.folder, self.as_library = folder, as_library
        self.config: Any = transformers.AutoConfig.from_pretrained(
            str(folder), local_files_only=True, **{OWN_CODE: False}
        )
        self.tensors: Mapping[str, Tensor] = load_file(folder / WEIGHTS)
        config = self.config
        self.shape = Shape(
            kind=str(config.model_type),
            blocks=int(config.n_layer),
            width=int(config.n_embd),
            heads=int(config.n_head),
            d_head=int(config.n_embd) // int(config.n_head),
            vocabulary=int(config.vocab_size),
            positions=int(config.n_positions),
            centred=True,
        )
        self.first = config.bos_token_id
        found = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        if found != _shapes(self.shape):
            raise ValueError("parameters that its configuration does not have")
        if not all(bool(tensor.isfinite().all()) for tensor in self.tensors.values()):
            raise ValueError("parameters that are not finite")

    def check_supported(self) -> None:
        """It is."""

    def tokens(self) -> Float[Tensor, "vocabulary d"]:
        """`wte`."""
        return self.tensors["transformer.wte.weight"]

    def positions(self) -> Float[Tensor, "positions d"]:
        """`wpe`."""
        return self.tensors["transformer.wpe.weight"]

    def final_norm(self) -> Norm:
        """`ln_f`."""
        return self._norm("transformer.ln_f")

    def unembedding(self) -> tuple[Float[Tensor, "d vocabulary"], None]:
        """`wte`, which it shares."""
        return self.tokens().T, None

    def block(self, i: int) -> Block:
        """One block."""
        name = f"transformer.h.{i}"
        norms = (self._norm(f"{name}.ln_1"), None, self._norm(f"{name}.ln_2"), None)
        inner, b_in = self._map(f"{name}.mlp.c_fc")
        outer, b_out = self._map(f"{name}.mlp.c_proj")
        activation = ACTIVATIONS[self.config.activation_function]
        mlp = MLPParts(inner, outer, (b_in, None, b_out), activation)
        return Block(self._attention(f"{name}.attn"), mlp, norms)

    def _attention(self, name: str) -> AttentionParts:
        size = self.shape.d_head
        joint, joint_bias = self._map(f"{name}.c_attn")
        query, key, value = (
            part.unflatten(1, (-1, size)).transpose(0, 1) for part in joint.chunk(3, dim=1)
        )
        q_bias, k_bias, v_bias = (part.unflatten(0, (-1, size)) for part in joint_bias.chunk(3))
        output, bias = self._map(f"{name}.c_proj")
        return AttentionParts(
            query,
            key,
            value,
            output.unflatten(0, (-1, size)),
            (q_bias, k_bias, v_bias, bias),
            scale=float(size) ** -0.5,
        )

    def _map(self, name: str) -> tuple[Tensor, Tensor]:
        """A linear map as `[in, out]`, as GPT-2 has them, and its bias."""
        return self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]

    def _norm(self, name: str) -> Norm:
        weight, bias = self._map(name)
        return Norm(weight, bias, float(self.config.layer_norm_epsilon), centred=True)

    @cached_property
    def _of_library(self) -> Model:
        return self.as_library()

    def logits(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n t vocabulary"]:
        """Hugging Face's own."""
        return self._of_library.logits(tokens)

    def digest(self) -> str:
        """As of every model that is read from files."""
        return digest_of_model([self.folder / WEIGHTS], self.config)()


def _shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Parameters by name."""
    d = shape.width
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (shape.vocabulary, d),
        "transformer.wpe.weight": (shape.positions, d),
    }
    norms = ["ln_f"]
    maps: dict[str, tuple[int, int]] = {}
    for i in range(shape.blocks):
        norms += [f"h.{i}.ln_1", f"h.{i}.ln_2"]
        maps |= {
            f"h.{i}.attn.c_attn": (d, 3 * d), f"h.{i}.attn.c_proj": (d, d),
            f"h.{i}.mlp.c_fc": (d, 4 * d), f"h.{i}.mlp.c_proj": (4 * d, d),
        }  # fmt: skip
    for name in norms:
        shapes |= {f"transformer.{name}.weight": (d,), f"transformer.{name}.bias": (d,)}
    for name, (rows, columns) in maps.items():
        shapes[f"transformer.{name}.weight"] = (rows, columns)
        shapes[f"transformer.{name}.bias"] = (columns,)
    return shapes
