"""Derivatives of a network's outputs by the entries of its weights.

A weight multiplies what comes in, so that its derivatives are products of that with gradients at
what it gives: one pass back from an output coordinate serves all samples and all weights at once.
Parameters stand in one order everywhere: weight by weight, and row by row in each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vjp, vmap

from libgraph.degeneracy.weights import Weight, watching
from libgraph.network import Network

CHUNK_BYTES = 128 * 2**20
"""Rows of Jacobians and activations that are held at once take about so much."""


@torch.no_grad()
def output_jacobians(
    network: Network, inputs: Tensor, weights: Sequence[Weight]
) -> Float[Tensor, "rows P"]:
    """Derivatives of all outputs by all entries of the weights.

    Rows are samples, their positions, their coordinates; columns are the weights in turn, row by
    row. A weight that multiplies x acts by ∂y/∂W = Σ_s x_sᵀ ∂y/∂(x_s W), so that all samples share
    the passes back from one output coordinate.
    """
    seen: dict[Weight, Tensor] = {}
    shifts: dict[Weight, Tensor] = {}

    def look(weight: Weight, x: Tensor, z: Tensor) -> None:
        seen[weight], shifts[weight] = x, torch.zeros_like(z)

    with watching(weights, look):
        network(inputs)

    def outputs(*given: Tensor) -> Tensor:
        by_weight = dict(zip(shifts, given, strict=True))
        with watching(weights, lambda weight, x, z: by_weight[weight]):
            found: Tensor = network(inputs)
        return found

    found, pull = vjp(outputs, *shifts.values())[:2]
    count, positions, size = found.shape
    each = positions * size
    held = sum(shift.numel() for shift in shifts.values()) * found.element_size()
    at_once = max(1, CHUNK_BYTES // max(1, held))
    jacobian: Tensor = found.new_zeros(count, each, count_parameters(weights))
    for some in torch.arange(each, device=found.device).split(at_once):
        along = torch.nn.functional.one_hot(some, each).to(found).unsqueeze(1)
        along = along.expand(-1, count, -1).unflatten(-1, (positions, size))
        gradients = dict(zip(shifts, vmap(pull)(along), strict=True))
        parts = [_by_entry(w, seen, gradients, count, len(some)) for w in weights]
        jacobian[:, some] = torch.cat([part.to(found) for part in parts], dim=-1)
    return jacobian.flatten(0, 1)


def jacobian_rows(
    network: Network, inputs: Tensor, weights: Sequence[Weight]
) -> Iterator[Float[Tensor, "rows P"]]:
    """`output_jacobians` in float64, of a few samples at a time."""
    with torch.no_grad():
        outputs = network(inputs[:1]).numel()
    held = outputs * count_parameters(weights) * 8
    for some in inputs.split(max(1, CHUNK_BYTES // held)):
        yield output_jacobians(network, some, weights).double()


def jacobian_gram(
    network: Network, inputs: Tensor, weights: Sequence[Weight]
) -> Float[Tensor, "P P"]:
    """JᵀJ summed over these samples, in float64, from a few of them at a time."""
    gram = torch.zeros((), dtype=torch.float64)
    for rows in jacobian_rows(network, inputs, weights):
        gram = gram.to(rows.device) + rows.T @ rows
    return gram


def count_parameters(weights: Sequence[Weight]) -> int:
    """Entries of all these weights."""
    return sum(rows * columns for rows, columns in (w.shape for w in weights))


def split_change(
    flat: Float[Tensor, " P"], weights: Sequence[Weight]
) -> dict[Weight, Float[Tensor, "rows columns"]]:
    """A change of all parameters, in the order of `output_jacobians`, weight by weight."""
    sizes = [rows * columns for rows, columns in (w.shape for w in weights)]
    return {w: part.reshape(w.shape) for w, part in zip(weights, flat.split(sizes), strict=True)}


def _by_entry(
    weight: Weight,
    seen: Mapping[Weight, Tensor],
    gradients: Mapping[Weight, Tensor],
    count: int,
    outputs: int,
) -> Float[Tensor, "n o entries"]:
    """Derivatives by the entries of a weight; zeros if the network did not use it."""
    if weight not in seen:
        rows, columns = weight.shape
        return torch.zeros(count, outputs, rows * columns)
    x, gradient = seen[weight].flatten(1, -2), gradients[weight].flatten(2, -2)
    return torch.einsum("nsr,onsc->norc", x, gradient).flatten(2)
