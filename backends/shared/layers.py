"""Plain networks: layers of an affine map and a pointwise activation, from wherever they come.

A layer is a matrix whose last row is the bias, and an activation. They are read from a
`torch.nn.Sequential` or from a state dict, and made into a network with one section a layer. What
is not such a network is refused, naming the layer or the parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from libgraph.errors import BackendError, NumericalError
from libgraph.network.network import Network, NodeLayer
from libgraph.sections import Linear, Section, SkipMLP

Activation = Callable[[Tensor], Tensor]


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "linear": nn.Identity,
}
"""What `-o activation=` takes."""


POINTWISE = (*ACTIVATIONS.values(), nn.Hardtanh, nn.ReLU6, nn.Mish, nn.Softsign, nn.LogSigmoid)
"""Modules that act on each unit by itself and hold no parameters."""


IGNORED = (nn.Identity, nn.Dropout, nn.Flatten)
"""Modules that do nothing to a row of activations when nothing is trained."""


class Layer(NamedTuple):
    """y = φ(x A) M, x with the constant 1 appended.

    Args:
        matrix: A `(d_in + 1, d_out)`, the bias in its last row.
        activation: φ; None for a linear layer.
        change: M `(d_out, d_out)`, coordinates that the outcome is given in; None for its own.
    """

    matrix: Float[Tensor, "d_in_plus_1 d_out"]
    activation: Activation | None
    change: Float[Tensor, "d_out d_out"] | None = None


class Rows(nn.Module):
    """Inputs as rows, at one position, with the constant appended."""

    def forward(self, inputs: Tensor) -> Float[Tensor, "n 1 d_plus_1"]:
        """Inputs `(n, …)` to activations."""
        x = inputs.flatten(1).unsqueeze(1)
        return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], dim=-1)


def network_of(layers: Sequence[Layer], embed: nn.Module | None = None) -> Network:
    """One section for every layer; the last node layer stays in its own coordinates.

    Args:
        layers: at least one.
        embed: from raw inputs to rows with the constant; by default of inputs that are rows.
    """
    sizes = [len(layers[0].matrix) - 1, *(layer.matrix.shape[1] for layer in layers)]
    names = ["input", *(f"hidden{i}" for i in range(1, len(layers))), "output"]
    nodes = [NodeLayer(name, size + 1) for name, size in zip(names, sizes, strict=True)]
    nodes[-1] = NodeLayer("output", sizes[-1], constant=False, rotated=False)
    sections = [
        _section(layer, constant=node.constant)
        for layer, node in zip(layers, nodes[1:], strict=True)
    ]
    return Network(embed or Rows(), sections, nodes)


def _section(layer: Layer, *, constant: bool) -> Section:
    matrix, activation, change = layer
    width = matrix.shape[1]
    outer = torch.eye(width).to(matrix) if change is None else change.to(matrix)
    skip = matrix.new_zeros(len(matrix), width + constant)
    if constant:
        skip[-1, -1] = 1
        outer = nn.functional.pad(outer, (0, 1))
    if activation is None:
        return Linear(matrix @ outer + skip)
    return SkipMLP(skip, matrix, outer, activation)


def forward(layers: Sequence[Layer], x: Float[Tensor, "n d"]) -> Iterator[Float[Tensor, "n d_out"]]:
    """The outcome of every layer in turn, without the constant."""
    for matrix, activation, change in layers:
        x = x @ matrix[:-1] + matrix[-1]
        x = x if activation is None else activation(x)
        x = x if change is None else x @ change
        yield x


def from_module(module: nn.Module) -> list[Layer]:
    """The layers of a `Sequential`, which may be nested, of linear layers and activations.

    Raises:
        BackendError: naming the first layer that is neither.
        NumericalError: naming the parameter that is not finite.
    """
    layers: list[Layer] = []
    width: int | None = None
    for name, part in _parts(module, ""):
        where = f"layer '{name}' of the model" if name else "the model"
        if isinstance(part, nn.Linear):
            if width not in (None, part.in_features):
                raise BackendError(
                    f"{where[0].upper()}{where[1:]} takes {part.in_features} inputs, but the one "
                    f"before it has {width} outputs."
                )
            layers.append(Layer(_affine(part.weight, part.bias, where), None))
            width = part.out_features
        elif _is_ignored(part):
            continue
        elif isinstance(part, POINTWISE):
            if not layers:
                raise BackendError(
                    f"The model begins with {part}: it has to begin with a linear layer."
                )
            layers[-1] = _then(layers[-1], part)
        else:
            raise BackendError(
                f"{where[0].upper()}{where[1:]} is {part}, for which there is no section: a "
                "Sequential may hold Linear, Flatten, Dropout, Identity and pointwise activations "
                "(others need a backend of their own, docs/backends.md)."
            )
    if not layers:
        raise BackendError("The model has no linear layer.")
    return layers


def _parts(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, nn.Sequential):
        for key, child in module.named_children():
            yield from _parts(child, f"{name}.{key}" if name else key)
    else:
        yield name, module


def _is_ignored(part: nn.Module) -> bool:
    whole = not isinstance(part, nn.Flatten) or (part.start_dim, part.end_dim) == (1, -1)
    return isinstance(part, IGNORED) and whole


def _then(layer: Layer, part: nn.Module) -> Layer:
    before = layer.activation
    both = nn.Sequential(before, part) if isinstance(before, nn.Module) else part
    return layer._replace(activation=both)


def _affine(weight: Tensor, bias: Tensor | None, where: str) -> Tensor:
    """`(d_in + 1, d_out)` from PyTorch's `(d_out, d_in)` and `(d_out,)`."""
    weight = weight.detach()
    bias = weight.new_zeros(len(weight)) if bias is None else bias.detach()
    if not bool(weight.isfinite().all() and bias.isfinite().all()):
        raise NumericalError(f"The weights of {where} hold NaN or infinite values.")
    return torch.cat([weight.T, bias.to(weight).unsqueeze(0)])


