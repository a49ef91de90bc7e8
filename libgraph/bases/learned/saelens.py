"""Learned dictionaries in the layout of SAELens, so that other tools read them, and libgraph too.

Activations of the node layer without its constant and other isolated coordinates go in and out.
"""

from __future__ import annotations

from pathlib import Path

import torch

from libgraph.dictionaries.saelens import write
from libgraph.dictionaries.weights import DictionaryWeights
from libgraph.errors import UsageError
from libgraph.network.dictionary import Dictionary, TopK
from libgraph.network.network import NodeLayer


def write_saelens(folder: Path, layer: NodeLayer, dictionary: Dictionary) -> Path:
    """Write the dictionary of a node layer into a folder of its own.

    Args:
        folder: of all dictionaries.
        layer: whose name becomes that of the folder, and the hook's.
        dictionary: of its activations.

    Returns:
        Where it is.
    """
    rest = list(layer.free_coordinates)
    first = dictionary.isolated
    place = folder / _file_name(layer.name)
    encoder, decoder = dictionary.encoder, dictionary.decoder
    bias, shift = encoder.new_zeros(len(dictionary) - first), encoder.new_zeros(len(rest))
    if layer.constant:
        bias, shift = encoder[-1, first:], decoder[0, rest]
    into, out = encoder[rest][:, first:], decoder[first:][:, rest]
    gate = dictionary.gate
    if isinstance(gate, TopK) and gate.others is not None:
        # Latents that are no features go on competing, and write nothing.
        into = torch.cat([into, gate.others[rest]], dim=1)
        out = torch.cat([out, out.new_zeros(gate.others.shape[1], len(rest))])
        more = gate.others[-1] if layer.constant else gate.others.new_zeros(len(out) - len(bias))
        bias, gate = torch.cat([bias, more]), TopK(gate.k)
    weights = DictionaryWeights(place, layer.name, into, bias, out, shift, gate)
    write(place, weights)
    return place


def _file_name(name: str) -> str:
    """The node layer's name, if it can be a folder's."""
    plain = name.replace("/", "_").replace("\\", "_")
    if plain in ("", ".", ".."):
        raise UsageError(f"Node layer '{name}' has no name that a folder could have.")
    return plain
