"""Dictionaries in the layout of SAELens, so that other tools read them.

A folder for each node layer, with `cfg.json` and `sae_weights.safetensors`: activations of the
node layer without its constant and other isolated coordinates go in, and come out.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from libgraph.errors import UsageError
from libgraph.files.atomic import write_json
from libgraph.files.tensors import write_tensors
from libgraph.network.dictionary import Dictionary
from libgraph.network.network import NodeLayer


def write_saelens(folder: Path, layer: NodeLayer, dictionary: Dictionary, active: int) -> Path:
    """Write a TopK dictionary of a node layer.

    Args:
        folder: of all dictionaries.
        layer: whose name becomes that of the folder, and the hook's.
        dictionary: of its activations.
        active: latents at once.

    Returns:
        Where it is.
    """
    isolated = set(layer.isolated_coordinates)
    rest = [i for i in range(layer.size) if i not in isolated]
    first = dictionary.isolated
    tensors: dict[str, Tensor] = {
        "W_enc": dictionary.encoder[rest][:, first:].float(),
        "W_dec": dictionary.decoder[first:][:, rest].float(),
    }
    for name, size in (("b_enc", len(dictionary) - first), ("b_dec", len(rest))):
        tensors[name] = dictionary.encoder.new_zeros(size).float()
    if layer.constant:
        tensors["b_enc"] = dictionary.encoder[-1, first:].float()
        tensors["b_dec"] = dictionary.decoder[0, rest].float()
    place = folder / _file_name(layer.name)
    write_tensors(place / "sae_weights.safetensors", tensors)
    write_json(
        place / "cfg.json",
        {
            "architecture": "topk",
            "d_in": len(rest),
            "d_sae": len(dictionary) - first,
            "k": active,
            "dtype": "float32",
            "device": "cpu",
            # b_enc has what subtracting b_dec beforehand would do.
            "apply_b_dec_to_input": False,
            "normalize_activations": "none",
            "reshape_activations": "none",
            "rescale_acts_by_decoder_norm": False,
            "metadata": {"hook_name": layer.name},
        },
    )
    return place


def _file_name(name: str) -> str:
    """The node layer's name, if it can be a folder's."""
    plain = name.replace("/", "_").replace("\\", "_")
    if plain in ("", ".", ".."):
        raise UsageError(f"Node layer '{name}' has no name that a folder could have.")
    return plain
