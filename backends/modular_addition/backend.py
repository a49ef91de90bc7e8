"""Modular addition: a one-layer transformer that learned x + y mod p.

Reads our own weights and TransformerLens 1.x state dicts (same names, either format), cuts the
network at `ln1.0`, `ln2.0` (last position on), `unembed` and `output`, and labels features by their
Fourier terms over all pairs (x, y). The model has no LayerNorm; node layers are named as in the
Local Interaction Basis paper all the same.
"""

# Modules that need torch are imported where they are used: options are listed without it.
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from libgraph.backend import Backend, Batch, UsageError
from libgraph_backends.modular_addition.options import ModularAdditionOptions, TrainingOptions

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from libgraph.backend import (
        Bases,
        Encode,
        FeatureLabel,
        Network,
        Outcome,
        Progress,
        Split,
        TypedOptions,
    )


SUM = re.compile(r"(\d+)\s*\+\s*(\d+)\s*=?")
"""What people write for one input."""


class ModularAddition(Backend):
    """The one-layer modular-addition transformer.

    Args:
        options: which weights, and which pairs are held out.
        weights: parameters by their TransformerLens names, in place of `options.weights`.
    """

    name = "modular-addition"
    summary = "one-layer transformer that adds two numbers modulo p"
    Options = ModularAdditionOptions
    Training = TrainingOptions
    options: ModularAdditionOptions
    concept = "frequency"

    def __init__(
        self,
        options: ModularAdditionOptions | None = None,
        *,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(options)
        self._given = weights

    @cached_property
    def weights(self) -> Mapping[str, Tensor]:
        """Checked parameters by their TransformerLens names."""
        from libgraph_backends.modular_addition import network

        if self._given is not None:
            return network.check(self._given, "the given weights")
        return network.read(self.options.weights)

    @property
    def modulus(self) -> int:
        """p: the vocabulary is the numbers below p and the equals sign."""
        return len(self.weights["embed.W_E"]) - 1

    def network(self) -> Network:
        """Embedding, attention (last position on), MLP, unembedding."""
        from libgraph_backends.modular_addition import network

        return network.network_of(self.weights)

    @cached_property
    def _splits(self) -> Mapping[Split, Int[Tensor, "n 3"]]:
        from libgraph_backends.modular_addition import data

        return data.splits(self.modulus, self.options.frac_train, self.options.split_seed)

    def samples(self, split: Split) -> int:
        """Number of pairs in the split."""
        return len(self._splits[split])

    def batches(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """Pairs with the equals sign, and their sums."""
        from libgraph_backends.modular_addition import data

        for inputs in self._splits[split].split(batch_size):
            yield Batch(inputs, data.sums(inputs, self.modulus))

    def score(
        self, outputs: Float[Tensor, "n t d"], targets: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """1 where the largest logit is at the sum, else 0."""
        return (outputs[:, -1].argmax(-1) == targets).to(outputs.dtype)

    def labels(self, encode: Encode, bases: Bases) -> Mapping[str, Sequence[FeatureLabel]]:
        """Fourier terms of each feature over all pairs; concepts are frequencies."""
        from libgraph_backends.modular_addition import labels

        return labels.pair_labels(encode, self.modulus)

    def output_names(self) -> Sequence[str]:
        """The sums that logits are of."""
        return [f"sum {number}" for number in range(self.network().node_layers[-1].size)]

    def show(self, inputs: Int[Tensor, "n 3"]) -> Sequence[Sequence[str]]:
        """The two numbers and the equals sign, with what an equation has between them."""
        return [[f"{x}", f" + {y}", " ="] for x, y, _ in inputs.tolist()]

    def inputs_of(self, text: str) -> Int[Tensor, "1 3"]:
        """The two numbers of a text such as `12 + 45`, and the equals sign.

        Raises:
            UsageError: if it is none, or numbers are not below the modulus.
        """
        import torch

        numbers = SUM.fullmatch(text.strip())
        pair = [] if numbers is None else [int(number) for number in numbers.groups()]
        if not pair or max(pair) >= self.modulus:
            raise UsageError(
                f"'{text}' is no sum of two numbers below {self.modulus}: write it like 12 + 45."
            )
        return torch.tensor([[*pair, self.modulus]])

    def class_names(self, numbers: Sequence[int]) -> Sequence[str]:
        """The sums."""
        return [str(number) for number in numbers]

    @classmethod
    def train(cls, options: TypedOptions, directory: Path, progress: Progress) -> Outcome:
        """Train from scratch with full-batch AdamW; writes `model.safetensors`."""
        from libgraph_backends.modular_addition.training import train

        return train(TrainingOptions.model_validate(options), directory, progress)
