"""The neuron basis: coordinates as they are, C = I, isolated ones first."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from libgraph.backend.data import Data
from libgraph.bases.method import BasisMethod, Truncation
from libgraph.bases.statistics import Statistics
from libgraph.network.basis import Basis
from libgraph.network.network import Network, NodeLayer
from libgraph.progress import Progress


def neuron_basis(layer: NodeLayer, statistics: Statistics) -> Basis:
    """Identity on one node layer; importance is the variance of each coordinate."""
    isolated = list(layer.isolated_coordinates)
    # Unrotated layers keep their order too: logit 7 stays feature 7.
    rest = list(layer.free_coordinates)
    variance = statistics.covariance.diagonal()
    order = torch.tensor(isolated + rest, device=variance.device)
    eye = torch.eye(layer.size, dtype=torch.float64, device=variance.device)
    return Basis(eye[:, order], eye[order], variance[order], len(isolated), layer.rotated)


def neuron(
    network: Network,
    statistics: Mapping[str, Statistics],
    data: Data,
    truncation: Truncation,
    progress: Progress,
) -> dict[str, Basis]:
    """The neuron basis of every node layer; nothing is truncated."""
    return {
        layer.name: neuron_basis(layer, statistics[layer.name]) for layer in network.node_layers
    }


METHOD = BasisMethod(neuron, scattered=True)
