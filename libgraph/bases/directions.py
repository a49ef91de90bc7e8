"""Directions of the user's own, such as the decoder directions of a sparse autoencoder.

A safetensors file holds for some node layers `NAME/decoder`, one direction a row, and for
dictionaries with more directions than coordinates `NAME/encoder`, one column a feature; without it
the encoder is the pseudo-inverse. Features are linear: x − μ goes in and comes out, with μ the mean
over the data, so that no bias is needed. Node layers that the file does not name keep their
principal components.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.backend.data import Data
from libgraph.bases.method import BasisMethod, MakeBases, Truncation
from libgraph.bases.methods import digest_of
from libgraph.bases.pca import pca
from libgraph.bases.statistics import Statistics
from libgraph.errors import NumericalError, UsageError
from libgraph.files.weights import read_weights
from libgraph.network.basis import Basis
from libgraph.network.network import Network, NodeLayer
from libgraph.progress import Progress

PARTS = ("decoder", "encoder")


def method_of_file(path: Path) -> BasisMethod:
    """The basis method that takes directions from a file; see `directions` for errors."""
    make = directions(path)
    return BasisMethod(make, digest=digest_of([path]))


def directions(path: Path) -> MakeBases:
    """The basis method that takes directions from a file.

    Raises:
        BackendError: if it cannot be read.
        UsageError: if it holds no tensors, or others than floating-point ones.
    """
    tensors = read_weights(path)
    if not tensors:
        raise UsageError(f"'{path}' holds no directions: give LAYER/decoder for some node layer.")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UsageError(f"'{path}': '{name}' is of {kind} numbers: save it in floating point.")

    def method(
        network: Network,
        statistics: Mapping[str, Statistics],
        data: Data,
        truncation: Truncation,
        progress: Progress,
    ) -> dict[str, Basis]:
        """Features of the dictionary, by decreasing variance; those without any are dropped."""
        rotated = {layer.name: layer for layer in network.node_layers if layer.rotated}
        _check_names(path, tensors, list(rotated))
        bases = pca(network, statistics, data, truncation, progress)
        for name, layer in rotated.items():
            if f"{name}/decoder" in tensors:
                matrices = tensors[f"{name}/decoder"], tensors.get(f"{name}/encoder")
                bases[name] = directions_basis(
                    layer, statistics[name], *matrices, truncation, str(path)
                )
        return bases

    return method


def directions_basis(
    layer: NodeLayer,
    statistics: Statistics,
    decoder: Float[Tensor, "k d"],
    encoder: Float[Tensor, "d k"] | None,
    truncation: Truncation,
    where: str,
) -> Basis:
    """One node layer's basis; d counts its coordinates that are not isolated.

    Raises:
        NumericalError: if a variance along a direction is not finite.
        UsageError: if the shapes do not fit, or an encoder is needed and missing.
    """
    isolated = list(layer.isolated_coordinates)
    rest = [i for i in range(layer.size) if i not in isolated]
    covariance = statistics.covariance
    decoder = decoder.to(covariance)
    encoder = _checked(layer.name, decoder, encoder, len(rest), where).to(covariance)
    variance = ((covariance[rest][:, rest] @ encoder) * encoder).sum(0)
    if not bool(variance.isfinite().all()):
        raise NumericalError(
            f"'{where}': variances along directions of '{layer.name}' are not finite: scale them."
        )
    order = variance.argsort(descending=True, stable=True)
    order = order[: truncation.count(variance[order])]
    into = covariance.new_zeros(layer.size, len(isolated) + len(order))
    out = into.T.clone()
    into[isolated, range(len(isolated))] = 1
    out[range(len(isolated)), isolated] = 1
    into[rest, len(isolated) :] = encoder[:, order]
    out[len(isolated) :, rest] = decoder[order]
    if layer.constant:
        # What goes in is x − μ, and the constant brings μ back.
        mean = statistics.mean[rest]
        into[-1, len(isolated) :] = -mean @ encoder[:, order]
        out[0, rest] = mean
    alone = covariance.diagonal()[isolated].clone()
    if layer.constant:
        alone[0] = 1
    return Basis(into, out, torch.cat([alone, variance[order]]), len(isolated))


def _checked(
    layer: str, decoder: Tensor, encoder: Tensor | None, size: int, where: str
) -> Float[Tensor, "d k"]:
    """The encoder, or the pseudo-inverse in place of one, if both fit a layer of this size."""
    if decoder.ndim != 2 or decoder.shape[1] != size:
        raise UsageError(
            f"'{where}': '{layer}/decoder' should be features × {size} (coordinates "
            f"without the constant), not {' × '.join(map(str, decoder.shape))}."
        )
    if not bool(decoder.isfinite().all() and (encoder is None or encoder.isfinite().all())):
        raise UsageError(f"'{where}': directions of '{layer}' are NaN or infinite.")
    if encoder is None:
        if len(decoder) > size:
            raise UsageError(
                f"'{where}': '{layer}/decoder' has {len(decoder)} directions for {size} "
                f"coordinates: an over-complete dictionary needs '{layer}/encoder' too."
            )
        inverse: Tensor = torch.linalg.pinv(decoder)
        return inverse
    if encoder.shape != decoder.T.shape:
        raise UsageError(
            f"'{where}': '{layer}/encoder' should be {size} × {len(decoder)}, not "
            f"{' × '.join(map(str, encoder.shape))}."
        )
    return encoder


def _check_names(path: Path, tensors: Mapping[str, Tensor], layers: list[str]) -> None:
    expected = {f"{layer}/{part}" for layer in layers for part in PARTS}
    for name in tensors:
        if name not in expected:
            raise UsageError(
                f"'{path}': '{name}' is for no node layer: names are LAYER/decoder and "
                f"LAYER/encoder, with LAYER one of {', '.join(layers)}."
            )
    for layer in layers:
        if f"{layer}/encoder" in tensors and f"{layer}/decoder" not in tensors:
            raise UsageError(f"'{path}': '{layer}/encoder' is there without '{layer}/decoder'.")
