"""Conv nets and MLPs of CIFAR-10 as sections.

A conv net is convolutions with a ReLU each, then the mean over pixels and a linear layer. Windows
are square, of odd size, and reach half of it out of the image, as they do under
`padding=kernel // 2`. Either network is read from a state dict: weights in order. Every convolution
or linear layer with its ReLU is one section, and so is all that comes after the convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from libgraph.backend import BackendError, Network, NodeLayer
from libgraph.sections import Convolution, Pooling, Section, conv_factors, windows
from libgraph_backends.cifar.batches import PIXELS, SHAPE
from libgraph_backends.cifar.data import CLASSES, DEVIATION, MEAN
from libgraph_backends.cifar.options import CIFAROptions
from libgraph_backends.shared.checkpoints import widest
from libgraph_backends.shared.layers import Layer, ends, from_state_dict, network_of
from libgraph_backends.shared.state_dicts import (
    StateDict,
    check_finite,
    check_floating,
    check_shape,
    layer_names,
    read_own_or_bundled,
    wrong_shape,
)

BUNDLED = files("libgraph_backends.cifar") / "weights"


HALF = (torch.float16, torch.bfloat16)
"""Our weights are stored in half precision, in which nothing is computed."""


class Model(Protocol):
    """A network that was read."""

    @property
    def grids(self) -> Mapping[str, tuple[int, int]]:
        """Height and width of the feature maps of node layers that have them."""

    def network(self) -> Network:
        """In sections; a new one for each call."""


def read(options: CIFAROptions) -> Model:
    """The network of a user's state dict, or a bundled one.

    Raises:
        BackendError: if the file cannot be read, or a parameter in it does not fit.
        NumericalError: if a parameter is not finite.
    """
    state = read_own_or_bundled(options.model, BUNDLED / f"{options.arch}.safetensors")
    tensors = {n: t.float() if t.dtype in HALF else t for n, t in state.tensors.items()}
    state, where = state._replace(tensors=tensors), state.where
    if options.arch == "mlp":
        layers = from_state_dict(state, None, "relu", options.order)
        _check_ends(ends(layers), PIXELS, where)
        return PixelMLP(tuple(layers))
    conv_net = ConvNet.from_state_dict(state, options.strides, options.order)
    _check_ends((conv_net.weights[0].shape[1], conv_net.readout.shape[1]), SHAPE[0], where)
    return conv_net


def _check_ends(ends: tuple[int, int], inputs: int, where: str) -> None:
    """Raise a `BackendError` unless the model is one of images and classes of CIFAR-10."""
    if ends != (inputs, len(CLASSES)):
        raise BackendError(
            f"{where}: the model has {ends[0]} inputs and {ends[1]} outputs, not {inputs} and "
            f"{len(CLASSES)} as the images and classes of CIFAR-10 need."
        )


# What comes first


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


# An MLP of all pixels


class PixelMLP(NamedTuple):
    """Linear layers with a ReLU between each two, on images as rows."""

    layers: tuple[Layer, ...]

    @property
    def grids(self) -> dict[str, tuple[int, int]]:
        """None: nothing has pixels for positions."""
        return {}

    def network(self) -> Network:
        """A section for every layer."""
        return network_of(self.layers, nn.Sequential(Pixels(), OneRow()))


# A conv net


class ConvNet(NamedTuple):
    """What a conv net is made of.

    Args:
        weights: of the convolutions, `(c_out, c_in, kernel, kernel)`.
        biases: of the convolutions, `(c_out,)`.
        strides: of the convolutions.
        readout: `(c + 1, d_out)`, from means over pixels to outputs, the bias in its last row.
    """

    weights: tuple[Float[Tensor, "c_out c_in kernel kernel"], ...]
    biases: tuple[Float[Tensor, " c_out"], ...]
    strides: tuple[int, ...]
    readout: Float[Tensor, "c_plus_1 d_out"]

    @classmethod
    def from_state_dict(
        cls, state: StateDict, strides: Sequence[int], order: Sequence[str] | None = None
    ) -> ConvNet:
        """A conv net from the state dict of a `Sequential`.

        Args:
            state: `*.weight` and `*.bias`.
            strides: one number for each convolution.
            order: of the layers, by name, if that is known.

        Raises:
            BackendError: naming the parameter that does not fit; or if the order is not known.
            NumericalError: naming the parameter that is not finite.
            UsageError: if `order` does not name each layer once.
        """
        tensors, where = state.tensors, state.where
        convolutions, last = _names(state, len(strides), order)
        weights = []
        channels: int | str = "channels"
        for name in convolutions:
            weights.append(_kernel(tensors, name, channels, where))
            channels = len(weights[-1])
        biases = [
            _bias(tensors, name, len(weight), where)
            for name, weight in zip(convolutions, weights, strict=True)
        ]
        matrix = tensors[f"{last}.weight"]
        note = ", the channels of the last convolution, whose mean over pixels it reads"
        check_shape(where, f"{last}.weight", matrix, ("outputs", channels), note)
        bias = _bias(tensors, last, len(matrix), where)
        # What is stored with more digits is not to lose them beside what has fewer.
        kind = widest(tensor.dtype for tensor in (*weights, *biases, matrix, bias))
        weights, biases = ([t.to(kind) for t in parts] for parts in (weights, biases))
        readout = torch.cat([matrix.T.to(kind), bias.to(kind).unsqueeze(0)])
        return cls(tuple(weights), tuple(biases), tuple(strides), readout)

    @property
    def grids(self) -> dict[str, tuple[int, int]]:
        """Of the images, and of the feature maps after each convolution."""
        size = SHAPE[-1]
        grids = {"input": (size, size)}
        for number, stride in enumerate(self.strides, start=1):
            size = (size - 1) // stride + 1
            grids[f"conv{number}"] = (size, size)
        return grids

    def network(self) -> Network:
        """A section for every convolution with its ReLU, and one for what comes after them."""
        node_layers = [NodeLayer("input", self.weights[0].shape[1] + 1)]
        sections: list[Section] = []
        parts = zip(self.weights, self.biases, self.strides, self.grids.values(), strict=False)
        for number, (weight, bias, stride, grid) in enumerate(parts, start=1):
            kernel = weight.shape[-1]
            reads = windows(grid, kernel, stride, kernel // 2)
            sections.append(_convolution(weight, bias, reads))
            node_layers.append(NodeLayer(f"conv{number}", len(weight) + 1))
        height, width = self.grids[node_layers[-1].name]
        mean = torch.full((1, height * width), 1 / (height * width), dtype=torch.float64)
        sections.append(Pooling(mean, self.readout))
        outputs = self.readout.shape[1]
        node_layers.append(NodeLayer("output", outputs, constant=False, rotated=False))
        return Network(Pixels(), sections, node_layers)


def _names(state: StateDict, count: int, order: Sequence[str] | None) -> tuple[list[str], str]:
    """Names of the convolutions, so many, and of the linear layer."""
    tensors, where = state.tensors, state.where
    names = layer_names(
        state,
        order,
        kind="convolution or linear layer",
        advice="expected is the state dict of a conv net, names ending in .weight and .bias "
        "(fold batch norms into the convolutions before them)",
    )
    for name, tensor in tensors.items():
        check_floating(where, name, tensor)
        check_finite(f"{where}: '{name}'", tensor)
    if len(names) != count + 1:
        raise BackendError(
            f"{where}: there should be {count} convolutions, one for each stride, and a "
            f"linear layer, not {len(names)} weights{': ' if names else ''}{', '.join(names)}."
        )
    return names[:-1], names[-1]


def _kernel(tensors: Mapping[str, Tensor], name: str, channels: int | str, where: str) -> Tensor:
    """The weight of a convolution that reads these channels."""
    weight = tensors[f"{name}.weight"]
    square = weight.ndim == 4 and weight.shape[2] == weight.shape[3] and weight.shape[2] % 2 == 1
    if not square or channels not in ("channels", weight.shape[1]):
        sizes = ("channels", channels, "kernel", "kernel")
        raise wrong_shape(where, f"{name}.weight", weight, sizes, ", the kernel odd")
    return weight


def _bias(tensors: Mapping[str, Tensor], name: str, size: int, where: str) -> Tensor:
    bias = tensors.get(f"{name}.bias")
    if bias is None:
        return tensors[f"{name}.weight"].new_zeros(size)
    check_shape(where, f"{name}.bias", bias, (size,))
    return bias


def _convolution(weight: Tensor, bias: Tensor, reads: Int[Tensor, "t K"]) -> Convolution:
    """ReLU of a convolution, with a constant channel that stays 1."""
    channels = len(weight)
    # The constant is passed on as a further output of a convolution that reads nothing else.
    constant = nn.functional.one_hot(torch.tensor(channels), channels + 1).to(weight)
    nothing = weight.new_zeros(channels + 1, *weight.shape[1:])
    skip = conv_factors(nothing, constant, reads)
    outer = nn.functional.pad(torch.eye(channels).to(weight), (0, 1))
    return Convolution(skip, conv_factors(weight, bias, reads), outer, reads)
