"""Principal components, turned until few neurons make each: Kaiser's varimax as a basis.

Source: Kaiser (1958), The varimax criterion for analytic rotation in factor analysis.
"""

import torch

from libgraph.bases.method import BasisMethod
from libgraph.bases.pca import pca
from libgraph.network.basis import Basis

STEPS, STILL = 200, 1e-9


def rotation(loadings):
    """The orthogonal matrix (k, k) after which squares of loadings (d, k) vary most in columns."""
    turn, before = torch.eye(loadings.shape[1]).to(loadings), 0.0
    for _ in range(STEPS):
        turned = loadings @ turn
        gradient = loadings.T @ (turned**3 - turned * turned.square().mean(0))
        left, sizes, right = torch.linalg.svd(gradient)
        turn = left @ right
        if float(sizes.sum()) < before * (1 + STILL):
            break
        before = float(sizes.sum())
    return turn


def varimax(network, statistics, data, truncation, progress):
    """One basis for every node layer, by decreasing variance."""
    bases = pca(network, statistics, data, truncation, progress)
    return {name: turned(basis) if basis.rotated else basis for name, basis in bases.items()}


def turned(basis):
    """The features that are not isolated, turned; the constant stays where it is."""
    first = basis.isolated
    turn = rotation(basis.decoder[first:, :-1].T)
    variance = basis.importance[first:] @ turn.square()
    order = variance.argsort(descending=True, stable=True)
    whole = torch.block_diag(torch.eye(first).to(turn), turn[:, order])
    importance = torch.cat([basis.importance[:first], variance[order]])
    return Basis(basis.encoder @ whole, whole.T @ basis.decoder, importance, first)


METHOD = BasisMethod(varimax)
