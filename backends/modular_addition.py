"""Modular addition: a one-layer transformer that learned x + y mod p.

Reads our own weights and TransformerLens 1.x state dicts (same names, either format), cuts the
network at `ln1.0`, `ln2.0` (last position on), `unembed` and `output`, and labels features by their
Fourier terms over all pairs (x, y). The model has no LayerNorm; node layers are named as in the
Local Interaction Basis paper all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from libgraph.accumulate import Progress
from libgraph.backend import Backend, Batch, Encode, Split, TypedOptions
from libgraph.bases import Bases
from libgraph.errors import BackendError, NumericalError
from libgraph.graph import FeatureLabel
from libgraph.network import Network, NodeLayer
from libgraph.sections import Attention, Linear, SkipMLP
from libgraph.store import read_weights
from libgraph_backends.fourier import fourier_labels
from libgraph_backends.transformer import Embedding

BUNDLED = files("libgraph_backends") / "weights" / "modular_addition" / "model.safetensors"

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


class ModularAdditionOptions(TypedOptions):
    """Options of `libgraph analyze modular-addition -o key=value`."""

    weights: Path | None = Field(None, description="safetensors or TransformerLens .pt file")
    frac_train: float = Field(0.3, gt=0, lt=1, description="share of all pairs for training")
    split_seed: int = Field(0, ge=0, lt=2**63, description="seed of the split into train and test")


class TrainingOptions(TypedOptions):
    """Options of `libgraph train modular-addition -o key=value`; defaults made our weights."""

    seed: int = Field(0, ge=0, lt=2**63, description="seed of the initial weights")
    steps: int = Field(20_000, ge=1, description="full-batch steps")
    keep_every: int | None = Field(None, ge=1, description="steps between copies of the weights")
    learning_rate: float = Field(1e-3, gt=0, description="of AdamW")
    weight_decay: float = Field(1.0, ge=0, description="of AdamW; what makes it generalise")
    modulus: int = Field(113, ge=3, description="p")
    d_model: int = Field(128, ge=1, description="width of the residual stream")
    heads: int = Field(4, ge=1, description="attention heads, of d_model / heads each")
    d_mlp: int = Field(512, ge=1, description="hidden units of the MLP")
    frac_train: float = Field(0.3, gt=0, lt=1, description="share of all pairs for training")
    split_seed: int = Field(0, ge=0, lt=2**63, description="seed of the split into train and test")

    @field_validator("heads")
    @classmethod
    def _divides(cls, heads: int, info: ValidationInfo) -> int:
        width = info.data.get("d_model", heads)
        if width % heads:
            raise ValueError(f"heads have to divide d_model, {width}")
        return heads


class ModularAddition(Backend):
    """The one-layer modular-addition transformer."""

    name = "modular-addition"
    summary = "one-layer transformer that adds two numbers modulo p"
    Options = ModularAdditionOptions
    Training = TrainingOptions
    options: ModularAdditionOptions
    score_name = "accuracy"
    concept = "frequency"

    def __init__(
        self,
        options: ModularAdditionOptions | None = None,
        *,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(options)
        self._weights = weights

    @cached_property
    def weights(self) -> Mapping[str, Tensor]:
        """Checked parameters by their TransformerLens names."""
        if self._weights is not None:
            return check(self._weights, "the given weights")
        if self.options.weights is not None:
            return check(read_weights(self.options.weights), str(self.options.weights))
        with as_file(BUNDLED) as path:
            return check(read_weights(path), "the bundled weights")

    @property
    def modulus(self) -> int:
        """p: the vocabulary is the numbers below p and the equals sign."""
        return len(self.weights["embed.W_E"]) - 1

    def network(self) -> Network:
        """Embedding, attention (last position on), MLP, unembedding."""
        w = self.weights
        layers = [
            NodeLayer(name, len(w["blocks.0.mlp.b_out"]) + 1)
            for name in ("ln1.0", "ln2.0", "unembed")
        ]
        output = NodeLayer("output", len(w["unembed.b_U"]), constant=False, rotated=False)
        return Network(
            sections=sections(w),
            node_layers=[*layers, output],
            embed=Embedding(w["embed.W_E"], w["pos_embed.W_pos"]),
        )

    @cached_property
    def _splits(self) -> dict[Split, Tensor]:
        pairs = all_pairs(self.modulus)
        generator = torch.Generator().manual_seed(self.options.split_seed)
        order = torch.randperm(len(pairs), generator=generator)
        train = int(self.options.frac_train * len(pairs))
        return {"train": pairs[order[:train]], "test": pairs[order[train:]]}

    def samples(self, split: Split) -> int:
        """Number of pairs in the split."""
        return len(self._splits[split])

    def batches(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """Pairs with the equals sign, and their sums."""
        for inputs in self._splits[split].split(batch_size):
            yield Batch(inputs, inputs[:, :2].sum(1) % self.modulus)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """1 where the largest logit is at the sum, else 0."""
        return (outputs[:, -1].argmax(-1) == targets).to(outputs.dtype)

    def labels(self, encode: Encode, bases: Bases) -> Mapping[str, Sequence[FeatureLabel]]:
        """Fourier terms of each feature over all pairs; concepts are frequencies."""
        p = self.modulus
        parts = [encode(inputs) for inputs in all_pairs(p).split(4096)]
        return {
            layer: fourier_labels(torch.cat([part[layer] for part in parts]).unflatten(0, (p, p)))
            for layer in parts[0]
        }

    @classmethod
    def train(cls, options: TypedOptions, directory: Path, progress: Progress) -> Mapping[str, Any]:
        """Train from scratch with full-batch AdamW; writes `model.safetensors`."""
        from libgraph_backends.modular_addition_training import train

        return train(TrainingOptions.model_validate(options.model_dump()), directory, progress)


def all_pairs(p: int) -> Tensor:
    """All inputs (x, y, =), row-major: tokens `(p², 3)`."""
    x, y = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
    return torch.stack([x, y, torch.full_like(x, p)], dim=1)


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
        last_only=True,
    )
    mlp = SkipMLP(
        residual(w["blocks.0.mlp.b_out"]),
        with_bias(w["blocks.0.mlp.W_in"], w["blocks.0.mlp.b_in"]),
        no_constant(w["blocks.0.mlp.W_out"]),
    )
    return attention, mlp, Linear(with_bias(w["unembed.W_U"], w["unembed.b_U"]))
