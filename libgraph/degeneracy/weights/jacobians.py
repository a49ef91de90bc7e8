"""Derivatives of a network's outputs by the entries of its weights.

A weight multiplies what comes in, so that its derivatives are products of that with gradients at
what it gives: one pass back from an output coordinate serves all samples and all weights at once.
Parameters stand in one order everywhere: weight by weight, and row by row in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vjp, vmap

from libgraph.accumulate.memory import chunk_bytes
from libgraph.degeneracy.weights.weights import Weight, watching
from libgraph.network.network import Network

CHUNK_BYTES = 128 * 2**20
"""Rows of Jacobians and activations that are held at once take about so much."""


@torch.no_grad()
def output_jacobians(
    network: Network, inputs: Tensor, weights: Sequence[Weight], memory: int | None = None
) -> Float[Tensor, "rows P"]:
    """Derivatives of all outputs by all entries of the weights.

    Rows are samples, their positions, their coordinates; columns are the weights in turn, row by
    row. A weight that multiplies x acts by ∂y/∂W = Σ_s x_sᵀ ∂y/∂(x_s W), so that all samples share
    the passes back from one output coordinate. One that is used several times adds up over them.
    Gradients of some coordinates are held at a time, by the memory budget if one is given.
    """
    used: list[tuple[Weight, Tensor]] = []
    shifts: list[Tensor] = []

    def look(weight: Weight, x: Tensor, z: Tensor) -> None:
        used.append((weight, x))
        shifts.append(torch.zeros_like(z))

    with watching(weights, look):
        network(inputs)

    def outputs(*given: Tensor) -> Tensor:
        in_turn = iter(given)
        with watching(weights, lambda weight, x, z: next(in_turn)):
            y: Tensor = network(inputs)
        return y

    y, pull = vjp(outputs, *shifts)[:2]
    count, positions, size = y.shape
    rows = positions * size
    held = sum(shift.numel() for shift in shifts) * y.element_size()
    at_once = max(1, chunk_bytes(CHUNK_BYTES, memory) // max(1, held))
    sizes = [count_parameters([weight]) for weight in weights]
    jacobian: Tensor = y.new_zeros(count, rows, count_parameters(weights))
    for chosen in torch.arange(rows, device=y.device).split(at_once):
        along = torch.nn.functional.one_hot(chosen, rows).to(y).unsqueeze(1)
        along = along.expand(-1, count, -1).unflatten(-1, (positions, size))
        first, last = int(chosen[0]), int(chosen[-1]) + 1
        # Of a weight that the network does not use they stay zeros.
        parts = dict(zip(weights, jacobian[:, first:last].split(sizes, dim=-1), strict=True))
        for (weight, x), gradient in zip(used, vmap(pull)(along), strict=True):
            parts[weight] += _by_entry(x, gradient)
    return jacobian.flatten(0, 1)


def jacobian_parts(
    network: Network, inputs: Tensor, weights: Sequence[Weight], memory: int | None = None
) -> Iterator[Callable[[], Float[Tensor, "rows P"]]]:
    """What gives `output_jacobians` in float64, of a few samples at a time, or of one.

    Args:
        network: whose outputs are differentiated.
        inputs: of the samples.
        weights: by whose entries.
        memory: the budget, if one is given.
    """
    room = chunk_bytes(CHUNK_BYTES, memory)
    with torch.no_grad():
        outputs = network(inputs[:1]).numel()
    held = outputs * count_parameters(weights) * 8

    def rows(samples: Tensor) -> Float[Tensor, "rows P"]:
        return output_jacobians(network, samples, weights, memory).double()

    for samples in inputs.split(max(1, room // held)):
        yield partial(rows, samples)


def jacobian_rows(
    network: Network, inputs: Tensor, weights: Sequence[Weight], memory: int | None = None
) -> Iterator[Float[Tensor, "rows P"]]:
    """All of `jacobian_parts`, one after the other."""
    return (rows() for rows in jacobian_parts(network, inputs, weights, memory))


def jacobian_gram(
    network: Network, inputs: Tensor, weights: Sequence[Weight], memory: int | None = None
) -> Float[Tensor, "P P"]:
    """JᵀJ summed over these samples, in float64, from a few of them at a time."""
    gram = torch.zeros((), dtype=torch.float64)
    for rows in jacobian_rows(network, inputs, weights, memory):
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
    x: Float[Tensor, "n *s rows"], gradient: Float[Tensor, "o n *s columns"]
) -> Float[Tensor, "n o entries"]:
    """Derivatives by the entries of a weight, of one of its uses."""
    x, gradient = x.flatten(1, -2), gradient.flatten(2, -2)
    return torch.einsum("nsr,onsc->norc", x, gradient).flatten(2)
