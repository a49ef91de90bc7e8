from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from helpers.chance import FALSE_ALARM

from libgraph.errors import UsageError
from libgraph.graph.features import LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.communities import find_communities
from libgraph.modules.null_models import NULL_MODELS
from libgraph.modules.significance import significance, with_as_many_edges


def planted(noise=0.01, sizes=(13, 13, 13), seed=0, epsilon=None):
    """Three modules, or none where the noise is 1."""
    rng = np.random.default_rng(seed)
    names = [f"l{index}" for index in range(len(sizes))]
    layers = tuple(LayerFeatures(n, np.ones(s)) for n, s in zip(names, sizes, strict=True))
    edges = {}
    for a, b in pairwise(range(len(sizes))):
        same = np.equal.outer(np.arange(sizes[b]) % 3, np.arange(sizes[a]) % 3)
        edges[names[a], names[b]] = rng.exponential(size=same.shape) * np.where(same, 1, noise)
    return InteractionGraph(layers, edges, dict.fromkeys(edges, epsilon) if epsilon else {})


@pytest.mark.parametrize("null", ["permuted", "strengths", "matched"])
@pytest.mark.parametrize("epsilon", [None, 0.05])
@pytest.mark.parametrize("noise", [0.01, 0.0])
def test_blocks_are_significant(null, epsilon, noise):
    result = significance(planted(noise, epsilon=epsilon), null, draws=49)
    assert result.p == 1 / 50
    assert result.z > 5
    assert (result.null, result.draws) == (null, 49)


def test_modules_that_run_through_all_layers_are_significant_to_relabelled():
    # Features of one strength: names are all that there is.
    graph = planted(0.01, (25, 25, 25, 25))
    edges = {pair: np.where(matrix > 0.1, 1, matrix) for pair, matrix in graph.edges.items()}
    graph = replace(graph, edges=edges)
    assert significance(graph, "relabelled", draws=49).p == 1 / 50


def test_figures_are_those_of_the_draws():
    graph = planted(0.4, epsilon=0.5)
    rng = np.random.default_rng(3)
    draws = [
        find_communities(NULL_MODELS["strengths"](graph, rng), 1.2, 3, 2).modularity
        for _ in range(20)
    ]
    result = significance(graph, "strengths", draws=20, resolution=1.2, seed=3, seeds=2)
    own = find_communities(graph, 1.2, 3, 2).modularity
    assert result.modularity == own
    assert result.mean == pytest.approx(np.mean(draws))
    assert result.deviation == pytest.approx(np.std(draws, ddof=1))
    assert result.z == pytest.approx((own - result.mean) / result.deviation)
    assert result.p == (1 + sum(value >= own for value in draws)) / 21
    assert result.p > 1 / 21


def test_same_seed_same_result_whatever_the_partition():
    graph = planted(0.5)
    first = significance(graph, "permuted", draws=10, seed=1)
    again = graph.with_partition(find_communities(graph, 0.3))
    assert significance(again, "permuted", draws=10, seed=1) == first
    assert significance(graph, "permuted", draws=10, seed=2) != first


def test_a_graph_that_is_its_own_null_model_is_not_significant():
    result = significance(planted(0.01, (13, 13)), "relabelled", draws=9)
    assert (result.p, result.z) == (1, None)
    assert result.deviation < 1e-15


@pytest.mark.parametrize("graphs", [60, pytest.param(400, marks=pytest.mark.slow)])
def test_p_is_even_on_graphs_from_the_null_model(graphs):
    p = []
    for seed in range(graphs):
        graph = planted(1.0, (9, 9, 9), epsilon=0.5)
        observed = NULL_MODELS["permuted"](graph, np.random.default_rng([7, seed]))
        p.append(significance(observed, "permuted", draws=19, seed=seed).p)
    steps = np.random.default_rng(0).random(graphs) / 20
    even = np.sort(np.array(p) - steps)
    # Dvoretzky, Kiefer, Wolfowitz, Massart: P(distance > t) is at most 2 exp(-2nt²).
    allowed = np.sqrt(np.log(2 / FALSE_ALARM) / 2 / graphs)
    assert np.abs(even - (np.arange(graphs) + 0.5) / graphs).max() < allowed


def test_a_null_model_of_ones_own_is_compared_at_the_same_number_of_edges():
    graph = planted(0.5, epsilon=0.3)
    seen = []

    def mine(graph, rng):
        drawn = planted(1.0, seed=int(rng.integers(100)))
        seen.append(drawn)
        return drawn

    result = significance(graph, mine, draws=5)
    kept = {pair: np.count_nonzero(w) for pair, w in graph.weights().items()}
    at_same = [with_as_many_edges(sample, kept) for sample in seen]
    for sample in at_same:
        assert {pair: np.count_nonzero(w) for pair, w in sample.weights().items()} == kept
    wanted = [find_communities(sample, 1.0, 0, 1).modularity for sample in at_same]
    assert result.mean == pytest.approx(np.mean(wanted))
    assert result.null == "mine"


def test_too_few_edges_keep_all_but_the_smallest():
    graph = with_as_many_edges(planted(), {("l0", "l1"): 10_000})
    assert np.count_nonzero(graph.weights()["l0", "l1"]) == 143
    empty = InteractionGraph(graph.layers, {("l0", "l1"): np.zeros((13, 13))})
    assert with_as_many_edges(empty, {("l0", "l1"): 3}).epsilon == {}


def test_a_graph_without_edges():
    layers = tuple(LayerFeatures(name, np.ones(3)) for name in "ab")
    result = significance(InteractionGraph(layers, {("a", "b"): np.zeros((3, 3))}), "strengths")
    assert (result.p, result.z, result.modularity) == (1, None, 0)


def test_progress_is_told():
    told = []
    significance(planted(), "permuted", draws=3, progress=lambda *what: told.append(what))
    assert told == [("null model permuted", done, 3) for done in (1, 2, 3)]


@pytest.mark.parametrize(
    ("null", "options", "part"),
    [
        ("rewired", {}, "'rewired': use one of permuted"),
        ("permuted", {"draws": 0}, "0 draws"),
        ("permuted", {"resolution": 0.0}, "resolution"),
        ("permuted", {"seeds": 0}, "seeds"),
    ],
)
def test_bad_input(null, options, part):
    with pytest.raises(UsageError, match=part):
        significance(planted(), null, **options)
