"""Interactions between the features of neighbouring node layers: the edges of the graph.

How strongly input feature j drives output feature i, by the Jacobian between them times the
feature's own size, squared and averaged over the data. All bases and all layer pairs are measured
in one pass.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.accumulate import Data, Progress, Sums, accumulate, silent
from libgraph.backend import Batch
from libgraph.bases import Bases
from libgraph.network import Network
from libgraph.quadrature import Quadrature

Edges = dict[tuple[str, str], Float[Tensor, "out in"]]
"""Interactions `[out, in]` by (input node layer, output node layer)."""


def interactions(
    network: Network,
    bases: Mapping[str, Bases],
    data: Data,
    quadrature: Quadrature,
    progress: Progress = silent,
) -> dict[str, Edges]:
    """E_ij = (1/nT) Σ_x Σ_t (Σ_s f_sj ∫dα Ĵ_ts(αx)_ji)² for each of the named bases.

    T is the number of input positions. In float64, whatever the dtype of the data. Source:
    docs/math.md §3.
    """
    source = {
        (name, layer): (basis.encoder.to(data.dtype), basis.decoder.to(data.dtype))
        for name, by_layer in bases.items()
        for layer, basis in by_layer.items()
    }
    sections = {
        (name, a.name): section.rebase(encoder=source[name, b.name][0])
        for name in bases
        for a, b, section in network.pairs
    }

    def measure(batch: Batch) -> Sums:
        sums: dict[str, Tensor] = {}
        activations = network.activations(batch.inputs)
        for (a, b, _), x in zip(network.pairs, activations, strict=False):
            samples = torch.tensor(x.shape[0] * x.shape[1], dtype=torch.float64)
            sums[f"{a.name} samples"] = samples
            for name in bases:
                encoder, decoder = source[name, a.name]
                sums[f"{name} {a.name} {b.name}"] = sections[name, a.name].interactions(
                    x, x @ encoder, decoder, quadrature
                )
        return sums

    sums = accumulate(data, measure, stage="interactions", progress=progress)
    return {
        name: {
            (a.name, b.name): sums[f"{name} {a.name} {b.name}"] / sums[f"{a.name} samples"]
            for a, b, _ in network.pairs
        }
        for name in bases
    }
