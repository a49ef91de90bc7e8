"""Transcoders of circuit-tracer: files of every block beside, or named by, `config.yaml`.

Latents are those above zero, above thresholds, or the k largest, of h Wᵀ + b. Files are
`layer_N.safetensors`, or what `transcoders` lists, block after block: those, or Gemma Scope's.
Cross-layer ones are in other files (`libgraph.dictionaries.cross_layer`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from torch import Tensor

from libgraph.dictionaries import cross_layer
from libgraph.dictionaries.configuration import MOST_BYTES
from libgraph.dictionaries.gemma_scope import CIRCUIT_NAMES as GEMMA_NAMES
from libgraph.dictionaries.gemma_scope_2 import NAMES as GEMMA_2_NAMES
from libgraph.dictionaries.gemma_scope_2 import is_gemma_scope_2
from libgraph.dictionaries.weights import (
    DictionaryWeights,
    Tensors,
    check_all_or_none,
    threshold_gate,
    transcoder_of,
)
from libgraph.errors import UsageError
from libgraph.files.archives import read_arrays
from libgraph.files.reading import reading
from libgraph.files.weights import read_weights
from libgraph.network.dictionary import Gate, TopK

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

OPTIONAL = {"skip": "skip connection", "threshold": "thresholds"}
"""What all files of a folder have, or none."""

KINDS = ("transcoder_set", cross_layer.KIND)

ACTIVATIONS = ("relu", "topk", "jump_relu")


def holds(folder: Path) -> bool:
    """Whether transcoders of circuit-tracer are in this folder."""
    if not (folder / CONFIGURATION).is_file():
        return False
    if cross_layer.holds(folder) or any(LAYER.fullmatch(path.name) for path in folder.iterdir()):
        return True
    # Its files are elsewhere, if it is one of these at all.
    return "feature_input_hook" in _configuration(folder / CONFIGURATION)


def takes_folders_within(folder: Path) -> bool:
    """Whether folders within this one are of it alone, as its configuration lists their files."""
    if not holds(folder):
        return False
    return bool({"transcoders", "subfolder"} & {*_configuration(folder / CONFIGURATION)})


def read(folder: Path) -> list[DictionaryWeights]:
    """The transcoders of a folder, by block.

    Raises:
        UsageError: naming what is missing, of another shape, or not known.
    """
    configuration = _configuration(folder / CONFIGURATION)
    where = f"'{folder / CONFIGURATION}'"
    places = []
    for name in ("feature_input_hook", "feature_output_hook"):
        if not isinstance(configuration.get(name), str):
            raise UsageError(f"{where} does not say its {name}.")
        places.append(str(configuration[name]))
    kind = _text(configuration, "model_kind", where) or KINDS[0]
    if kind not in KINDS:
        raise UsageError(f"{where} has model_kind={kind}: known are {', '.join(KINDS)}.")
    activation = _text(configuration, "activation", where)
    if activation not in (None, *ACTIVATIONS):
        known = ", ".join(ACTIVATIONS)
        raise UsageError(f"{where} has activation={activation}: known are {known}.")
    with reading(folder / CONFIGURATION, UsageError, "What is named in "):
        listed = _listed(folder, configuration, where)
        inside = folder if listed else _subfolder(folder, configuration, where)
    if kind == cross_layer.KIND or cross_layer.holds(inside):
        if activation == "topk":
            raise UsageError(
                f"{where} has activation=topk: of a cross-layer transcoder relu and jump_relu are "
                "read."
            )
        return [*cross_layer.read(inside, places[0], places[1], listed)]
    if not listed:
        listed = _found(inside)
    if not listed:
        raise UsageError(f"{where} is without weights: layer_N.safetensors are needed beside it.")
    opened = {block: _tensors(path) for block, path in sorted(listed.items())}
    check_all_or_none(opened, OPTIONAL)
    found: list[DictionaryWeights] = []
    for block, tensors in opened.items():
        gate = _gate(where, tensors, activation, configuration.get("k"))
        hook, output = (f"blocks.{block}.{place}" for place in places)
        found.append(transcoder_of(tensors, hook, output, gate))
    return found


def _gate(where: str, tensors: Tensors, activation: object, k: object) -> Gate:
    if activation == "topk":
        if not isinstance(k, int) or isinstance(k, bool):
            raise UsageError(f"{where} has activation=topk and does not say how many k are on.")
        if k.bit_length() > 63:
            raise UsageError(f"{where} has a k that is larger than any number of latents.")
        if "threshold" in tensors:
            raise UsageError(f"{where} has activation=topk, and '{tensors.path}' has thresholds.")
        return TopK(k)
    if activation == "relu" and "threshold" in tensors:
        raise UsageError(f"{where} has activation=relu, and '{tensors.path}' has thresholds.")
    if activation == "jump_relu":
        # Says that they are missing, if they are.
        tensors["threshold"]
    return threshold_gate(tensors, tensors.matrix("encoder").shape[1])


def _tensors(path: Path) -> Tensors:
    """Of one block, in whichever layout."""
    if path.suffix == ".npz":
        return Tensors(path, read_arrays(path), GEMMA_NAMES).of_these_alone()
    weights: Mapping[str, Tensor] = read_weights(path)
    names = GEMMA_2_NAMES if is_gemma_scope_2(weights) else NAMES
    return Tensors(path, weights, names).of_these_alone()


def _listed(folder: Path, configuration: Mapping[str, object], where: str) -> dict[int, Path]:
    """Files that the configuration lists, by block; none where it lists none.

    Those of a repository are looked for where they are in it, under the folder.
    """
    entries = configuration.get("transcoders")
    if entries is None:
        return {}
    if not isinstance(entries, list) or not all(isinstance(each, str) for each in entries):
        raise UsageError(f"{where}: transcoders should be a list of files, one a block.")
    return {block: _local(folder, str(entry), where) for block, entry in enumerate(entries)}


def _local(folder: Path, entry: str, where: str) -> Path:
    try:
        parts = urlsplit(entry)
    except ValueError as error:
        raise UsageError(f"{where} lists '{entry}', which is no file: {error}.") from error
    name = parts.path.lstrip("/")
    places = [folder / entry]
    if parts.scheme == "hf":
        repository, _, inside = name.partition("/")
        # With or without the names of the repository and of who it is from.
        places = [
            folder / inside,
            folder / repository / inside,
            folder / parts.netloc / repository / inside,
        ]
    places = [place for place in places if _is_within(place, folder)]
    for place in places:
        if place.is_file():
            return place
    tried = " or ".join(f"at '{place.relative_to(folder)}'" for place in places) or "there"
    raise UsageError(f"{where} lists '{entry}', which is not in its folder: put it {tried}.")


def _subfolder(folder: Path, configuration: Mapping[str, object], where: str) -> Path:
    """Where files are that are not listed: the folder itself, or one within."""
    name = _text(configuration, "subfolder", where) or ""
    inside = folder / name
    if not _is_within(inside, folder) or not inside.is_dir():
        raise UsageError(f"{where} has subfolder={name}, which is not in its folder: put it there.")
    return inside


def _is_within(place: Path, folder: Path) -> bool:
    """Whether a path leads nowhere else; that of the folder may."""
    return place.is_relative_to(folder) and ".." not in place.relative_to(folder).parts


def _text(configuration: Mapping[str, object], name: str, where: str) -> str | None:
    """A value that is a text, or not there: others may say themselves a thousand times over."""
    value = configuration.get(name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{where}: {name} should be a text.")
    return value


def _found(folder: Path) -> dict[int, Path]:
    """Files of a folder that are called by their blocks."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        number = _number(path)
        if number in found:
            raise UsageError(
                f"'{found[number]}' and '{path.name}' are both of block {number}: keep one."
            )
        if number >= 0:
            found[number] = path
    return found


def _number(path: Path) -> int:
    """Of the block; -1 of other files."""
    match = LAYER.fullmatch(path.name)
    return int(match[1]) if match else -1


def _configuration(path: Path) -> dict[str, object]:
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
    return {str(name): value for name, value in found.items()}
