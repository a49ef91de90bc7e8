"""Dictionaries of a folder as bases: latents as features, LIB where the folder has none.

Latents are sorted by the mean square of what they write. Those that are never active on the data
are no features, and take no memory. What passes a transcoder by has the features of its own LIB.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.accumulate.sums import Sums, accumulate
from libgraph.backend.contract import Batch
from libgraph.backend.data import Data
from libgraph.bases.cross_layer import check_cross_layer, check_size, with_cross_layer
from libgraph.bases.lib import lib, lib_basis
from libgraph.bases.method import BasisMethod, MakeBases, Setting, Truncation
from libgraph.bases.methods import digest_of
from libgraph.bases.statistics import Statistics
from libgraph.dictionaries.circuit_tracer import CONFIGURATION
from libgraph.dictionaries.matching import WITH_PASSAGES, dictionary_of_layer, matched
from libgraph.dictionaries.registry import read_dictionaries
from libgraph.dictionaries.weights import (
    CrossLayerWeights,
    DictionaryWeights,
    TranscoderWeights,
)
from libgraph.errors import BackendError, UsageError
from libgraph.network.basis import Bases, Basis
from libgraph.network.cross_layer import CrossLayer, carrying
from libgraph.network.dictionary import Dictionary, with_rest
from libgraph.network.network import Network, NodeLayer
from libgraph.network.transcoder import Transcoder
from libgraph.progress import Progress, renamed
from libgraph.sections.chunks import chunks
from libgraph.sections.linear import Linear

log = logging.getLogger("libgraph")


def method_of_folder(folder: Path) -> BasisMethod:
    """The basis method that takes dictionaries from a folder.

    Raises:
        UsageError: if it holds none, or one cannot be read.
    """
    found = read_dictionaries(folder)
    files = sorted({path for each in found for path in _files(each, folder)})
    return BasisMethod(
        partial(dictionaries, found=found),
        prepare=lambda setting: _prepared(found, setting),
        begins_with="lib",
        jacobian_gram=True,
        digest=digest_of(files),
        latent=True,
    )


def _files(found: DictionaryWeights, folder: Path) -> list[Path]:
    path = found.path
    if path.is_file():
        # It may list files of folders within its own, however deep.
        places = [place for place in path.parents if place.is_relative_to(folder)]
        beside = [place / CONFIGURATION for place in places]
        if isinstance(found, CrossLayerWeights):
            beside.append(path.with_name(path.name.replace("enc", "dec")))
        return [path, *(each for each in beside if each.is_file())]
    return [inside for inside in path.iterdir() if inside.is_file()]


def _prepared(found: Sequence[DictionaryWeights], setting: Setting) -> MakeBases:
    return partial(dictionaries, found=found, start=setting.bases.get("lib"))


def dictionaries(
    network: Network,
    statistics: Mapping[str, Statistics],
    data: Data,
    truncation: Truncation,
    progress: Progress,
    found: Sequence[DictionaryWeights] = (),
    start: Bases | None = None,
) -> dict[str, Basis]:
    """Latents at the node layers that have a dictionary, LIB at the others.

    Args:
        network: as for every method.
        statistics: likewise.
        data: on which latents are active or not.
        truncation: of LIB.
        progress: told of the pass that finds that out.
        found: dictionaries, by the hooks that they read at.
        start: LIB, if it is known already.

    Raises:
        UsageError: if none belongs to this network, or all latents of one are dead.
        TooLarge: if edges between latents do not fit the memory budget.
    """
    by_layer = matched(found, network.node_layers)
    left = len(found) - len(by_layer)
    for name, weights in by_layer.items():
        log.info("%s: %d latents of '%s'.", name, weights.latents, weights.path)
    if left:
        transcoders = any(isinstance(weights, TranscoderWeights) for weights in found)
        passages = any(layer.passage is not None for layer in network.node_layers)
        log.warning(
            "%d of %d dictionaries read at places where this analysis has no node layer.%s",
            left,
            len(found),
            "" if passages or not transcoders else f" Transcoders have some with {WITH_PASSAGES}.",
        )
    whole = {
        layer.name: dictionary_of_layer(
            layer,
            by_layer[layer.name],
            mean_squares(statistics[layer.name])[list(layer.isolated_coordinates)],
        )
        for layer in network.node_layers
        if layer.name in by_layer
    }
    crosses = check_cross_layer(by_layer, network)
    sums = latent_sums(network, whole, data, renamed(progress, "latents"))
    if not crosses:
        tell_errors(sums, whole, statistics)
    alive = _alive(whole, sums, data)
    check_size(network, {name: len(basis) for name, basis in alive.items()}, data)
    bases = dict(start or lib(network, statistics, data, truncation, progress))
    bases |= alive | _carrying(network, alive, bases, statistics, truncation)
    if not crosses:
        return with_rests(network, bases)
    squares = {name: sums[f"{name} squares"] / sums[f"{name} count"] for name in whole}
    bases = with_cross_layer(network, bases, crosses, squares, data)
    latent = {name: each for name, each in bases.items() if isinstance(each, CrossLayer)}
    told = renamed(progress, "errors of latents")
    errors = latent_sums(carrying(network, bases), latent, data, told)
    tell_errors(errors, whole, statistics)
    return bases


def with_rests(network: Network, bases: Bases) -> dict[str, Basis]:
    """Linear bases before dictionaries with what they leave out, which these may read, as an error.

    A basis such as LIB drops what the model does not read, and a dictionary may: the mean of a
    stream before a LayerNorm.

    Args:
        network: whose node layers they are of.
        bases: of all of them.
    """
    latent = [
        place
        for place, layer in enumerate(network.node_layers)
        if bases[layer.name].always < len(bases[layer.name])
    ]
    before = network.node_layers[: max(latent, default=0)]
    dropping = [
        layer.name
        for layer in before
        if layer.rotated and bases[layer.name].linear and len(bases[layer.name]) < layer.size
    ]
    return {**bases, **{name: with_rest(bases[name]) for name in dropping}}


def _carrying(
    network: Network,
    alive: Mapping[str, Dictionary],
    bases: Bases,
    statistics: Mapping[str, Statistics],
    truncation: Truncation,
) -> dict[str, Basis]:
    """Transcoders whose features of what passes by are LIB's of this alone.

    Statistics of it follow from the node layer's, as it is linear in activations, and its Jacobian
    is that of the next section, which is linear too.

    Raises:
        BackendError: if the section after a transcoder's node layer is not linear.
    """
    found: dict[str, Basis] = {}
    for layer, after, section in network.pairs:
        basis = alive.get(layer.name)
        if not isinstance(basis, Transcoder):
            continue
        if not isinstance(section, Linear):
            raise BackendError(
                f"The section {layer.name}->{after.name} should be linear: it comes after a node "
                "layer with a passage."
            )
        stats, constant = statistics[layer.name], layer.isolated_coordinates[0]
        stream = basis.encoder[:, basis.isolated : basis.always]
        one = torch.eye(layer.size).to(stream)[:, constant : constant + 1]
        onto = torch.cat([stream, one], dim=1).to(stats.mean)
        of_stream = Statistics(
            stats.mean @ onto, onto.T @ stats.covariance @ onto, stats.count, stats.positions
        )
        reading = section.matrix.to(stats.mean) @ bases[after.name].encoder.to(stats.mean)
        seen = reading[basis.written]
        jacobian = torch.cat([seen, reading[constant : constant + 1]])
        place = NodeLayer(f"{layer.name}, what passes by", len(jacobian))
        lib_of_stream = lib_basis(place, of_stream, jacobian @ jacobian.T, truncation)
        found[layer.name] = basis.carrying(lib_of_stream.to(stream), seen.to(stream))
    return found


def only_active(
    network: Network,
    whole: Mapping[str, Dictionary],
    statistics: Mapping[str, Statistics],
    data: Data,
    progress: Progress,
) -> dict[str, Dictionary]:
    """Dictionaries without the latents that are never active, the rest by what they write.

    Says so where a dictionary explains less of the activations than their mean does.

    Raises:
        UsageError: if all latents of a dictionary are dead.
        TooLarge: if edges between latents do not fit the memory budget.
    """
    sums = latent_sums(network, whole, data, progress)
    tell_errors(sums, whole, statistics)
    found = _alive(whole, sums, data)
    check_size(network, {name: len(basis) for name, basis in found.items()}, data)
    return found


def latent_sums(
    network: Network, whole: Mapping[str, Dictionary], data: Data, progress: Progress
) -> dict[str, Tensor]:
    """By node layer, sums over positions: `squares` of latents, that of the `error`, and `count`.

    Args:
        network: with the latents that bases carry, if they do.
        whole: dictionaries of some of its node layers.
        data: what is added up over.
        progress: told of the pass.
    """
    cast = {name: basis.to(data.device, data.dtype) for name, basis in whole.items()}

    def measure(batch: Batch) -> Sums:
        sums: dict[str, Tensor] = {}
        activations = network.activations(batch.inputs)
        for layer, x in zip(network.node_layers, activations, strict=True):
            if layer.name not in cast:
                continue
            basis, rows = cast[layer.name], x.flatten(0, 1)
            squares = rows.new_zeros(len(basis) - basis.always, dtype=torch.float64)
            error = squares.new_zeros(())
            for part in chunks(len(rows), len(basis), rows):
                z = basis.latents(rows[part])
                squares += z[:, basis.always :].double().square().sum(0)
                error += basis.missed(rows[part], z).double().square().sum()
            sums[f"{layer.name} squares"] = squares
            sums[f"{layer.name} error"] = error
            sums[f"{layer.name} count"] = torch.tensor(float(len(rows)))
        return sums

    return accumulate(data, measure, stage="latents", progress=progress)


def tell_errors(
    sums: Mapping[str, Tensor],
    whole: Mapping[str, Dictionary],
    statistics: Mapping[str, Statistics],
) -> None:
    """Say where a dictionary explains less than the mean does; `sums` are of `latent_sums`."""
    for name, basis in whole.items():
        error = float(sums[f"{name} error"]) / float(sums[f"{name} count"])
        variance = _variance_explained(basis, statistics[name])
        if error > variance:
            log.warning(
                "The dictionary at %s explains less than the mean does (its error is %.3g times "
                "the variance): it may be of another model, want other norms, or be learned for "
                "what the next node layer notices.",
                name,
                error / max(variance, torch.finfo(torch.float64).tiny),
            )


def _alive(
    whole: Mapping[str, Dictionary], sums: Mapping[str, Tensor], data: Data
) -> dict[str, Dictionary]:
    found = {}
    for name, basis in whole.items():
        squares = (sums[f"{name} squares"] / sums[f"{name} count"]).cpu()
        found[name] = _sorted(basis, squares).to(torch.device(data.device))
        if len(found[name]) == basis.always:
            raise UsageError(
                f"No latent of the dictionary at {name} is active on this data: it is of another "
                "model, or of another place."
            )
    return found


def _sorted(basis: Dictionary, squares: Float[Tensor, " k"]) -> Dictionary:
    """By the mean square of what latents write, without those that write nothing."""
    written = squares * basis.decoder[basis.always :].square().sum(1)
    order = written.argsort(descending=True, stable=True)
    order = order[squares[order] > 0]
    return basis.of(order, written[order])


def _variance_explained(basis: Dictionary, statistics: Statistics) -> float:
    """Of what latents are to explain: it is linear in the activation."""
    covariance = statistics.covariance
    aim = basis.aim(torch.eye(len(covariance)).to(covariance))
    return float(((covariance @ aim) * aim).sum())


def mean_squares(statistics: Statistics) -> Float[Tensor, " d"]:
    """Of every coordinate of a node layer."""
    return statistics.covariance.diagonal() + statistics.mean.square()
