"""Bases and edges as a graph."""

import numpy as np
import pytest
import torch
from helpers.graphs import planted

from libgraph.edges.graph_of import graph_of
from libgraph.errors import DataError, NumericalError
from libgraph.graph.features import FeatureLabel
from libgraph.modules.communities import find_communities
from libgraph.network.basis import Basis

PAIRS = [("a", "b"), ("b", "out")]


def basis(size, *, isolated=1, rotated=True):
    importance = torch.linspace(2, 1, size, dtype=torch.float32)
    return Basis(torch.eye(size), torch.eye(size), importance, isolated, rotated)


BASES = {"a": basis(3), "b": basis(4, isolated=2), "out": basis(2, isolated=0, rotated=False)}
EDGES = {
    (a, b): torch.rand(len(BASES[b]), len(BASES[a]), dtype=torch.float64) + 0.1 for a, b in PAIRS
}
LABELS = [FeatureLabel(text) for text in "wxyz"]


def test_a_graph_is_what_bases_and_edges_say():
    graph = graph_of(BASES, EDGES, epsilon={PAIRS[0]: 0.2, PAIRS[1]: None}, labels={"b": LABELS})
    assert [(layer.name, layer.isolated, layer.rotated) for layer in graph.layers] == [
        ("a", 1, True), ("b", 2, True), ("out", 0, False)
    ]  # fmt: skip
    for layer in graph.layers:
        assert layer.importance.tolist() == BASES[layer.name].importance.tolist()
    for pair, matrix in EDGES.items():
        np.testing.assert_array_equal(graph.edges[pair], matrix)
        assert np.shares_memory(graph.edges[pair], matrix.numpy())
    assert graph.epsilon == {PAIRS[0]: 0.2}
    assert [layer.labels for layer in graph.layers] == [None, tuple(LABELS), None]
    assert graph.partition is None


def test_modules_may_be_known():
    graph = graph_of(BASES, EDGES)
    partition = find_communities(graph, seeds=1)
    assert graph_of(BASES, EDGES, partition=partition).communities
    with pytest.raises(DataError, match="another graph"):
        graph_of(BASES, EDGES, partition=find_communities(planted()[0], seeds=1))


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(DataError, match="labels"):
        graph_of(BASES, EDGES, labels={"a": LABELS})
    with pytest.raises(DataError, match="shape"):
        graph_of(BASES, {PAIRS[0]: EDGES[PAIRS[1]]})
    with pytest.raises(NumericalError, match="a->b"):
        graph_of(BASES, {PAIRS[0]: EDGES[PAIRS[0]] * torch.nan})
