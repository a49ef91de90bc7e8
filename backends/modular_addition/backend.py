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
from torch import Tensor

from libgraph.backend.contract import Backend, Batch, Encode, Split
from libgraph.backend.options import TypedOptions
from libgraph.files.weights import read_weights
from libgraph.graph.features import FeatureLabel
from libgraph.network.basis import Bases
from libgraph.network.network import Network, NodeLayer
from libgraph.progress import Progress
from libgraph_backends.modular_addition.data import all_pairs
from libgraph_backends.modular_addition.labels import fourier_labels
from libgraph_backends.modular_addition.network import check, sections
from libgraph_backends.modular_addition.options import ModularAdditionOptions, TrainingOptions
from libgraph_backends.shared.embedding import Embedding

BUNDLED = files("libgraph_backends.modular_addition") / "weights" / "model.safetensors"


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
        from libgraph_backends.modular_addition.training import train

        return train(TrainingOptions.model_validate(options.model_dump()), directory, progress)
