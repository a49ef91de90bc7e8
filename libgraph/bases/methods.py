"""The registry of bases, and files of directions.

A new basis is a module beside this one, whose `METHOD` says what it needs and what it depends on,
and an entry in `MODULES`; those of others are `METHOD`s that their distributions name by the
entry-point group `libgraph.bases`. Modules are imported when a basis is made: names alone need no
torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from libgraph.errors import UsageError
from libgraph.plugins import distribution_of, load, only, origin

if TYPE_CHECKING:
    from libgraph.bases.method import BasisMethod

MODULES = {
    "neuron": "libgraph.bases.neuron",
    "pca": "libgraph.bases.pca",
    "random": "libgraph.bases.random_basis",
    "global": "libgraph.bases.global_lib",
    "lib": "libgraph.bases.lib",
    "sparse": "libgraph.bases.sparse.sparse",
    "dictionary": "libgraph.bases.learned.learned",
}
"""Where each basis that needs no file is made, by its name."""


FILE = ".safetensors"

ENTRY_POINTS = "libgraph.bases"
"""Group by which other distributions add bases."""


class _Methods(Mapping[str, "BasisMethod"]):
    """The methods of `MODULES`, then those of plug-ins, each imported when it is asked for."""

    def __getitem__(self, name: str) -> BasisMethod:
        if name in MODULES:
            method: BasisMethod = import_module(MODULES[name]).METHOD
            return method
        entry = only(name, _plugged(), "bases", UsageError)
        if entry is None:
            raise KeyError(name)
        return _loaded(entry)

    def __contains__(self, name: object) -> bool:
        return name in MODULES or any(entry.name == name for entry in _plugged())

    def __iter__(self) -> Iterator[str]:
        yield from MODULES
        yield from sorted({entry.name for entry in _plugged()} - MODULES.keys())

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _plugged() -> Iterable[EntryPoint]:
    """Bases of other distributions."""
    return entry_points(group=ENTRY_POINTS)


def _loaded(entry: EntryPoint) -> BasisMethod:
    from libgraph.bases.method import BasisMethod

    method = load(entry, "basis", UsageError)
    if not isinstance(method, BasisMethod):
        raise UsageError(
            f"The basis '{entry.name}' is {method!r}, not a BasisMethod of libgraph.bases.method. "
            f"{origin(entry)}"
        )
    if method.digest:
        return method
    # What is computed changes with its code: that of another version is made again.
    version = None if entry.dist is None else entry.dist.version
    return replace(method, digest=f"{distribution_of(entry)} {version}")


METHODS: Mapping[str, BasisMethod] = _Methods()
"""Every basis that needs no file, by name: ours, then those of plug-ins."""


def leftovers(chosen: Iterable[str]) -> list[str]:
    """Patterns of the files in which our methods, or one of these, keep work that is half done."""
    names = dict.fromkeys([*MODULES, *(name for name in chosen if name in METHODS)])
    return [leaves for name in names if (leaves := METHODS[name].leaves)]


def basis_name(chosen: str) -> str:
    """What a basis is called: one of `METHODS`, or the name of a file or folder of dictionaries.

    Raises:
        UsageError: if it is neither.
    """
    path = Path(chosen)
    if chosen in METHODS:
        return chosen
    if path.suffix == FILE and path.stem not in METHODS:
        return path.stem
    name = path.resolve().name
    if os.path.isdir(path) and name and name not in METHODS:
        return name
    if os.path.isdir(path) and name:
        raise UsageError(f"The folder '{chosen}' is called as a basis is, {name}: rename it.")
    raise UsageError(
        f"Unknown basis '{chosen}': use {', '.join(METHODS)}, a file of directions, "
        f"NAME{FILE}, or a folder of dictionaries."
    )


def basis_method(chosen: str) -> BasisMethod:
    """How a basis is made: one of `METHODS`, or from the directions or dictionaries of a path.

    Raises:
        UsageError: if there is no such basis, or a dictionary cannot be read.
        BackendError: if a file of weights cannot be read.
    """
    if basis_name(chosen) in METHODS:
        return METHODS[chosen]
    path = Path(chosen)
    if os.path.isdir(path):
        from libgraph.bases.dictionaries import method_of_folder

        return method_of_folder(path)
    from libgraph.bases.directions import method_of_file

    return method_of_file(path)


def digest_of(paths: Iterable[Path]) -> str:
    """SHA-256 of the contents of files: their names say little of them, and they may change."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
