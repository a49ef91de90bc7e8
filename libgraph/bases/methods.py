"""The registry of bases, and files of directions.

A new basis is a module beside this one and an entry in `MODULES`. Modules are imported when a basis
is made: names alone need no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from libgraph.bases.sparse.options import DEFAULTS, SparseOptions
from libgraph.errors import UsageError

if TYPE_CHECKING:
    from libgraph.bases.method import BasisMethod
    from libgraph.network.basis import Bases

MODULES = {
    "neuron": "libgraph.bases.neuron:neuron",
    "pca": "libgraph.bases.pca:pca",
    "random": "libgraph.bases.random_basis:random",
    "global": "libgraph.bases.global_lib:global_lib",
    "lib": "libgraph.bases.lib:lib",
    "sparse": "libgraph.bases.sparse.sparse:sparse",
}
"""Where each basis that needs no file is made, by its name."""


FILE = ".safetensors"


class _Methods(Mapping[str, "BasisMethod"]):
    """The methods of `MODULES`, each imported when it is asked for."""

    def __getitem__(self, name: str) -> BasisMethod:
        method: BasisMethod = resolve_name(MODULES[name])
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


def basis_method(
    chosen: str, options: SparseOptions = DEFAULTS, start: Bases | None = None
) -> BasisMethod:
    """How a basis is made; options and LIB, if it is known, are for the sparse one.

    Raises:
        UsageError: if there is no such basis.
        BackendError: if its file cannot be read.
    """
    from libgraph.bases.dictionary import dictionary
    from libgraph.bases.sparse.sparse import sparse

    if chosen == "sparse":
        return partial(sparse, options=options, start=start)
    return METHODS[chosen] if basis_name(chosen) in METHODS else dictionary(Path(chosen))
