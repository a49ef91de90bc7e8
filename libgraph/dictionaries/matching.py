"""Which node layer each dictionary belongs to, and what it is in that node layer's coordinates.

A node layer is known by its own name and by what other tools call the place (`NodeLayer.hooks`),
that of a transcoder by what they call the places that it reads and writes at (`Passage`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.dictionaries.weights import DictionaryWeights, TranscoderWeights
from libgraph.errors import UsageError
from libgraph.network.dictionary import Dictionary
from libgraph.network.network import NodeLayer
from libgraph.network.size import Normalised, Size
from libgraph.network.transcoder import Transcoder

NEAR = 4
"""Names of hooks that are told where one is not known."""


WITH_PASSAGES = "-o cuts=mlps"
"""What gives a language model node layers for transcoders."""


def matched(
    dictionaries: Sequence[DictionaryWeights], layers: Sequence[NodeLayer]
) -> dict[str, DictionaryWeights]:
    """Dictionaries by the node layer that they belong to.

    Dictionaries of other places in the model, which this analysis has no node layer at, are left;
    but not all of them.

    Raises:
        UsageError: if none is at a node layer, two are at one, a width does not fit, or a file does
            not say where it reads and several node layers have its width.
    """
    places = _places(layers)
    found: dict[str, DictionaryWeights] = {}
    strangers = []
    for dictionary in dictionaries:
        if isinstance(dictionary, TranscoderWeights):
            layer = passage_of(dictionary, layers)
        elif dictionary.hook:
            layer = places.get(dictionary.hook)
        else:
            layer = _only(dictionary, layers)
        if layer is None:
            strangers.append(dictionary)
            continue
        if not isinstance(dictionary, TranscoderWeights):
            _check_width(dictionary, dictionary.size, layer, len(layer.free_coordinates))
        if layer.name in found:
            raise UsageError(
                f"'{found[layer.name].path}' and '{dictionary.path}' are both of {layer.name}: "
                "give a folder with one of them."
            )
        found[layer.name] = dictionary
    if not found:
        first = strangers[0]
        if isinstance(first, TranscoderWeights):
            places = {name: layer for layer in layers for name in _readers(layer)}
            if not places:
                raise UsageError(
                    f"'{first.path}' is a transcoder, whose latents are at a node layer with an "
                    "MLP's input and output, and this analysis has none: language models have "
                    f"them with {WITH_PASSAGES}."
                )
        raise UsageError(_nowhere(first, places))
    return found


def _check_width(
    dictionary: DictionaryWeights, stored: int, layer: NodeLayer, size: int, does: str = "reads"
) -> None:
    """Raise a `UsageError` unless a dictionary has as many coordinates as the place."""
    if stored != size:
        place = layer.name if does == "writes" else dictionary.hook or layer.name
        raise UsageError(
            f"'{dictionary.path}' {does} {stored} coordinates at {place}, where this model has "
            f"{size}: it is of another model."
        )


def _readers(layer: NodeLayer) -> Mapping[str, Tensor]:
    return {} if layer.passage is None else layer.passage.readers


def passage_of(weights: TranscoderWeights, layers: Sequence[NodeLayer]) -> NodeLayer | None:
    """The node layer with what a transcoder reads and imitates; None where there is none.

    Raises:
        UsageError: if what it imitates writes elsewhere than the part that it reads with, a width
            does not fit, or its file does not say where it reads and several node layers would do.
    """
    layers = [layer for layer in layers if layer.passage is not None]
    fitting = [layer for layer in layers if not weights.hook or weights.hook in _readers(layer)]
    if len(fitting) > 1:
        raise UsageError(
            f"'{weights.path}' does not say where it reads, and node layers of MLPs are "
            f"{', '.join(layer.name for layer in fitting)}: name it in its configuration."
        )
    if not fitting:
        return None
    (layer,) = fitting
    passage = layer.passage
    if passage is None:
        raise AssertionError("only those with a passage are left")
    if weights.output and weights.output not in passage.writers:
        raise UsageError(
            f"'{weights.path}' reads at {weights.hook or layer.name} and writes at "
            f"{weights.output}, which is not what the MLP there puts out "
            f"({', '.join(passage.writers)}): transcoders of one MLP are read."
        )
    reader = reader_of(weights, layer)
    _check_width(weights, weights.size, layer, reader.shape[1])
    _check_width(weights, weights.outputs, layer, passage.width, "writes")
    return layer


def reader_of(weights: TranscoderWeights, layer: NodeLayer) -> Float[Tensor, "d n"]:
    """What finds a transcoder's input in the activations of its node layer.

    Args:
        weights: that say where they read, or nothing: then what the part itself reads.
        layer: with a passage.
    """
    readers = _readers(layer)
    return readers[weights.hook] if weights.hook else next(iter(readers.values()))


def _places(layers: Sequence[NodeLayer]) -> dict[str, NodeLayer]:
    """Rotated node layers by all their names."""
    return {name: layer for layer in layers if layer.rotated for name in (layer.name, *layer.hooks)}


def _only(dictionary: DictionaryWeights, layers: Sequence[NodeLayer]) -> NodeLayer:
    """The node layer of its width, where a dictionary does not say where it reads."""
    fitting = [
        layer
        for layer in layers
        if layer.rotated and len(layer.free_coordinates) == dictionary.size
    ]
    if len(fitting) != 1:
        names = ", ".join(layer.name for layer in fitting) or "none"
        raise UsageError(
            f"'{dictionary.path}' does not say where it reads, and node layers with "
            f"{dictionary.size} coordinates are {names}: name it in its configuration."
        )
    return fitting[0]


def _nowhere(dictionary: DictionaryWeights, places: Mapping[str, NodeLayer]) -> str:
    near = get_close_matches(dictionary.hook, places, n=NEAR, cutoff=0.0)
    return (
        f"'{dictionary.path}' reads at {dictionary.hook}, which is no node layer of this analysis: "
        f"near are {', '.join(near)}."
    )


def dictionary_of_layer(
    layer: NodeLayer, weights: DictionaryWeights, isolated: Float[Tensor, " i"]
) -> Dictionary:
    """The dictionary as a basis of its node layer; importance is 1 for every latent.

    The constant, whose decoder brings c, and other isolated coordinates come first, then the error.
    Of activations that are divided by their size the mean, if it is taken out, and the size stand
    before the error; the size brings c, and latents are as large as it.

    Args:
        layer: with a constant coordinate.
        weights: that fit it.
        isolated: mean squares of its isolated coordinates.

    Raises:
        UsageError: if the node layer has no constant, which biases need.
    """
    _check_constant(layer, weights)
    if isinstance(weights, TranscoderWeights):
        return _transcoder(layer, weights, isolated)
    rest, alone = list(layer.free_coordinates), list(layer.isolated_coordinates)
    normalised = weights.normalised
    centred = normalised is not None and normalised.centred
    first = len(alone) + 1 + centred + (normalised is not None)
    encoder = torch.zeros(layer.size, first + weights.latents, dtype=torch.float64)
    decoder = torch.zeros(first + weights.latents, layer.size, dtype=torch.float64)
    encoder[alone, range(len(alone))] = 1
    decoder[range(len(alone)), alone] = 1
    constant = alone[0]
    encoder[rest, first:] = weights.encoder
    decoder[first:, rest] = weights.decoder
    size = None
    if normalised is None:
        encoder[constant, first:] = weights.bias
        decoder[0, rest] = weights.shift
    else:
        reads = torch.zeros(first + weights.latents, dtype=torch.float64)
        reads[first - 2], reads[first:] = 1, weights.bias
        decoder[first - 2, rest] = weights.shift
        stream = torch.zeros(layer.size, len(rest), dtype=torch.float64)
        stream[rest] = normalised.stream(len(rest))
        size = Size(stream, normalised.epsilon, reads)
    if centred:
        encoder[rest, first:] -= weights.encoder.mean(0)
        encoder[rest, len(alone)] = 1 / len(rest)
        decoder[len(alone), rest] = 1
    importance = torch.ones(first + weights.latents, dtype=torch.float64)
    importance[: len(alone)] = isolated.double().cpu()
    importance[0] = 1
    return Dictionary(encoder, decoder, importance, first, gate=weights.gate, size=size)


def _check_constant(layer: NodeLayer, weights: DictionaryWeights) -> None:
    if not layer.constant:
        raise UsageError(
            f"Node layer '{layer.name}' has no constant coordinate, which the biases of "
            f"'{weights.path}' need."
        )


def _transcoder(
    layer: NodeLayer, weights: TranscoderWeights, isolated: Float[Tensor, " i"]
) -> Transcoder:
    """A transcoder at the node layer of its part; what passes by has its coordinates as features.

    What passes by is s, the stream and what the skip connection adds to it.
    """
    passage, alone = layer.passage, list(layer.isolated_coordinates)
    if passage is None:
        raise AssertionError("a transcoder is matched with a passage")
    reader = reader_of(weights, layer).double().cpu()
    first, width = len(alone) + 1, passage.width
    constant, there, by = alone[0], slice(*passage.written), slice(*passage.passing)
    stream = torch.eye(layer.size, dtype=torch.float64)[:, by]
    if weights.skip is not None:
        stream = stream + reader @ weights.skip
    features = first + width + weights.latents
    encoder = torch.zeros(layer.size, features, dtype=torch.float64)
    decoder = torch.zeros(features, layer.size, dtype=torch.float64)
    encoder[alone, range(len(alone))] = 1
    decoder[range(len(alone)), alone] = 1
    encoder[:, first : first + width] = stream
    normalised = _normalised(weights, reader, first + width)
    if normalised is None:
        encoder[:, first + width :] = reader @ weights.encoder.double()
    encoder[constant, first + width :] += weights.bias
    decoder[first : first + width, there] = torch.eye(width, dtype=torch.float64)
    decoder[first + width :, there] = weights.decoder
    decoder[0, there] = weights.shift
    base = stream.clone()
    base[constant] += weights.shift
    importance = torch.ones(features, dtype=torch.float64)
    importance[: len(alone)] = isolated.double().cpu()
    importance[0] = 1
    return Transcoder(
        encoder,
        decoder,
        importance,
        first,
        gate=weights.gate,
        carried=width,
        base=base,
        written=there,
        passing=by,
        numbers=torch.arange(weights.latents),
        normalised=normalised,
    )


def _normalised(
    weights: TranscoderWeights, reader: Float[Tensor, "d h"], before: int
) -> Normalised | None:
    """What latents read, with so many features before them, where it is divided by its size."""
    if weights.normalised is None:
        return None
    encoder = weights.encoder.double()
    return Normalised(
        reader @ weights.normalised.without_mean(weights.size),
        reader @ weights.normalised.stream(weights.size),
        weights.normalised.epsilon,
        torch.cat([encoder.new_zeros(weights.size, before), encoder], dim=1),
    )
