"""Coordinates in which dictionaries are learned, and the way back to those of a node layer.

Features of a linear basis, scaled so that all together have a mean square of 1 each: u = s (x C).
In LIB's the mean Jacobian Gram to the next node layer is the identity, so that an error of u is, to
first order and where it does not depend on the Jacobian, as large as what it does to the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.bases.learned.options import Metric
from libgraph.bases.method import Truncation
from libgraph.bases.pca import pca_basis
from libgraph.bases.statistics import Statistics
from libgraph.network.basis import Bases, Basis
from libgraph.network.dictionary import Dictionary, TopK
from libgraph.network.network import Network, NodeLayer


@dataclass(frozen=True)
class Weights:
    """A dictionary of u: z = TopK((u − c) E + b), û = z D + c.

    Args:
        encoder: E `(m, k)`.
        bias: b `(k)`.
        decoder: D `(k, m)`, rows of length 1.
        centre: c `(m)`.
    """

    encoder: Float[Tensor, "m k"]
    bias: Float[Tensor, " k"]
    decoder: Float[Tensor, "k m"]
    centre: Float[Tensor, " m"]


@dataclass(frozen=True)
class Coordinates:
    """Of one node layer.

    Args:
        layer: which.
        basis: whose features they are, but for the isolated ones.
        scale: s.
    """

    layer: NodeLayer
    basis: Basis
    scale: float

    @property
    def size(self) -> int:
        """m: how many there are."""
        return len(self.basis) - self.basis.isolated

    @property
    def into(self) -> Float[Tensor, "d m"]:
        """From activations: u = x · into."""
        return self.basis.encoder[:, self.basis.isolated :] * self.scale

    @property
    def out(self) -> Float[Tensor, "m d"]:
        """What a step of u is to activations."""
        return self.basis.decoder[self.basis.isolated :] / self.scale

    def dictionary(
        self, weights: Weights, active: int, strength: Float[Tensor, " k"]
    ) -> Dictionary:
        """The dictionary as one of activations, its latents sorted by their mean squares.

        Args:
            weights: in these coordinates.
            active: latents at once.
            strength: mean squares of latents, which in LIB's coordinates say how much they do.
        """
        order = strength.argsort(descending=True, stable=True)
        basis, alone = self.basis, self.basis.isolated
        where = basis.encoder
        encode = weights.encoder[:, order].to(where)
        decode = weights.decoder[order].to(where)
        bias, centre = weights.bias[order].to(where), weights.centre.to(where)
        encoder = where.new_zeros(len(where), alone + 1 + len(order))
        decoder = encoder.T.clone()
        encoder[:, :alone] = basis.encoder[:, :alone]
        encoder[:, alone + 1 :] = self.into @ encode
        decoder[:alone] = basis.decoder[:alone]
        decoder[alone + 1 :] = decode @ self.out
        if self.layer.constant:
            encoder[-1, alone + 1 :] += bias - centre @ encode
            decoder[0] += centre @ self.out
        importance = torch.cat(
            [
                basis.importance[:alone],
                where.new_zeros(1),
                strength[order].to(where) / self.scale**2,
            ]
        )
        return Dictionary(encoder, decoder, importance, alone + 1, gate=TopK(active))


def coordinates(
    network: Network,
    statistics: Mapping[str, Statistics],
    lib: Bases,
    metric: Metric,
    truncation: Truncation,
) -> dict[str, Coordinates]:
    """Of every node layer that is rotated and has any, by its name.

    Args:
        network: whose node layers these are.
        statistics: of all of them.
        lib: the Local Interaction Basis.
        metric: whose features are taken.
        truncation: of principal components.
    """
    found = {}
    for layer in network.node_layers:
        if not layer.rotated:
            continue
        basis = lib[layer.name]
        if metric != "lib":
            basis = pca_basis(layer, statistics[layer.name], truncation)
        if metric == "whitened":
            basis = _whitened(basis)
        into = basis.encoder[:, basis.isolated :]
        # About the mean, which features of node layers without a constant keep.
        variance = float(((statistics[layer.name].covariance @ into) * into).sum())
        if into.shape[1] and variance > 0:
            found[layer.name] = Coordinates(layer, basis, (into.shape[1] / variance) ** 0.5)
    return found


def _whitened(basis: Basis) -> Basis:
    deviation = basis.importance.sqrt()
    deviation[: basis.isolated] = 1
    return Basis(
        basis.encoder / deviation,
        deviation.unsqueeze(1) * basis.decoder,
        torch.ones_like(basis.importance),
        basis.isolated,
    )
