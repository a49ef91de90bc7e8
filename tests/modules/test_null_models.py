from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.chance import deviations
from helpers.networks import random_network, toy_data
from helpers.numbers import assert_close, normal, seeded

from libgraph.analysis.rotations import rotate, rotated_networks
from libgraph.bases.random_basis import random_rotation
from libgraph.graph.features import LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.null_models import ALIKE, NULL_MODELS, greedy_matching
from libgraph.modules.significance import significance
from libgraph.network.network import Network


def random_graph(sizes=(20, 24, 22), isolated=(1, 2, 1), rotated=(True, True, True), seed=0):
    """Edges with strong and weak features and some zeros, and an ε for the first pair."""
    rng = np.random.default_rng(seed)
    names = [f"l{index}" for index in range(len(sizes))]
    layers = tuple(
        LayerFeatures(name, np.ones(size), isolated=first, rotated=turned)
        for name, size, first, turned in zip(names, sizes, isolated, rotated, strict=True)
    )
    edges = {}
    for (a, before), (b, after) in pairwise(zip(names, sizes, strict=True)):
        scale = np.exp(rng.normal(size=(after, 1)) + rng.normal(size=(1, before)))
        edges[a, b] = scale * rng.exponential(size=(after, before))
        edges[a, b][rng.random((after, before)) < 0.05] = 0
    return InteractionGraph(layers, edges, {("l0", "l1"): 0.5})


def blocks(graph):
    """Of each pair, the entries between features that take part."""
    return {
        (a, b): matrix[graph.layer(b).isolated :, graph.layer(a).isolated :]
        for (a, b), matrix in graph.edges.items()
    }


def effects(matrix):
    """Row and column effects of log E by least squares, and what is left."""
    logs = np.log(np.where(matrix > 0, matrix, matrix[matrix > 0].min() / 10))
    rows = np.repeat(np.eye(len(logs)), logs.shape[1], axis=0)
    columns = np.tile(np.eye(logs.shape[1]), (len(logs), 1))
    design = np.hstack([rows, columns])
    fitted = design @ np.linalg.lstsq(design, logs.ravel(), rcond=None)[0]
    return fitted.reshape(logs.shape), logs - fitted.reshape(logs.shape)


@pytest.fixture(params=NULL_MODELS)
def null(request):
    return NULL_MODELS[request.param]


def test_isolated_features_epsilon_and_the_graph_itself_stay(null):
    graph = random_graph()
    before = {pair: matrix.copy() for pair, matrix in graph.edges.items()}
    drawn = null(graph, np.random.default_rng(0))
    for (a, b), matrix in drawn.edges.items():
        first, last = graph.layer(a).isolated, graph.layer(b).isolated
        np.testing.assert_array_equal(graph.edges[a, b], before[a, b])
        np.testing.assert_array_equal(matrix[:last], before[a, b][:last])
        np.testing.assert_array_equal(matrix[:, :first], before[a, b][:, :first])
        assert not np.array_equal(matrix, before[a, b])
    assert drawn.epsilon == graph.epsilon
    assert drawn.layers == graph.layers


def test_unrotated_layers_stay(null):
    graph = random_graph(rotated=(True, True, False))
    drawn = null(graph, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn.edges["l1", "l2"], graph.edges["l1", "l2"])


