"""The Local Interaction Basis (arXiv 2405.10928): the main idea of this project, in one page.

From the last node layer back to the first: whiten the activations, R = Y U D^{-1/2}; measure how
strongly each whitened direction drives the next layer's features, M = R⁺ M' R⁺ᵀ with M' the mean
of J C'C'ᵀ Jᵀ; rotate to the directions that act independently, M = V Λ Vᵀ, and scale each by how
much it does: C = R V Λ^{1/2}. Directions of no variance or no effect are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.accumulate.kept_activations import KeptActivations
from libgraph.accumulate.sums import Sums, accumulate
from libgraph.backend.data import Data
from libgraph.bases.method import BasisMethod, Truncation, eigenbasis
from libgraph.bases.neuron import neuron_basis
from libgraph.bases.pca import pca_basis
from libgraph.bases.statistics import Statistics
from libgraph.network.basis import Basis
from libgraph.network.network import Network, NodeLayer
from libgraph.progress import Progress


def lib(
    network: Network,
    statistics: Mapping[str, Statistics],
    data: Data,
    truncation: Truncation,
    progress: Progress,
) -> dict[str, Basis]:
    """The Local Interaction Basis of every node layer (docs/math.md §2); importance is Λ."""
    last = network.node_layers[-1]
    basis = last_basis(last, statistics[last.name], truncation)
    bases = {last.name: basis}
    kept_activations = KeptActivations(network, data)
    for index in reversed(range(len(network.sections))):
        layer = network.node_layers[index]
        gram = _jacobian_gram(kept_activations, index, basis.encoder, progress)
        stats = statistics[layer.name]
        basis = lib_basis(layer, stats, gram / (stats.count * stats.positions), truncation)
        bases[layer.name] = basis
    return {layer.name: bases[layer.name] for layer in network.node_layers}


def last_basis(last: NodeLayer, statistics: Statistics, truncation: Truncation) -> Basis:
    """The basis of the last node layer: principal components, or neurons if it is not rotated."""
    if last.rotated:
        return pca_basis(last, statistics, truncation)
    return neuron_basis(last, statistics)


def lib_basis(
    layer: NodeLayer,
    statistics: Statistics,
    jacobian_gram: Float[Tensor, "d d"],
    truncation: Truncation,
) -> Basis:
    """Steps 2, 4 and 5 at one node layer, from its mean Jacobian Gram M' in the neuron basis.

    The neuron basis itself where the node layer is not to be rotated.
    """
    if not layer.rotated:
        return neuron_basis(layer, statistics)
    principal = pca_basis(layer, statistics, truncation)
    isolated = principal.isolated
    deviation = principal.importance.sqrt()
    # A LayerNorm variance may be constant over the data; it then stays as it is.
    deviation[:isolated] = torch.where(deviation[:isolated] > 0, deviation[:isolated], 1)
    whiten = principal.encoder / deviation
    unwhiten = deviation.unsqueeze(1) * principal.decoder
    strength = unwhiten @ jacobian_gram @ unwhiten.T
    importance, rotation = eigenbasis(
        strength[isolated:, isolated:],
        truncation,
        f"Jacobian Gram at node layer '{layer.name}'",
    )
    # Isolated features are scaled like the others, but not rotated, and never dropped.
    rotation = torch.block_diag(torch.eye(isolated).to(rotation), rotation)
    alone = strength.diagonal()[:isolated].clone()
    alone[alone <= 0] = 1
    if layer.constant:
        alone[0] = 1  # The constant stays 1.
    importance = torch.cat([alone, importance])
    scale = importance.sqrt()
    return Basis(
        encoder=whiten @ rotation * scale,
        decoder=(rotation / scale).T @ unwhiten,
        importance=importance,
        isolated=isolated,
    )


def _jacobian_gram(
    kept_activations: KeptActivations, index: int, encoder: Tensor, progress: Progress
) -> Float[Tensor, "d d"]:
    """Step 3, summed over the data: Σ_x Σ_ts J_ts C'C'ᵀ J_tsᵀ at node layer `index`."""
    network, dtype = kept_activations.network, kept_activations.data.dtype
    section = network.sections[index].rebase(encoder=encoder.to(dtype))

    def measure(activations: Callable[[], Tensor]) -> Sums:
        return {"gram": section.jacobian_gram(activations())}

    stage = f"basis at {network.node_layers[index].name}"
    passed = kept_activations.at(index)
    return accumulate(passed, measure, stage=stage, progress=progress)["gram"]


METHOD = BasisMethod(lib, jacobian_gram=True)
