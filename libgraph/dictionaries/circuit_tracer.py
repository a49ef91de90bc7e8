"""Transcoders of circuit-tracer: `layer_N.safetensors` of every block beside `config.yaml`.

Latents are those above zero, or above thresholds, of h Wᵀ + b. Cross-layer ones are in other files
(`libgraph.dictionaries.cross_layer`) beside the same configuration.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from libgraph.dictionaries import cross_layer
from libgraph.dictionaries.configuration import MOST_BYTES
from libgraph.dictionaries.weights import DictionaryWeights, Tensors, threshold_gate, transcoder_of
from libgraph.errors import UsageError
from libgraph.files.reading import reading
from libgraph.files.weights import read_weights

CONFIGURATION = "config.yaml"

LAYER = re.compile(r"layer_(\d+)\.safetensors")

NAMES = {
    "encoder": "~W_enc",
    "bias": "b_enc",
    "decoder": "W_dec",
    "shift": "b_dec",
    "skip": "~W_skip",
    "threshold": "activation_function.threshold",
}


def holds(folder: Path) -> bool:
    """Whether transcoders of circuit-tracer are in this folder."""
    return (folder / CONFIGURATION).is_file() and (
        cross_layer.holds(folder) or any(LAYER.fullmatch(path.name) for path in folder.iterdir())
    )


def read(folder: Path) -> list[DictionaryWeights]:
    """The transcoders of a folder, by block.

    Raises:
        UsageError: naming what is missing, of another shape, or not known.
    """
    configuration = _configuration(folder / CONFIGURATION)
    places = []
    for name in ("feature_input_hook", "feature_output_hook"):
        if name not in configuration:
            raise UsageError(f"'{folder / CONFIGURATION}' does not say its {name}.")
        places.append(configuration[name])
    crosses = cross_layer.KIND in configuration.get("model_kind", "")
    if crosses or cross_layer.holds(folder):
        return [*cross_layer.read(folder, *places)]
    found: list[DictionaryWeights] = []
    for path in sorted(folder.iterdir(), key=_number):
        if _number(path) < 0:
            continue
        tensors = Tensors(path, read_weights(path), NAMES)
        latents = tensors.matrix("encoder").shape[1]
        gate = threshold_gate(tensors, latents)
        hook, output = (f"blocks.{_number(path)}.{place}" for place in places)
        found.append(transcoder_of(tensors, hook, output, gate))
    return found


def _number(path: Path) -> int:
    """Of the block; -1 of other files."""
    match = LAYER.fullmatch(path.name)
    return int(match[1]) if match else -1


def _configuration(path: Path) -> dict[str, str]:
    with reading(path, UsageError, "The configuration "):
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"'{path}' is too large for a configuration of a dictionary.")
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"'{path}' is no YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(found, dict):
        raise UsageError(f"'{path}' is no configuration: names with values are needed.")
    return {str(name): value for name, value in found.items() if isinstance(value, str)}
