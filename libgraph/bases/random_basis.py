"""A random rotation of the principal components: what a basis is worth that nothing was put into.

The principal components of each node layer span the same space in any orthonormal basis of it; this
one is drawn at random. Measures that a random rotation reaches as well say nothing about the basis.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from libgraph.backend.data import Data
from libgraph.bases.method import BasisMethod, Truncation
from libgraph.bases.pca import pca
from libgraph.bases.statistics import Statistics
from libgraph.network.basis import Basis
from libgraph.network.network import Network
from libgraph.progress import Progress


def random(
    network: Network,
    statistics: Mapping[str, Statistics],
    data: Data,
    truncation: Truncation,
    progress: Progress,
) -> dict[str, Basis]:
    """W Q and Qᵀ W⁺ with W of `pca` and Q uniform among rotations; importance is the variance.

    Isolated features stay as they are. Each node layer has a rotation of its own, the same in every
    run.
    """
    principal = pca(network, statistics, data, truncation, progress)
    return {
        name: _rotated(basis, np.random.default_rng(zlib.crc32(name.encode())))
        if basis.rotated
        else basis
        for name, basis in principal.items()
    }


def random_rotation(size: int, rng: np.random.Generator) -> np.ndarray:
    """An orthogonal matrix `(size, size)`, all of them equally likely.

    Source: Mezzadri (2007), How to generate random matrices from the classical compact groups.
    """
    orthogonal, triangular = np.linalg.qr(rng.standard_normal((size, size)))
    result: np.ndarray = orthogonal * np.sign(np.diagonal(triangular))
    return result


def _rotated(basis: Basis, rng: np.random.Generator) -> Basis:
    """Principal components after a rotation of those that are not isolated, by variance again."""
    isolated = basis.isolated
    q = torch.as_tensor(random_rotation(len(basis) - isolated, rng)).to(basis.encoder)
    # Uncorrelated before, so that variances after are a weighted mean of theirs.
    variance = basis.importance[isolated:] @ q.square()
    order = variance.argsort(descending=True, stable=True)
    rotation = torch.block_diag(torch.eye(isolated).to(q), q[:, order])
    importance: Tensor = torch.cat([basis.importance[:isolated], variance[order]])
    return Basis(basis.encoder @ rotation, rotation.T @ basis.decoder, importance, isolated)


METHOD = BasisMethod(random, scattered=True)
