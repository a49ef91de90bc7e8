"""The global interaction basis: LIB with Jacobians to the last node layer, not to the next one.

Directions are aligned with what they do to the output in the end, as a baseline that knows nothing
of the layers between. The gradients at all node layers come from the same passes back from the
output: one for every output coordinate, or, where those are many, one for each of some random
combinations of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vjp, vmap

from libgraph.accumulate import Data, Progress, Sums, accumulate, ranks
from libgraph.backend import Batch
from libgraph.bases.basis import Basis, Truncation
from libgraph.bases.lib import last_basis, lib_basis
from libgraph.bases.statistics import Statistics
from libgraph.network import Network

MOST_PASSES = 128
"""Output coordinates, over all positions, above which random combinations stand for them."""

CHUNK_BYTES = 128 * 2**20
"""Gradients that are held at once take about so much."""


def global_lib(
    network: Network,
    statistics: Mapping[str, Statistics],
    data: Data,
    truncation: Truncation,
    progress: Progress,
) -> dict[str, Basis]:
    """As `lib`, with M' = mean of J C'C'ᵀ Jᵀ, J from the node layer to the last one (§2).

    Exact up to `MOST_PASSES` output coordinates; beyond, each sample takes so many draws of signs
    φ, with E[(J C' φ)(J C' φ)ᵀ] = J C'C'ᵀ Jᵀ.
    """
    last = network.node_layers[-1]
    basis = last_basis(last, statistics[last.name], truncation)
    encoder = basis.encoder.to(data.dtype)
    numbers = itertools.count()

    def measure(batch: Batch) -> Sums:
        grams = _grams(network, batch.inputs, encoder, next(numbers))
        names = (layer.name for layer in network.node_layers)
        return dict(zip(names, grams, strict=False))

    grams = accumulate(data, measure, stage="global basis", progress=progress)
    bases = {
        layer.name: lib_basis(
            layer,
            statistics[layer.name],
            grams[layer.name] / (statistics[layer.name].count * statistics[layer.name].positions),
            truncation,
        )
        for layer in network.node_layers[:-1]
    }
    return {**bases, last.name: basis}


def _grams(
    network: Network, inputs: Tensor, encoder: Tensor, number: int
) -> list[Float[Tensor, "d d"]]:
    """Σ_x Σ_ts J_ts C'C'ᵀ J_tsᵀ at every node layer but the last, for batch `number`."""
    shifts = [torch.zeros_like(x) for x in network.activations(inputs)][:-1]

    def outputs(*shifts: Tensor) -> Tensor:
        x = network.embed(inputs)
        for section, shift in zip(network.sections, shifts, strict=True):
            x = section(x + shift)
        final: Tensor = x @ encoder
        return final

    found, pull = vjp(outputs, *shifts)[:2]
    count, positions, size = found.shape
    passes = min(positions * size, MOST_PASSES)
    exact = passes == positions * size
    rank, world = ranks()
    generator = torch.Generator().manual_seed(number * world + rank)
    grams = [x.new_zeros(x.shape[-1], x.shape[-1], dtype=torch.float64) for x in shifts]
    held = sum(x.numel() for x in shifts) * found.element_size()
    at_once = max(1, CHUNK_BYTES // held)
    for first in range(0, passes, at_once):
        some = torch.arange(first, min(first + at_once, passes))
        if exact:
            along = torch.zeros(len(some), 1, positions * size)
            along[range(len(some)), 0, some] = 1
            along = along.expand(-1, count, -1)
        else:
            flips = torch.randint(2, (len(some), count, positions * size), generator=generator)
            along = (2 * flips - 1) / passes**0.5
        gradients = vmap(pull)(along.unflatten(-1, (positions, size)).to(found))
        for gram, gradient in zip(grams, gradients, strict=True):
            rows = gradient.flatten(0, -2)
            gram += (rows.T @ rows).double()
    return grams
