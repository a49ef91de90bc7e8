"""CIFAR-10: a conv net, whose features are directions of channels at every pixel, and an MLP.

Both networks are bundled. Images come from the official files, in a folder of the user's or
downloaded when asked for. Features are labelled by the classes they tell apart and the images, or
pixels of images, that drive them most.
"""

# Modules that need torch are imported where they are used: options are listed without it.
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from libgraph.backend import Backend, Batch, UsageError
from libgraph_backends.cifar.options import CIFAROptions, TrainingOptions, check_source

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8
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
    from libgraph_backends.cifar.data import Images
    from libgraph_backends.cifar.network import Model


LABELLED_AT_ONCE = 64
"""Images whose features are looked at at a time."""


class CIFAR(Backend):
    """Classifiers of 32 × 32 colour images."""

    name = "cifar"
    summary = "CIFAR-10: a conv net or an MLP, bundled or of your own"
    Options = CIFAROptions
    Training = TrainingOptions
    tolerances = (0.001, 0.01)
    concept = "class"
    options: CIFAROptions

    def __init__(self, options: TypedOptions | None = None) -> None:
        super().__init__(options)
        check_source(self.options)
        if self.options.order is not None and self.options.model is None:
            raise UsageError("order= is that of the layers of model=FILE: give it too.")

    @cached_property
    def _model(self) -> Model:
        from libgraph_backends.cifar import network

        return network.read(self.options)

    def network(self) -> Network:
        """A section for every convolution or linear layer with its ReLU."""
        return self._model.network()

    @cached_property
    def _splits(self) -> Mapping[Split, Images]:
        from libgraph_backends.cifar import data

        splits = data.read(self.options.data)
        return {"train": splits["train"].first(self.options.samples), "test": splits["test"]}

    def samples(self, split: Split) -> int:
        """Images."""
        return len(self._splits[split].images)

    def batches(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """Images as bytes, and the numbers of their classes."""
        images, classes = self._splits[split].images, self._splits[split].labels
        for part in zip(images.split(batch_size), classes.split(batch_size), strict=True):
            yield Batch(*part)

    def score(
        self, outputs: Float[Tensor, "n 1 d"], targets: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """1 where the largest output is at the class."""
        return (outputs[:, 0].argmax(-1) == targets).to(outputs.dtype)

    def labels(self, encode: Encode, bases: Bases) -> Mapping[str, Sequence[FeatureLabel]]:
        """Classes that features tell apart, and the images that drive them most."""
        from libgraph_backends.cifar import labels

        batches = self.batches("train", LABELLED_AT_ONCE)
        return labels.class_labels(batches, encode, bases, self._model.grids)

    def output_names(self) -> Sequence[str]:
        """Classes, where the model has as many outputs."""
        from libgraph_backends.cifar.data import CLASSES

        return CLASSES if self.network().node_layers[-1].size == len(CLASSES) else ()

    def show(self, inputs: UInt8[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n h w 3"]:
        """The images."""
        return inputs.movedim(1, -1)

    @classmethod
    def train(cls, options: TypedOptions, directory: Path, progress: Progress) -> Outcome:
        """Train on moved and mirrored images with AdamW; writes `model.safetensors`."""
        from libgraph_backends.cifar.training import train

        return train(TrainingOptions.model_validate(options), directory, progress)
