"""Matrices of edges that are read: as large as their layers, if there is room."""

import json

import pytest

import libgraph.graph.arrays as arrays
from libgraph.errors import TooLarge
from libgraph.graph.arrays import no_edges
from libgraph.graph.graph_json import graph_from_json


def test_zeros_of_the_pairs_that_are_there():
    found = no_edges({"a": 2, "b": 3}, [("a", "b"), ("a", "b")], "graph.json")
    assert {pair: matrix.shape for pair, matrix in found.items()} == {("a", "b"): (3, 2)}
    assert not found["a", "b"].any()


def test_matrices_that_do_not_fit_are_not_asked_for(monkeypatch):
    monkeypatch.setattr(arrays, "available_memory", lambda: 200)
    assert no_edges({"a": 3, "b": 4}, [("a", "b")], "graph.json")
    with pytest.raises(TooLarge, match=r"graph\.json has 1 layer pairs with room for 20 edges"):
        no_edges({"a": 4, "b": 5}, [("a", "b")], "graph.json")


def test_a_small_file_of_long_layers(tmp_path):
    layers = [
        {"name": name, "isolated": 0, "rotated": True, "importance": [1] * 10**6, "labels": None}
        for name in "ab"
    ]
    pair = {"input": "a", "output": "b", "epsilon": None, "in": [], "out": [], "interaction": []}
    document = {"schema": 1, "layers": layers, "edges": [pair], "partition": None}
    assert len(json.dumps(document)) < 10**7
    with pytest.raises(TooLarge, match=r"8000\.0 GB"):
        graph_from_json(document, "graph.json")
