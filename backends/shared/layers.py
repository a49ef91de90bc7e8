"""Plain networks: layers of an affine map and a pointwise activation, from wherever they come.

A layer is a matrix whose last row is the bias, and an activation. They are read from a module
(`libgraph_backends.shared.modules`) or from a state dict, and made into a network with one section
a layer. What is not such a network is refused, naming the layer or the parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from libgraph.backend import BackendError, Network, NodeLayer
from libgraph.sections import Linear, Section, SkipMLP
from libgraph_backends.shared.options import ActivationName
from libgraph_backends.shared.state_dicts import (
    StateDict,
    check_finite,
    check_floating,
    check_shape,
    layer_names,
)

Activation = Callable[[Tensor], Tensor]


ACTIVATIONS: dict[ActivationName, type[nn.Module]] = {
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


class Layer(NamedTuple):
    """y = φ(x A) M + x S, x with the constant 1 appended where A reads it.

    Args:
        matrix: A `(d_in + 1, d_out)`, the bias in its last row.
        activation: φ; None for a linear layer.
        change: M `(d_out, d_out)`, coordinates that the outcome is given in; None for its own.
        skip: S `(d_in, d_out)`, what passes by the layer; None for nothing.
    """

    matrix: Float[Tensor, "d_in_plus_1 d_out"]
    activation: Activation | None
    change: Float[Tensor, "d_out d_out"] | None = None
    skip: Float[Tensor, "d_in d_out"] | None = None


# To a network


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
    matrix, activation, change, past = layer
    width = matrix.shape[1]
    eye = torch.eye(width, dtype=matrix.dtype, device=matrix.device)
    outer = eye if change is None else change.to(matrix)
    skip = matrix.new_zeros(len(matrix), width + constant)
    if past is not None:
        skip[:-1, :width] = past
    if constant:
        skip[-1, -1] = 1
        outer = nn.functional.pad(outer, (0, 1))
    if activation is None:
        return Linear(matrix @ outer + skip)
    return SkipMLP(skip, matrix, outer, activation)


def forward(layers: Sequence[Layer], x: Float[Tensor, "n d"]) -> Iterator[Float[Tensor, "n d_out"]]:
    """The outcome of every layer in turn, without the constant."""
    for matrix, activation, change, skip in layers:
        y = x @ matrix[:-1] + matrix[-1]
        y = y if activation is None else activation(y)
        y = y if change is None else y @ change
        x = y if skip is None else y + x @ skip
        yield x


def ends(layers: Sequence[Layer]) -> tuple[int, int]:
    """How many inputs the first layer takes, and how many outputs the last one has."""
    return len(layers[0].matrix) - 1, layers[-1].matrix.shape[1]


def check_width(rows: Float[Tensor, "n d"], layers: Sequence[Layer]) -> None:
    """Raise a `BackendError` unless the first layer takes such rows."""
    wanted = ends(layers)[0]
    if rows.shape[1] != wanted:
        raise BackendError(
            f"The model takes {wanted} inputs, but the data have {rows.shape[1]} for each sample."
        )


# From a state dict


def from_state_dict(
    state: StateDict,
    sizes: Sequence[int] | None,
    activation: ActivationName,
    order: Sequence[str] | None = None,
) -> list[Layer]:
    """The layers of a state dict: its weights in order, an activation between each two.

    Args:
        state: `*.weight` `(d_out, d_in)` and, for layers with a bias, `*.bias` `(d_out,)`.
        sizes: of the node layers, the constant left out; None where the weights say.
        activation: what stands between layers.
        order: of the layers, by name, if that is known.

    Raises:
        BackendError: naming the parameter that does not fit; or if the order is not known.
        NumericalError: naming the parameter that is not finite.
        UsageError: if `order` does not name each layer once.
    """
    tensors, where = state.tensors, state.where
    names = layer_names(
        state,
        order,
        sizes,
        kind="linear layer",
        advice="expected is the state dict of an MLP, names ending in .weight and .bias",
    )
    _check_count([f"{name}.weight" for name in names], sizes, where)
    layers: list[Layer] = []
    for index, name in enumerate(names):
        d_in: int | str = layers[-1].matrix.shape[1] if layers else "any"
        wanted = ("any", d_in) if sizes is None else (sizes[index + 1], sizes[index])
        matrix = _matrix(tensors, name, wanted, where)
        is_last = index == len(names) - 1
        function = None if is_last or activation == "linear" else ACTIVATIONS[activation]()
        layers.append(Layer(matrix, function))
    return layers


def _check_count(weights: Sequence[str], sizes: Sequence[int] | None, where: str) -> None:
    if sizes is not None and len(weights) != len(sizes) - 1:
        raise BackendError(
            f"{where}: {len(sizes)} sizes need {len(sizes) - 1} weights, not {len(weights)}"
            f"{': ' + ', '.join(weights) if weights else ''}."
        )
    if not weights:
        raise BackendError(f"{where}: there is no parameter whose name ends in .weight.")


def _matrix(
    tensors: Mapping[str, Tensor], name: str, wanted: Sequence[int | str], where: str
) -> Float[Tensor, "d_in_plus_1 d_out"]:
    """Weight and bias of a layer, whose weight has to have the wanted sizes."""
    weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
    check_shape(where, f"{name}.weight", weight, wanted)
    check_floating(where, f"{name}.weight", weight)
    if bias is not None:
        check_shape(where, f"{name}.bias", bias, (len(weight),))
        check_floating(where, f"{name}.bias", bias)
    return affine(weight, bias, f"'{name}.weight' in {where}")


def affine(weight: Tensor, bias: Tensor | None, where: str) -> Tensor:
    """`(d_in + 1, d_out)` from PyTorch's `(d_out, d_in)` and `(d_out,)`, as precise as either.

    Raises:
        NumericalError: naming `where` if they are not finite.
    """
    weight = weight.detach()
    bias = weight.new_zeros(len(weight)) if bias is None else bias.detach()
    for tensor in (weight, bias):
        check_finite(f"A weight or bias of {where}", tensor)
    dtype = torch.promote_types(weight.dtype, bias.dtype)
    return torch.cat([weight.T.to(dtype), bias.to(dtype).unsqueeze(0)])
