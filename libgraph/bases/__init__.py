"""Bases of node layers: one method a file, all behind the protocol of `basis.BasisMethod`."""

from libgraph.bases.basis import Bases, Basis, BasisMethod, Truncation
from libgraph.bases.lib import lib
from libgraph.bases.neuron import neuron
from libgraph.bases.pca import pca
from libgraph.bases.statistics import Statistics, node_statistics

METHODS: dict[str, BasisMethod] = {"neuron": neuron, "pca": pca, "lib": lib}
"""Every basis that `--basis` takes, by name."""

__all__ = [
    "METHODS",
    "Bases",
    "Basis",
    "BasisMethod",
    "Statistics",
    "Truncation",
    "lib",
    "neuron",
    "node_statistics",
    "pca",
]
