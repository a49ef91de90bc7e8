"""Conv nets: convolutions with a ReLU each, then the mean over pixels and a linear layer.

Windows are square, of odd size, and reach half of it out of the image, as they do under
`padding=kernel // 2`. A network is read from a state dict: four-dimensional weights in order, then
one matrix. Every convolution with its ReLU is one section, and so is all that comes after them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from libgraph.errors import BackendError, NumericalError
from libgraph.network.network import Network, NodeLayer
from libgraph.sections import Convolution, Pooling, Section, conv_factors, windows


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


def from_state_dict(tensors: Mapping[str, Tensor], strides: Sequence[int], where: str) -> ConvNet:
    """A conv net from the state dict of a `Sequential`.

    Args:
        tensors: `*.weight` and `*.bias` in order.
        strides: one number for each convolution.
        where: what to call it in messages.

    Raises:
        BackendError: naming the parameter that does not fit.
        NumericalError: naming the parameter that is not finite.
    """
    names = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    known = {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    for name, tensor in tensors.items():
        if name not in known or not tensor.is_floating_point():
            raise BackendError(
                f"{where}: '{name}' is no weight or bias of a convolution or linear layer; "
                "expected is the state dict of a conv net, names ending in .weight and .bias "
                "(fold batch norms into the convolutions before them)."
            )
        if not bool(tensor.isfinite().all()):
            raise NumericalError(f"{where}: '{name}' holds NaN or infinite values.")
    convolutions, last = names[:-1], names[-1:]
    if len(convolutions) != len(strides) or not convolutions:
        raise BackendError(
            f"{where}: there should be {len(strides)} convolutions, one for each stride, and a "
            f"linear layer, not {len(names)} weights{': ' if names else ''}{', '.join(names)}."
        )
    channels: int | None = None
    weights, biases = [], []
    for name in convolutions:
        weight = tensors[f"{name}.weight"]
        _check_kernel(where, name, weight, channels)
        channels = len(weight)
        weights.append(weight)
        biases.append(_bias(tensors, name, channels, where))
    (name,) = last
    matrix = tensors[f"{name}.weight"]
    if matrix.ndim != 2 or matrix.shape[1] != channels:
        got = " × ".join(map(str, matrix.shape))
        raise BackendError(
            f"{where}: '{name}.weight' should be outputs × {channels}, the channels of the last "
            f"convolution, whose mean over pixels it reads, not {got}."
        )
    bias = _bias(tensors, name, len(matrix), where)
    readout = torch.cat([matrix.T, bias.unsqueeze(0)])
    return ConvNet(tuple(weights), tuple(biases), tuple(strides), readout)


def _check_kernel(where: str, name: str, weight: Tensor, channels: int | None) -> None:
    square = weight.ndim == 4 and weight.shape[2] == weight.shape[3] and weight.shape[2] % 2 == 1
    if not square or channels not in (None, weight.shape[1]):
        before = "channels" if channels is None else str(channels)
        got = " × ".join(map(str, weight.shape))
        raise BackendError(
            f"{where}: '{name}.weight' should be channels × {before} × kernel × kernel, the kernel "
            f"odd, not {got}."
        )


def _bias(tensors: Mapping[str, Tensor], name: str, size: int, where: str) -> Tensor:
    bias = tensors.get(f"{name}.bias")
    if bias is None:
        return tensors[f"{name}.weight"].new_zeros(size)
    if bias.shape != (size,):
        got = " × ".join(map(str, bias.shape)) or "a number"
        raise BackendError(f"{where}: '{name}.bias' should be {size}, not {got}.")
    return bias


def network_of(net: ConvNet, embed: nn.Module, size: int) -> tuple[Network, dict[str, int]]:
    """Sections of a conv net on square images, and the width of each node layer's feature maps.

    Args:
        net: what it is made of.
        embed: from raw inputs to pixels, row by row, with the constant appended.
        size: width of the images.
    """
    node_layers = [NodeLayer("input", net.weights[0].shape[1] + 1)]
    sections: list[Section] = []
    widths = {"input": size}
    for number, (weight, bias, stride) in enumerate(
        zip(net.weights, net.biases, net.strides, strict=True), start=1
    ):
        kernel = weight.shape[-1]
        reads = windows((size, size), kernel, stride, kernel // 2)
        sections.append(_convolution(weight, bias, reads))
        size = (size - 1) // stride + 1
        node_layers.append(NodeLayer(f"conv{number}", len(weight) + 1))
        widths[f"conv{number}"] = size
    mean = torch.full((1, size * size), 1 / (size * size), dtype=torch.float64)
    sections.append(Pooling(mean, net.readout))
    node_layers.append(
        NodeLayer("output", net.readout.shape[1], constant=False, rotated=False),
    )
    return Network(embed, sections, node_layers), widths


def _convolution(weight: Tensor, bias: Tensor, reads: Int[Tensor, "t K"]) -> Convolution:
    """ReLU of a convolution, with a constant channel that stays 1."""
    channels = len(weight)
    # The constant is passed on as a further output of a convolution that reads nothing else.
    one = torch.nn.functional.one_hot(torch.tensor(channels), channels + 1).to(weight)
    nothing = weight.new_zeros(channels + 1, *weight.shape[1:])
    skip = conv_factors(nothing, one, reads)
    outer = nn.functional.pad(torch.eye(channels).to(weight), (0, 1))
    return Convolution(skip, conv_factors(weight, bias, reads), outer, reads)
