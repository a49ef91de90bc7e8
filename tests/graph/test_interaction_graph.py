from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from libgraph.errors import DataError, NumericalError, UsageError
from libgraph.graph.features import FeatureLabel, LayerFeatures
from libgraph.graph.graph_json import graph_to_json
from libgraph.graph.interaction_graph import EDGES_PER_FEATURE, WEIGHT_FLOOR, InteractionGraph
from libgraph.modules.communities import find_communities
from libgraph.modules.summary import module_table
from libgraph.report.graphml import write_graphml

PAIR = ("a", "b")


def layer(name, size, **options):
    return LayerFeatures(name, np.linspace(1, 2, size), **options)


def small(epsilon=None):
    """Two layers with a constant each, then three logits."""
    first = np.array([[9.0, 9, 9], [9, 1, 10], [9, 100, 0.1]])
    second = np.array([[5.0, 2, 0], [5, 0, 8], [5, 32, 0]])
    return InteractionGraph(
        layers=(layer("a", 3), layer("b", 3), layer("out", 3, isolated=0, rotated=False)),
        edges={PAIR: first, ("b", "out"): second},
        epsilon=epsilon or {},
    )


def test_weights_are_decades_above_epsilon():
    weights = small({PAIR: 1.0, ("b", "out"): 1.0}).weights()
    np.testing.assert_allclose(weights[PAIR], [[0, 0, 0], [0, 0, 1], [0, 2, 0]], atol=1e-15)
    assert not weights["b", "out"].any()


def test_weights_are_square_roots_where_no_epsilon_is_known():
    weights = small().weights()
    expected = np.sqrt([[0, 0, 0], [0, 1, 10], [0, 100, 0.1]])
    np.testing.assert_allclose(weights[PAIR], expected)


def test_weights_survive_an_epsilon_near_zero():
    graph = InteractionGraph(
        (layer("a", 1, isolated=0), layer("b", 1, isolated=0)), {PAIR: [[1.0]]}, {PAIR: 5e-324}
    )
    assert 323 < graph.weights()[PAIR].item() < 324


def test_kept_edges_are_those_that_ablation_kept():
    graph = small({PAIR: 1.0, ("b", "out"): 8.0})
    kept = graph.kept_edges(PAIR)
    assert list(zip(kept.inputs, kept.outputs, kept.interaction, strict=True)) == [
        (1, 1, 1.0),
        (2, 1, 10.0),
        (1, 2, 100.0),
    ]
    np.testing.assert_allclose(kept.weight, [WEIGHT_FLOOR, 1, 2])
    # Logits take no part in clustering, but their edges are shown; the constant's are not.
    logits = graph.kept_edges(("b", "out"))
    assert list(zip(logits.inputs, logits.outputs, strict=True)) == [(2, 1), (1, 2)]


def test_without_epsilon_the_largest_edges_are_kept():
    rng = np.random.default_rng(0)
    matrix = rng.random((40, 60))
    graph = InteractionGraph(
        (layer("a", 60, isolated=0), layer("b", 40, isolated=0)), {PAIR: matrix}
    )
    kept = graph.kept_edges(PAIR)
    assert len(kept.weight) == EDGES_PER_FEATURE * 100
    assert kept.interaction.min() == np.sort(matrix.ravel())[-EDGES_PER_FEATURE * 100]


def test_igraph_holds_the_clustering_edges():
    graph = small({PAIR: 1.0})
    network = graph.to_igraph()
    assert not network.is_directed()
    assert network.vs["name"][:4] == ["a/0", "a/1", "a/2", "b/0"]
    edges = {
        (network.vs[e.source]["name"], network.vs[e.target]["name"]): e["weight"]
        for e in network.es
    }
    assert edges == pytest.approx({("a/2", "b/1"): 1.0, ("a/1", "b/2"): 2.0})


def test_igraph_of_nothing():
    assert InteractionGraph((), {}).to_igraph().vcount() == 0


@given(arrays(np.float64, (4, 3), elements=st.floats(0, 1e6)))
@settings(deadline=None, max_examples=40)
def test_igraph_strength_is_the_sum_of_weights(matrix):
    graph = InteractionGraph((layer("a", 3), layer("b", 4)), {PAIR: matrix})
    strength = graph.to_igraph().strength(weights="weight")
    weights = graph.weights()[PAIR]
    np.testing.assert_allclose(strength, [*weights.sum(axis=0), *weights.sum(axis=1)])


