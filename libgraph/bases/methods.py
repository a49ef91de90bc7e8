"""The registry of bases: every method by its name, and files of directions.

A new basis is a module beside this one, a name in `names` and an entry in `METHODS`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from libgraph.bases.dictionary import dictionary
from libgraph.bases.global_lib import global_lib
from libgraph.bases.lib import lib
from libgraph.bases.method import BasisMethod
from libgraph.bases.names import basis_name
from libgraph.bases.neuron import neuron
from libgraph.bases.pca import pca
from libgraph.bases.random_basis import random
from libgraph.bases.sparse.options import DEFAULTS, SparseOptions
from libgraph.bases.sparse.sparse import sparse
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
