"""Principal components of each node layer: the baseline, and the first half of LIB.

With Y the map that subtracts the mean and keeps the constant, x Y = (x − μ, 1), and U D Uᵀ the
eigendecomposition of the covariance, features are x W, W = Y U. Isolated coordinates come first
and are not mixed with the rest.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from libgraph.backend.data import Data
from libgraph.bases.method import BasisMethod, Truncation, eigenbasis
from libgraph.bases.neuron import neuron_basis
from libgraph.bases.statistics import Statistics
from libgraph.network.basis import Basis
from libgraph.network.network import Network, NodeLayer
from libgraph.progress import Progress


def pca_basis(layer: NodeLayer, statistics: Statistics, truncation: Truncation) -> Basis:
    """Centred principal components of one node layer (docs/math.md §2, steps 1 and 2).

    Importance is the variance; that of the constant feature is 1.
    """
    covariance = statistics.covariance
    isolated = list(layer.isolated_coordinates)
    rest = list(layer.free_coordinates)
    variances, vectors = eigenbasis(
        covariance[rest][:, rest], truncation, f"covariance at node layer '{layer.name}'"
    )
    directions = covariance.new_zeros(layer.size, len(isolated) + len(variances))
    directions[isolated, range(len(isolated))] = 1
    directions[rest, len(isolated) :] = vectors
    importance = torch.cat([covariance.diagonal()[isolated], variances])
    if not layer.constant:
        # Without a constant to carry the mean, features keep it.
        return Basis(directions, directions.T.contiguous(), importance, len(isolated))
    importance[0] = 1
    center = torch.eye(layer.size, dtype=covariance.dtype, device=covariance.device)
    uncenter = center.clone()
    center[-1, :-1] = -statistics.mean[:-1]
    uncenter[-1, :-1] = statistics.mean[:-1]
    return Basis(center @ directions, directions.T @ uncenter, importance, len(isolated))


def pca(
    network: Network,
    statistics: Mapping[str, Statistics],
    data: Data,
    truncation: Truncation,
    progress: Progress,
) -> dict[str, Basis]:
    """Principal components of every node layer, neurons where it is not rotated."""
    return {
        layer.name: pca_basis(layer, statistics[layer.name], truncation)
        if layer.rotated
        else neuron_basis(layer, statistics[layer.name])
        for layer in network.node_layers
    }


METHOD = BasisMethod(pca)
