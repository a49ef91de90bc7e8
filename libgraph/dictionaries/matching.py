"""Which node layer each dictionary belongs to, and what it is in that node layer's coordinates.

A node layer is known by its own name and by what other tools call the place (`NodeLayer.hooks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.dictionaries.weights import DictionaryWeights
from libgraph.errors import UsageError
from libgraph.network.dictionary import Dictionary
from libgraph.network.network import NodeLayer

NEAR = 4
"""Names of hooks that are told where one is not known."""


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
        layer = places.get(dictionary.hook) if dictionary.hook else _only(dictionary, layers)
        if layer is None:
            strangers.append(dictionary)
            continue
        size = len(layer.free_coordinates)
        if dictionary.size != size:
            raise UsageError(
                f"'{dictionary.path}' reads {dictionary.size} coordinates at "
                f"{dictionary.hook or layer.name}, where this model has {size}: it is of another "
                "model."
            )
        if layer.name in found:
            raise UsageError(
                f"'{found[layer.name].path}' and '{dictionary.path}' are both of {layer.name}: "
                "give a folder with one of them."
            )
        found[layer.name] = dictionary
    if not found:
        raise UsageError(_nowhere(strangers[0], places))
    return found


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

    Args:
        layer: with a constant coordinate.
        weights: that fit it.
        isolated: mean squares of its isolated coordinates.

    Raises:
        UsageError: if the node layer has no constant, which biases need.
    """
    if not layer.constant:
        raise UsageError(
            f"Node layer '{layer.name}' has no constant coordinate, which the biases of "
            f"'{weights.path}' need."
        )
    rest, alone = list(layer.free_coordinates), list(layer.isolated_coordinates)
    first = len(alone) + 1
    encoder = torch.zeros(layer.size, first + weights.latents, dtype=torch.float64)
    decoder = torch.zeros(first + weights.latents, layer.size, dtype=torch.float64)
    encoder[alone, range(len(alone))] = 1
    decoder[range(len(alone)), alone] = 1
    constant = alone[0]
    encoder[rest, first:] = weights.encoder
    encoder[constant, first:] = weights.bias
    decoder[first:, rest] = weights.decoder
    decoder[0, rest] = weights.shift
    importance = torch.cat(
        [isolated.double().cpu(), torch.ones(1 + weights.latents, dtype=torch.float64)]
    )
    importance[0] = 1
    return Dictionary(encoder, decoder, importance, first, gate=weights.gate)