@pytest.mark.parametrize(
    ("matrix", "error", "words"),
    [
        (np.zeros((3, 2)), DataError, "a->b have shape"),
        ([[np.nan, 0, 0]] * 2, NumericalError, "a->b"),
        ([[np.inf, 0, 0]] * 2, NumericalError, "a->b"),
        ([[-1.0, 0, 0]] * 2, NumericalError, "a->b have negative"),
    ],
)
def test_wrong_edges_are_refused(matrix, error, words):
    with pytest.raises(error, match=words):
        InteractionGraph((layer("a", 3), layer("b", 2)), {PAIR: matrix})


def test_wrong_layers_are_refused():
    with pytest.raises(DataError, match="same name"):
        InteractionGraph((layer("a", 1), layer("a", 1)), {})
    with pytest.raises(DataError, match="later one"):
        InteractionGraph((layer("a", 1), layer("b", 1)), {("b", "a"): [[1.0]]})
    with pytest.raises(DataError, match="positive"):
        small({PAIR: 0.0})
    with pytest.raises(DataError, match="no edges"):
        small({("a", "out"): 1.0})
    with pytest.raises(DataError, match="labels"):
        layer("a", 2, labels=(FeatureLabel("x"),))
    with pytest.raises(DataError, match="isolated"):
        layer("a", 2, isolated=3)
    with pytest.raises(NumericalError, match="importance of a"):
        LayerFeatures("a", np.array([np.nan]))


def test_partition_of_another_graph_is_refused():
    other = InteractionGraph((layer("a", 2), layer("b", 2)), {PAIR: np.ones((2, 2))})
    with pytest.raises(DataError, match="another graph"):
        small().with_partition(find_communities(other))


def test_communities_need_a_partition_and_name_only_members():
    graph = small({PAIR: 1.0})
    with pytest.raises(UsageError, match="find_communities"):
        _ = graph.communities
    graph = graph.with_partition(find_communities(graph))
    assert graph.communities == {"a/1": 0, "b/2": 0, "a/2": 1, "b/1": 1}


def test_labels_are_attached_by_layer():
    labels = [FeatureLabel("one"), FeatureLabel("x", {"u": 0.2, "v": 0.7}), FeatureLabel("y")]
    graph = small().with_labels({"b": labels})
    assert graph.layer("b").labels == tuple(labels)
    assert graph.layer("a").labels is None
    assert [label.concept for label in labels] == [None, "v", None]
    with pytest.raises(UsageError, match="choose one of a, b, out"):
        small().with_labels({"c": labels})


@pytest.mark.parametrize("epsilon", [{}, {PAIR: 1.0, ("b", "out"): 8.0}])
def test_what_is_derived_from_edges_is_computed_once(tmp_path, monkeypatch, epsilon):
    """By communities, the module table and all exports of the graph with modules and labels."""
    read = []
    between = InteractionGraph._between

    def counted(graph, pair, *, clustered):
        read.append((pair, clustered))
        return between(graph, pair, clustered=clustered)

    monkeypatch.setattr(InteractionGraph, "_between", counted)
    graph = small(epsilon)
    graph = graph.with_partition(find_communities(graph))
    labelled = graph.with_labels({"a": [FeatureLabel("x")] * 3})
    module_table(labelled)
    for same in (graph, labelled, graph.with_partition(None)):
        write_graphml(same, tmp_path / "graph.graphml")
        graph_to_json(same)
        same.to_igraph()
    assert len(set(read)) == len(read) == 2 * len(graph.edges)


def test_graphs_with_other_edges_or_epsilon_share_nothing():
    graph = small()
    before, kept = graph.weights()[PAIR], graph.kept_edges(PAIR)
    other = replace(graph, epsilon={PAIR: 10.0})
    assert other.weights()[PAIR].max() == 1
    assert len(other.kept_edges(PAIR).weight) == 2
    doubled = replace(graph, edges={pair: 4 * matrix for pair, matrix in graph.edges.items()})
    np.testing.assert_allclose(doubled.weights()[PAIR], 2 * before)
    np.testing.assert_allclose(doubled.kept_edges(PAIR).interaction, 4 * kept.interaction)


def test_what_is_shared_cannot_be_changed():
    matrix = np.ones((2, 2))
    graph = InteractionGraph((layer("a", 2), layer("b", 2)), {PAIR: matrix})
    for array in (graph.edges[PAIR], graph.weights()[PAIR], *graph.kept_edges(PAIR)):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    matrix[0] = 1
    weights = graph.weights()
    weights[PAIR] = 0 * weights[PAIR]
    assert graph.weights()[PAIR].any()


def test_graphs_that_differ_in_modules_share_their_weights():
    graph = small()
    assert graph.with_partition(None).weights()[PAIR] is graph.weights()[PAIR]
