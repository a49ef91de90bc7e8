"""Interactions in every basis, and when they agree."""

from helpers.numbers import assert_close
from libgraph.bases.method import Setting, Truncation
from libgraph.bases.methods import METHODS
from libgraph.bases.statistics import node_statistics
from libgraph.progress import silent


def every_basis(network, data):
    """All linear bases; the sparse one after few steps, because any rotation is a basis."""
    statistics = node_statistics(network, data)
    truncation, setting = Truncation(True, 1e-9), Setting({"sparse_steps": 10})
    return {
        name: method.prepared(setting)(network, statistics, data, truncation, silent)
        for name, method in METHODS.items()
        if not method.latent
    }


def assert_same_edges(found, expected, tolerance=1e-10):
    assert found.keys() == expected.keys()
    for pair in expected:
        assert_close(found[pair], expected[pair], tolerance)