def from_state_dict(
    tensors: Mapping[str, Tensor], sizes: Sequence[int] | None, activation: str, where: str
) -> list[Layer]:
    """The layers of a state dict: its weights in order, an activation between each two.

    Args:
        tensors: `*.weight` `(d_out, d_in)` and, for layers with a bias, `*.bias` `(d_out,)`.
        sizes: of the node layers, the constant left out; None where the weights say.
        activation: one of `ACTIVATIONS`.
        where: what to call it in messages.

    Raises:
        BackendError: naming the parameter that does not fit.
        NumericalError: naming the parameter that is not finite.
    """
    weights = [name for name in tensors if name.endswith(".weight")]
    known = {*weights, *(name.removesuffix("weight") + "bias" for name in weights)}
    for name in tensors:
        if name not in known:
            raise BackendError(
                f"{where}: '{name}' is no weight or bias of a linear layer; expected is the state "
                "dict of an MLP, names ending in .weight and .bias."
            )
    if sizes is not None and len(weights) != len(sizes) - 1:
        raise BackendError(
            f"{where}: {len(sizes)} sizes need {len(sizes) - 1} weights, not {len(weights)}"
            f"{': ' + ', '.join(weights) if weights else ''}."
        )
    if not weights:
        raise BackendError(f"{where}: there is no parameter whose name ends in .weight.")
    layers: list[Layer] = []
    for index, name in enumerate(weights):
        weight, bias = tensors[name], tensors.get(name.removesuffix("weight") + "bias")
        before = layers[-1].matrix.shape[1] if layers else None
        wanted: tuple[int | None, ...] = (
            (None, before) if sizes is None else (sizes[index + 1], sizes[index])
        )
        _check_shape(where, name, weight, wanted)
        if bias is not None:
            _check_shape(where, name.removesuffix("weight") + "bias", bias, (len(weight),))
        last = index == len(weights) - 1
        function = None if last or activation == "linear" else ACTIVATIONS[activation]()
        layers.append(Layer(_affine(weight, bias, f"'{name}' in {where}"), function))
    return layers


def _check_shape(where: str, name: str, tensor: Tensor, wanted: tuple[int | None, ...]) -> None:
    fits = tensor.ndim == len(wanted) and all(
        size is None or size == found for size, found in zip(wanted, tensor.shape, strict=True)
    )
    if not fits or not tensor.numel():
        expected = " × ".join("any" if size is None else str(size) for size in wanted)
        got = " × ".join(map(str, tensor.shape)) or "a number"
        raise BackendError(f"{where}: parameter '{name}' should be {expected}, not {got}.")
    if not tensor.is_floating_point():
        raise BackendError(f"{where}: parameter '{name}' should hold floating-point numbers.")
