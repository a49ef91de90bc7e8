"""Directions of the user's own, such as the decoder directions of a sparse autoencoder.

A safetensors file holds for some node layers `NAME/decoder`, one direction a row, and for
dictionaries with more directions than coordinates `NAME/encoder`, one column a feature; without it
the encoder is the pseudo-inverse. x − μ goes in and comes out, with μ the mean over the data.
Features are linear, or latents where the file has `NAME/bias`, `NAME/threshold` or, in its
metadata, `activation` or `NAME/activation`: `relu`, or `topk:K`. Node layers without directions
keep LIB.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from libgraph.backend.data import Data
from libgraph.bases.dictionaries import mean_squares, only_active, with_rests
from libgraph.bases.lib import lib
from libgraph.bases.method import BasisMethod, MakeBases, Setting, Truncation
from libgraph.bases.methods import digest_of
from libgraph.bases.statistics import Statistics
from libgraph.dictionaries.matching import dictionary_of_layer
from libgraph.dictionaries.weights import DictionaryWeights
from libgraph.errors import NumericalError, UsageError
from libgraph.files.weights import is_safetensors, read_weights
from libgraph.network.basis import Basis
from libgraph.network.dictionary import Dictionary, Gate, Threshold, TopK
from libgraph.network.network import Network, NodeLayer
from libgraph.progress import Progress

PARTS = ("decoder", "encoder", "bias", "threshold")

ACTIVATION = "activation"


def method_of_file(path: Path) -> BasisMethod:
    """The basis method that takes directions from a file; see `directions` for errors."""
    tensors = read_weights(path)
    latent = bool(_activations(path)) or any(
        name.endswith(("/bias", "/threshold")) for name in tensors
    )
    return BasisMethod(
        directions(path),
        prepare=lambda setting: directions(path, setting),
        begins_with="lib",
        jacobian_gram=True,
        digest=digest_of([path]),
        latent=latent,
    )


def directions(path: Path, setting: Setting | None = None) -> MakeBases:
    """The basis method that takes directions from a file; from LIB, if it is known.

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
    activations = _activations(path)
    start = None if setting is None else setting.bases.get("lib")

    def method(
        network: Network,
        statistics: Mapping[str, Statistics],
        data: Data,
        truncation: Truncation,
        progress: Progress,
    ) -> dict[str, Basis]:
        """Features of the file, by decreasing variance; those without any are dropped."""
        rotated = {layer.name: layer for layer in network.node_layers if layer.rotated}
        _check_names(path, tensors, list(rotated))
        _check_activations(path, activations, list(rotated))
        bases = dict(start or lib(network, statistics, data, truncation, progress))
        latent: dict[str, Dictionary] = {}
        for name, layer in rotated.items():
            if f"{name}/decoder" not in tensors:
                continue
            gate = _gate(path, name, tensors, activations)
            if gate is not None:
                latent[name] = _latents(path, layer, statistics[name], tensors, gate)
                continue
            matrices = tensors[f"{name}/decoder"], tensors.get(f"{name}/encoder")
            bases[name] = directions_basis(
                layer, statistics[name], *matrices, truncation, str(path)
            )
        if not latent:
            return bases
        found = only_active(network, latent, statistics, data, progress)
        return with_rests(network, {**bases, **found})

    return method


def _activations(path: Path) -> dict[str, str]:
    """What the file's metadata say of activations, by node layer; under "" that of all."""
    if not is_safetensors(path):
        return {}
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    return {
        name.removesuffix(ACTIVATION).removesuffix("/"): value
        for name, value in metadata.items()
        if name == ACTIVATION or name.endswith(f"/{ACTIVATION}")
    }


def _check_activations(path: Path, activations: Mapping[str, str], layers: list[str]) -> None:
    for layer in activations:
        if layer and layer not in layers:
            raise UsageError(
                f"'{path}': '{layer}/{ACTIVATION}' is for no node layer: they are "
                f"{', '.join(layers)}."
            )


def _gate(
    path: Path, layer: str, tensors: Mapping[str, Tensor], activations: Mapping[str, str]
) -> Gate | None:
    """What is active at a node layer; None where features are linear."""
    latents = len(tensors[f"{layer}/decoder"])
    threshold = tensors.get(f"{layer}/threshold")
    name = activations.get(layer, activations.get("", "linear"))
    kind, _, count = name.partition(":")
    if kind == "topk" and count.isdecimal() and 0 < int(count) <= latents and threshold is None:
        return TopK(int(count))
    if name not in ("linear", "relu"):
        raise UsageError(
            f"'{path}': the {ACTIVATION} of '{layer}' is '{name}': use relu, with or without "
            f"'{layer}/threshold', topk:K with K up to {latents} and no threshold, or linear."
        )
    if threshold is not None:
        return Threshold(threshold.double().flatten().expand(latents))
    latent = name == "relu" or f"{layer}/bias" in tensors
    return Threshold(torch.zeros(latents, dtype=torch.float64)) if latent else None


def _latents(
    path: Path,
    layer: NodeLayer,
    statistics: Statistics,
    tensors: Mapping[str, Tensor],
    gate: Gate,
) -> Dictionary:
    """The dictionary of a node layer, which reads and writes x − μ."""
    isolated = list(layer.isolated_coordinates)
    rest = list(layer.free_coordinates)
    decoder = tensors[f"{layer.name}/decoder"].double().cpu()
    encoder = _checked(
        layer.name, decoder, tensors.get(f"{layer.name}/encoder"), len(rest), str(path)
    ).double()
    bias = tensors.get(f"{layer.name}/bias", torch.zeros(len(decoder))).double().flatten()
    for part, values in (("bias", bias), ("threshold", getattr(gate, "threshold", bias))):
        if values.shape != bias.shape or len(values) != len(decoder):
            raise UsageError(
                f"'{path}': '{layer.name}/{part}' has {len(values)} numbers for {len(decoder)} "
                "directions: give one each."
            )
        if not bool(values.isfinite().all()):
            raise UsageError(f"'{path}': '{layer.name}/{part}' is NaN or infinite.")
    mean = statistics.mean[rest].double().cpu()
    weights = DictionaryWeights(
        path, layer.name, encoder, bias - mean @ encoder, decoder, mean, gate
    )
    return dictionary_of_layer(layer, weights, mean_squares(statistics)[isolated])


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
    rest = list(layer.free_coordinates)
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
                f"'{path}': '{name}' is for no node layer: names are LAYER/decoder, LAYER/encoder, "
                f"LAYER/bias and LAYER/threshold, with LAYER one of {', '.join(layers)}."
            )
    for layer in layers:
        for part in PARTS[1:]:
            if f"{layer}/{part}" in tensors and f"{layer}/decoder" not in tensors:
                raise UsageError(f"'{path}': '{layer}/{part}' is there without '{layer}/decoder'.")
