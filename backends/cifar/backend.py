"""CIFAR-10: a conv net, whose features are directions of channels at every pixel, and an MLP.

Both networks are bundled. Images come from the official files, in a folder of the user's or
downloaded when asked for. Features are labelled by the classes they tell apart and the images, or
pixels of images, that drive them most.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from libgraph.backend.contract import Backend, Batch, Encode, Split
from libgraph.backend.options import TypedOptions
from libgraph.errors import BackendError
from libgraph.files.weights import read_weights
from libgraph.graph.features import FeatureLabel
from libgraph.network.basis import Bases
from libgraph.network.network import Network
from libgraph.progress import Progress
from libgraph_backends.cifar import conv_net
from libgraph_backends.cifar.data import (
    ANIMALS,
    CLASSES,
    DEVIATION,
    MEAN,
    PIXELS,
    SHAPE,
    VEHICLES,
    Images,
    check_source,
    read,
)
from libgraph_backends.cifar.options import CIFAROptions, TrainingOptions
from libgraph_backends.shared import layers
from libgraph_backends.shared.image_labels import image_labels

log = logging.getLogger("libgraph")


BUNDLED = files("libgraph_backends.cifar") / "weights"


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
        check_source(self.options.data, self.options.download)

    # The model

    @cached_property
    def _tensors(self) -> tuple[dict[str, Tensor], str]:
        """The state dict, and what to call it."""
        if self.options.model is not None:
            tensors, where = read_weights(self.options.model), str(self.options.model)
        else:
            with as_file(BUNDLED / f"{self.options.arch}.safetensors") as path:
                tensors, where = read_weights(path), "the bundled weights"
        # Ours are stored in half precision, in which nothing is computed.
        half = torch.float16, torch.bfloat16
        return {n: t.float() if t.dtype in half else t for n, t in tensors.items()}, where

    def _conv_net(self) -> tuple[Network, dict[str, int]]:
        """The conv net, and the width of feature maps by node layer."""
        tensors, where = self._tensors
        net = conv_net.from_state_dict(tensors, self.options.strides, where)
        _check_ends(net.weights[0].shape[1], SHAPE[0], net.readout.shape[1], where)
        return conv_net.network_of(net, Pixels(), SHAPE[-1])

    def network(self) -> Network:
        """A section for every convolution or linear layer with its ReLU."""
        if self.options.arch == "conv":
            return self._conv_net()[0]
        tensors, where = self._tensors
        found = layers.from_state_dict(tensors, None, "relu", where)
        _check_ends(len(found[0].matrix) - 1, PIXELS, found[-1].matrix.shape[1], where)
        return layers.network_of(found, nn.Sequential(Pixels(), OneRow()))

    # The data

    @cached_property
    def _splits(self) -> dict[Split, Images]:
        data = read(self.options.data)
        first = data["train"]._replace(
            images=data["train"].images[: self.options.samples],
            labels=data["train"].labels[: self.options.samples],
        )
        return {"train": first, "test": data["test"]}

    def samples(self, split: Split) -> int:
        """Images."""
        return len(self._splits[split].images)

    def batches(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """Images as bytes, and the numbers of their classes."""
        found = self._splits[split]
        for x, y in zip(
            found.images.split(batch_size), found.labels.split(batch_size), strict=True
        ):
            yield Batch(x, y)

    def score(self, outputs: Float[Tensor, "n 1 d"], targets: Tensor) -> Float[Tensor, " n"]:
        """1 where the largest output is at the class."""
        return (outputs[:, 0].argmax(-1) == targets).to(outputs.dtype)

    def labels(self, encode: Encode, bases: Bases) -> Mapping[str, Sequence[FeatureLabel]]:
        """Classes that features tell apart, and the images that drive them most."""
        widths = self._conv_net()[1] if self.options.arch == "conv" else {}
        return image_labels(
            self.batches("train", LABELLED_AT_ONCE),
            encode,
            bases,
            classes=CLASSES,
            groups={"animals": ANIMALS, "vehicles": VEHICLES},
            grids={name: (width, width) for name, width in widths.items()},
        )

    @classmethod
    def train(cls, options: TypedOptions, directory: Path, progress: Progress) -> Mapping[str, Any]:
        """Train on moved and mirrored images with AdamW; writes `model.safetensors`."""
        from libgraph_backends.cifar.training import train

        return train(TrainingOptions.model_validate(options.model_dump()), directory, progress)


class Pixels(nn.Module):
    """Bytes of images to pixels row by row, each colour normalised, with the constant appended."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN))
        self.register_buffer("deviation", torch.tensor(DEVIATION))

    def forward(self, inputs: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n h*w 4"]:
        """(colour / 255 − mean) / deviation."""
        colours = inputs.flatten(2).transpose(1, 2).to(self.mean) / 255
        return nn.functional.pad((colours - self.mean) / self.deviation, (0, 1), value=1.0)


class OneRow(nn.Module):
    """Pixels with the constant to one row, colour by colour as in the files, with one constant."""

    def forward(self, pixels: Float[Tensor, "n p 4"]) -> Float[Tensor, "n 1 3*p+1"]:
        """Flatten."""
        row = pixels[..., :-1].transpose(1, 2).flatten(1)
        return nn.functional.pad(row, (0, 1), value=1.0).unsqueeze(1)


def _check_ends(inputs: int, wanted: int, outputs: int, where: str) -> None:
    """Raise a `BackendError` unless the model is one of images and classes of CIFAR-10."""
    if inputs != wanted or outputs != len(CLASSES):
        raise BackendError(
            f"{where}: the model has {inputs} inputs and {outputs} outputs, not {wanted} and "
            f"{len(CLASSES)} as the images and classes of CIFAR-10 need."
        )
