"""Readers of dictionaries, and the folders that they find them in.

A reader is a module or an object with `holds(folder)` and `read(folder)`. Packages add some under
the entry-point group `libgraph.dictionaries`; those are asked only about folders that no reader of
this project knows.
"""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, cast

from libgraph.dictionaries import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    saelens,
    sparsify,
)
from libgraph.dictionaries.weights import DictionaryWeights
from libgraph.errors import UsageError
from libgraph.files.reading import reading
from libgraph.plugins import load

GROUP = "libgraph.dictionaries"

DEPTH = 4
"""Folders within folders that are searched, as trainers nest them by layer and by size."""

MOST_FOLDERS = 10_000
"""Folders that are searched, at most."""


class Reader(Protocol):
    """Of one format."""

    def holds(self, folder: Path) -> bool:
        """Whether dictionaries in this format are in the folder itself."""

    def read(self, folder: Path) -> list[DictionaryWeights]:
        """Them."""


READERS: tuple[Reader, ...] = (
    saelens,
    sparsify,
    dictionary_learning,
    circuit_tracer,
    gemma_scope,
    gemma_scope_2,
)
"""Of formats that are read without any other package."""


def read_dictionaries(folder: Path) -> list[DictionaryWeights]:
    """All dictionaries in a folder, or in those within it, in the order of their names.

    Raises:
        UsageError: if there are none, or one cannot be read.
    """
    places = _folders(folder)
    whole = [place for place in places if circuit_tracer.takes_folders_within(place)]
    found = [
        dictionary
        for place in places
        if not any(other in place.parents for other in whole)
        for dictionary in _read(place)
    ]
    if not found:
        raise UsageError(
            f"'{folder}' holds no dictionary: known are those of SAELens "
            "(sae_weights.safetensors), sparsify (sae.safetensors), dictionary_learning (ae.pt) "
            "and circuit-tracer (layer_N.safetensors, or W_enc_N.safetensors and "
            "W_dec_N.safetensors), each with its configuration beside it, and of Gemma Scope "
            "(params.npz; params.safetensors with config.json)."
        )
    return found


def _read(folder: Path) -> list[DictionaryWeights]:
    for reader in READERS:
        if reader.holds(folder):
            return reader.read(folder)
    for entry in entry_points(group=GROUP):
        added = cast("Reader", load(entry, "reader of dictionaries", UsageError))
        if added.holds(folder):
            return added.read(folder)
    return []


def _folders(folder: Path) -> list[Path]:
    """The folder and those within it, from the outermost on; names with numbers by these.

    Raises:
        UsageError: if one cannot be listed, or there are too many to search.
    """
    found, level = [folder], [folder]
    for _ in range(DEPTH):
        inside: list[Path] = []
        for place in level:
            with reading(place, UsageError, "The folder "), os.scandir(place) as entries:
                names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
            inside += sorted((place / name for name in names), key=_by_number)
            if len(found) + len(inside) > MOST_FOLDERS:
                raise UsageError(
                    f"'{folder}' has more than {MOST_FOLDERS:,} folders in it: give the one that "
                    "dictionaries are in."
                )
        found += inside
        level = inside
    return found


def _by_number(path: Path) -> list[tuple[int, str]]:
    parts = "".join(c if c.isdigit() else f" {c} " for c in path.name).split()
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