def test_one_seed_one_draw(null):
    graph = random_graph()
    a, b, c = (null(graph, np.random.default_rng(seed)).edges["l0", "l1"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("scale", [0.0, 1e-320])
def test_graphs_of_next_to_nothing(null, scale):
    layers = tuple(LayerFeatures(name, np.ones(3)) for name in "abc")
    graph = InteractionGraph(layers, {pair: np.full((3, 3), scale) for pair in pairwise("abc")})
    drawn = null(graph, np.random.default_rng(0))
    assert all(np.isfinite(matrix).all() for matrix in drawn.edges.values())


def test_permuted_keeps_the_entries():
    graph = random_graph()
    drawn = NULL_MODELS["permuted"](graph, np.random.default_rng(0))
    for pair, matrix in blocks(drawn).items():
        np.testing.assert_array_equal(np.sort(matrix, None), np.sort(blocks(graph)[pair], None))
        # Not within rows or columns only: strong ones become like all others.
        for axis in (0, 1):
            assert matrix.sum(axis).std() < blocks(graph)[pair].sum(axis).std() / 1.2


def test_strengths_keep_effects_and_residuals():
    graph = random_graph()
    drawn = NULL_MODELS["strengths"](graph, np.random.default_rng(0))
    for pair, matrix in blocks(drawn).items():
        fitted, residual = effects(blocks(graph)[pair])
        left = np.log(matrix) - fitted
        np.testing.assert_allclose(np.sort(left, None), np.sort(residual, None), atol=1e-9)
        assert abs(np.corrcoef(left.ravel(), residual.ravel())[0, 1]) < 0.2


def test_matched_keeps_the_matching_and_the_scatter_of_small_entries():
    graph = random_graph((60, 60, 60))
    # Partners, and small entries that scatter more.
    rng = np.random.default_rng(3)
    edges = {}
    for pair in graph.edges:
        matrix = edges[pair] = np.exp(-np.add.outer(np.arange(60), np.arange(60)) / 20.0)
        matrix *= np.exp(rng.normal(size=matrix.shape) * np.where(matrix < 0.1, 2, 0.01))
        matrix[np.arange(60), rng.permutation(60)] += 100
    graph = replace(graph, edges=edges)
    drawn = NULL_MODELS["matched"](graph, np.random.default_rng(0))
    for pair, matrix in blocks(drawn).items():
        before = blocks(graph)[pair]
        mask = greedy_matching(before)
        np.testing.assert_allclose(matrix[mask], before[mask], rtol=1e-12)
        free = ~mask
        assert (matrix[free] == before[free]).mean() < 0.05
        far = np.add.outer(np.arange(len(free)), np.arange(free.shape[1]))
        strong, weak = (
            np.log(matrix[band & free] / before[band & free]).std() for band in (far < 30, far > 70)
        )
        assert strong < 0.8 < 2 < weak


def test_relabelled_keeps_each_matrix_up_to_names_of_similar_features():
    graph = random_graph((40, 50, 45))
    drawn = NULL_MODELS["relabelled"](graph, np.random.default_rng(0))
    weights = {pair: w[graph.layer(pair[1]).isolated :] for pair, w in graph.weights().items()}
    for (a, b), matrix in blocks(drawn).items():
        before = blocks(graph)[a, b]
        # Sums identify rows, and columns that only this pair has do not move.
        place = {value: row for row, value in enumerate(np.round(before.sum(1), 9))}
        rows = [place[value] for value in np.round(matrix.sum(1), 9)]
        if (a, b) == ("l0", "l1"):
            np.testing.assert_array_equal(matrix, before[rows])
            rank = weights[a, b].sum(1).argsort(kind="stable").argsort(kind="stable")
            moved = np.abs(rank[rows] - rank)
            assert 0 < moved.max() < ALIKE
        else:
            assert rows == list(range(len(rows)))
            np.testing.assert_array_equal(np.sort(matrix, 1), np.sort(before, 1))


def test_two_layers_have_nothing_to_relabel():
    graph = random_graph((20, 24), (1, 1), (True, True))
    drawn = NULL_MODELS["relabelled"](graph, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn.edges["l0", "l1"], graph.edges["l0", "l1"])


def test_greedy_matching_takes_the_largest_entry_first():
    matrix = np.random.default_rng(0).random((30, 20))
    matrix[:, [0, 3]], matrix[0] = 0, 0
    mask = greedy_matching(matrix)
    left, wanted = matrix.copy(), np.zeros_like(mask)
    while left.max() > 0:
        row, column = np.unravel_index(left.argmax(), left.shape)
        wanted[row, column] = True
        left[row], left[:, column] = 0, 0
    np.testing.assert_array_equal(mask, wanted)
    assert greedy_matching(np.ones((4, 6))).sum() == 4


def test_rotations_are_orthogonal_and_even():
    rng, draws = np.random.default_rng(0), 6000
    drawn = np.stack([random_rotation(3, rng) for _ in range(draws)])
    np.testing.assert_allclose(
        drawn @ drawn.swapaxes(1, 2), np.tile(np.eye(3), (draws, 1, 1)), atol=1e-12
    )
    # Entries have mean 0 and variance 1/3, those of the diagonal too; squares 1/5 - 1/9.
    allowed = deviations(9) / draws**0.5
    np.testing.assert_allclose(drawn.mean(0), 0, atol=allowed * (1 / 3) ** 0.5)
    np.testing.assert_allclose((drawn**2).mean(0), 1 / 3, atol=allowed * (4 / 45) ** 0.5)


def test_rotated_sections_are_the_sections_read_through_a_rotation():
    network = random_network(["relu", "tanh", "linear"], [5, 6, 4, 3])
    rotated = rotate(network, np.random.default_rng(0))
    inputs = normal(seeded(1), 7, 1, 5)
    x = network.activations_at(1, inputs)
    assert_close(rotated.activations_at(1, inputs), x)
    _, _, before = network.pairs[1]
    _, _, after = rotated.pairs[1]
    y, z = before(x), after(x)
    assert float((y - z).abs().max()) > 1e-2
    turned = rotation_of(before, after)
    assert_close(turned @ turned.T, torch.eye(7, dtype=torch.float64))
    # The constant is neither moved nor mixed.
    assert_close(turned[-1], torch.eye(7, dtype=torch.float64)[-1])


def rotation_of(before, after):
    """O with after(x) = before(x O), from the matrices that read the node layer."""
    factors = [torch.cat([s.skip, s.inner], 1) for s in (before, after)]
    return torch.linalg.lstsq(factors[0].T, factors[1].T).solution.T


def test_a_linear_network_stays_diagonal_when_rotated():
    # LIB finds the directions again, whatever a section reads.
    network = random_network(["linear", "linear", "linear"], [4, 4, 4, 4])
    data = toy_data(network, normal(seeded(1), 60, 1, 4), batch_size=60)
    graph, null = rotated_networks(network, data)
    drawn = null(graph, np.random.default_rng(0))
    again = null(graph, np.random.default_rng(0))
    for sample in (graph, drawn):
        for matrix in list(sample.edges.values())[:-1]:
            free = matrix[1:, 1:]
            assert np.abs(free - np.diag(np.diag(free))).max() < 1e-9 * free.max()
    for pair, matrix in drawn.edges.items():
        np.testing.assert_array_equal(matrix, again.edges[pair])
    assert not np.allclose(drawn.layer("l1").importance, graph.layer("l1").importance, rtol=1e-3)


@pytest.mark.parametrize("together", [2, 3, 9])
def test_draws_are_the_same_by_whomever_they_are_measured(together):
    network = random_network(["relu", "tanh"], [4, 4, 4])
    graph, null = rotated_networks(network, toy_data(network, normal(seeded(1), 30, 1, 4)))
    rounds = []

    def backwards(tasks):
        rounds.append(len(tasks))
        return [task() for task in reversed(tasks)][::-1]

    expected = significance(graph, null, draws=5)
    found = significance(graph, null, draws=5, together=together, take_turns=backwards)
    assert found == expected
    assert found.null == "rotated"
    assert sum(rounds) == 5
    assert max(rounds) == min(together, 5)


def test_networks_are_not_changed_by_drawing():
    network: Network = random_network(["relu", "tanh"], [5, 6, 4])
    before = network.fingerprint()
    rotate(network, np.random.default_rng(0))
    assert network.fingerprint() == before
