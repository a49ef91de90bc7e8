"""The registry of bases: every method by its name, and files of directions.

A new basis is a module beside this one and an entry in `METHODS`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from libgraph.bases.dictionary import dictionary
from libgraph.bases.global_lib import global_lib
from libgraph.bases.lib import lib
from libgraph.bases.method import BasisMethod
from libgraph.bases.neuron import neuron
from libgraph.bases.pca import pca
from libgraph.bases.random_basis import random
from libgraph.bases.sparse.options import DEFAULTS, SparseOptions
from libgraph.bases.sparse.sparse import sparse
from libgraph.errors import UsageError
from libgraph.network.basis import Bases

METHODS: dict[str, BasisMethod] = {
    "neuron": neuron,
    "pca": pca,
    "random": random,
    "global": global_lib,
    "lib": lib,
    "sparse": sparse,
}
"""Every basis that needs no file, by name."""


FILE = ".safetensors"


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
    if chosen == "sparse":
        return partial(sparse, options=options, start=start)
    return METHODS[chosen] if basis_name(chosen) in METHODS else dictionary(Path(chosen))
