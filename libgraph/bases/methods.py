"""The registry of bases, and files of directions.

A new basis is a module beside this one, whose `METHOD` says what it needs and what it depends on,
and an entry in `MODULES`. Modules are imported when a basis is made: names alone need no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from libgraph.errors import UsageError

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


class _Methods(Mapping[str, "BasisMethod"]):
    """The methods of `MODULES`, each imported when it is asked for."""

    def __getitem__(self, name: str) -> BasisMethod:
        method: BasisMethod = import_module(MODULES[name]).METHOD
        return method

    def __contains__(self, name: object) -> bool:
        return name in MODULES

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


METHODS: Mapping[str, BasisMethod] = _Methods()
"""Every basis that needs no file, by name."""


def basis_name(chosen: str) -> str:
    """What a basis is called: one of `METHODS`, or the name of a dictionary's file.

    Raises:
        UsageError: if it is neither.
    """
    path = Path(chosen)
    if path.suffix == FILE and path.stem not in METHODS:
        return path.stem
    if chosen not in METHODS:
        raise UsageError(
            f"Unknown basis '{chosen}': use {', '.join(METHODS)}, or a file of directions, "
            f"NAME{FILE}."
        )
    return chosen


def basis_method(chosen: str) -> BasisMethod:
    """How a basis is made: one of `METHODS`, or from the directions of a file.

    Raises:
        UsageError: if there is no such basis.
        BackendError: if its file cannot be read.
    """
    if basis_name(chosen) in METHODS:
        return METHODS[chosen]
    from libgraph.bases.dictionary import dictionary
    from libgraph.bases.method import BasisMethod

    path = Path(chosen)
    make = dictionary(path)
    # The name says little of a file, which may change.
    return BasisMethod(make, digest=hashlib.sha256(path.read_bytes()).hexdigest())
