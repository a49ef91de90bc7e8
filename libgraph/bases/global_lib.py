"""The global interaction basis: LIB with Jacobians to the last node layer, not to the next one.

Directions are aligned with what they do to the output in the end, as a baseline that knows nothing
of the layers between. The gradients at all node layers come from the same passes back from the
output.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.accumulate.gradient_grams import gradient_grams
from libgraph.accumulate.pieces import Piece
from libgraph.accumulate.sums import Numbered, Sums, accumulate
from libgraph.backend.contract import Batch
from libgraph.backend.data import Data
from libgraph.bases.lib import last_basis, lib_basis
from libgraph.bases.method import BasisMethod, Truncation
from libgraph.bases.statistics import Statistics
from libgraph.network.basis import Basis
from libgraph.network.network import Network
from libgraph.progress import Progress


def global_lib(
    network: Network,
    statistics: Mapping[str, Statistics],
    data: Data,
    truncation: Truncation,
    progress: Progress,
) -> dict[str, Basis]:
    """As `lib`, with M' = mean of J C'C'ᵀ Jᵀ, J from the node layer to the last one (§2).

    Estimated from random signs where there are many output coordinates (`gradient_grams`).
    """
    last = network.node_layers[-1]
    basis = last_basis(last, statistics[last.name], truncation)
    encoder = basis.encoder.to(data.dtype)

    def measure(piece: Piece[Batch]) -> Sums:
        grams = output_grams(network, piece.batch.inputs, encoder, piece.seed)
        names = (layer.name for layer in network.node_layers)
        return dict(zip(names, grams, strict=False))

    grams = accumulate(Numbered(data), measure, stage="global basis", progress=progress)
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


def output_grams(
    network: Network, inputs: Tensor, encoder: Tensor, number: int
) -> list[Float[Tensor, "d d"]]:
    """Σ_x Σ_ts J_ts C'C'ᵀ J_tsᵀ at every node layer but the last, C' the encoder, for a batch."""
    shifts = [torch.zeros_like(x) for x in network.activations(inputs)][:-1]

    def outputs(*shifts: Tensor) -> Tensor:
        x = network.embed(inputs)
        for section, shift in zip(network.sections, shifts, strict=True):
            x = section(x + shift)
        final: Tensor = x @ encoder
        return final

    return gradient_grams(outputs, shifts, number)


METHOD = BasisMethod(global_lib, output_gram=True)
