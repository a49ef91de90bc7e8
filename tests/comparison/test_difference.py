"""Runs compared: planted permutations, signs, rotations and losses are found again, exactly."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.metrics import metrics_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

import libgraph as lg
from libgraph.comparison.difference import compare_sides, diff
from libgraph.comparison.edges import rank_correlation
from libgraph.comparison.layers import (
    compare_layer,
    decoder_directions,
    match_features,
    orthonormal,
    subspace_overlap,
)
from libgraph.comparison.series import diff_series, places, run_figures
from libgraph.comparison.sides import Side, coordinates_of, side
from libgraph.errors import NumericalError, UsageError
from libgraph.graph.features import LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.partition import Partition
from libgraph.modules.agreement import adjusted_mutual_information
from libgraph.network.basis import Basis
from libgraph.network.dictionary import Dictionary, Threshold
from libgraph.report.series_figure import draw_series
from libgraph.runs.computed_run import ComputedRun
from libgraph.runs.saved_run import SavedRun, open_run
from libgraph_backends.modular_addition.backend import ModularAddition


def orthogonal(size: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


def basis_of(directions: np.ndarray, seed: int = 0, rotated: bool = True) -> Basis:
    """These directions, scaled at random, after a constant feature whose decoder is the mean."""
    rng = np.random.default_rng(seed)
    count, size = directions.shape
    decoder = np.zeros((count + 1, size + 1))
    decoder[1:, :-1] = directions * 10 ** rng.uniform(-4, 4, (count, 1))
    decoder[0] = [*rng.standard_normal(size), 1]
    return Basis(
        torch.tensor(np.linalg.pinv(decoder)),
        torch.tensor(decoder),
        torch.arange(count + 1, 0, -1).double(),
        isolated=1,
        rotated=rotated,
    )


def made(sizes: list[int], kept: list[int], seed: int = 0, modules: int = 3) -> Side:
    """A side with random directions, interactions and modules, `kept` features in members layer."""
    rng = np.random.default_rng(seed)
    names = [f"l{i}" for i in range(len(sizes))]
    bases = {
        name: basis_of(orthogonal(size, seed + i)[:count], seed + i)
        for i, (name, size, count) in enumerate(zip(names, sizes, kept, strict=True))
    }
    edges = {
        (a, b): rng.lognormal(sigma=2, size=(len(bases[b]), len(bases[a])))
        for a, b in pairwise(names)
    }
    epsilon = {pair: float(np.quantile(matrix, 0.6)) for pair, matrix in edges.items()}
    membership = {name: rng.integers(-1, modules, len(basis)) for name, basis in bases.items()}
    for members in membership.values():
        members[0] = -1
    graph = InteractionGraph(layers_of(bases), edges, epsilon, partition(membership))
    return Side("made", "lib", graph, bases, metrics_of({"lib": {}}))


def needing(a: Side, needed: dict[str, int | None]) -> Side:
    """The same side, of a run whose score needs these features."""
    required = {layer: {0.001: count} for layer, count in needed.items()}
    return replace(a, metrics=metrics_of({"lib": {"features_required": required}}))


def layers_of(bases) -> tuple[LayerFeatures, ...]:
    return tuple(
        LayerFeatures(name, basis.importance.numpy(), basis.isolated, basis.rotated)
        for name, basis in bases.items()
    )


def partition(membership) -> Partition:
    return Partition(membership, 1.0, 0.3, 0.3, 1.0, 0, 1)


def chosen(a: Side, features: dict[str, np.ndarray], names: np.ndarray | None = None) -> Side:
    """The same side with only these features, in this order; `names` renumber its modules."""
    bases, membership = {}, {}
    for name, basis in a.bases.items():
        order = torch.as_tensor(features[name])
        signs = torch.ones(len(order)).double()
        signs[1::2] = -1
        scale = signs * torch.linspace(0.5, 20, len(order)).double()
        scale[0] = 1
        bases[name] = replace(
            basis,
            encoder=basis.encoder[:, order] / scale,
            decoder=basis.decoder[order] * scale.unsqueeze(1),
            importance=basis.importance[order],
        )
        membership[name] = a.graph.partition.membership[name][features[name]]
        if names is not None:
            membership[name] = np.append(names, -1)[membership[name]]
    edges = {
        pair: matrix[np.ix_(features[pair[1]], features[pair[0]])]
        for pair, matrix in a.graph.edges.items()
    }
    graph = InteractionGraph(layers_of(bases), edges, a.graph.epsilon, partition(membership))
    return replace(a, graph=graph, bases=bases)


def same(difference, a: Side) -> None:
    """What has to hold of a run and itself, however its features are ordered and scaled."""
    assert not difference.others
    for layer in difference.layers:
        assert layer.overlap == pytest.approx(1)
        np.testing.assert_allclose(layer.matching.cosine, 1)
        assert len(difference.matched(layer.name).a) == len(a.bases[layer.name]) - 1
    for pair in difference.pairs:
        assert pair.lost == pair.gained == 0
        assert pair.both == len(a.graph.kept_edges(pair.pair).inputs)
        assert pair.unmatched == (0, 0)
        assert pair.rank_correlation == pytest.approx(1)
        assert pair.jaccard == (1 if pair.both else None)
    modules = difference.modules
    assert modules.agreement in (None, pytest.approx(1))
    assert all(not fate.elsewhere and not fate.nowhere for fate in modules.fates)
    assert all(fate.shared == fate.size == fate.matched for fate in modules.fates)


shapes = st.lists(st.integers(2, 9), min_size=2, max_size=4)


@given(shapes, st.data(), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_a_run_and_itself(sizes, data, seed):
    kept = [data.draw(st.integers(2, size)) for size in sizes]
    a = made(sizes, kept, seed)
    difference = compare_sides(a, a)
    same(difference, a)
    for layer in difference.layers:
        np.testing.assert_array_equal(layer.matching.a, layer.matching.b)
        assert all(overlap == pytest.approx(1) for overlap in layer.leading.values())
    json.dumps(difference.as_dict(), allow_nan=False)


@given(shapes, st.data(), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_permutations_signs_and_scales_are_found_again(sizes, data, seed):
    kept = [data.draw(st.integers(2, size)) for size in sizes]
    a = made(sizes, kept, seed)
    rng = np.random.default_rng(seed)
    orders = {
        name: np.append(0, 1 + rng.permutation(len(basis) - 1)) for name, basis in a.bases.items()
    }
    names = rng.permutation(3)
    b = chosen(a, orders, names)
    # Even a threshold of 1 forgives rounding.
    difference = compare_sides(a, b, 1.0)
    same(difference, a)
    for layer in difference.layers:
        np.testing.assert_array_equal(orders[layer.name][layer.matching.b], layer.matching.a)
    for fate in difference.modules.fates:
        if fate.size:
            assert fate.to == names[fate.module]


@given(shapes, st.data(), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_the_other_way_round(sizes, data, seed):
    """Whatever the two are, B compared with A says the same with lost and gained exchanged."""
    kept = [[data.draw(st.integers(1, size)) for size in sizes] for _ in range(2)]
    a, b = made(sizes, kept[0], seed), made(sizes, kept[1], seed + 1, modules=4)
    there, back = compare_sides(a, b, 0.3), compare_sides(b, a, 0.3)
    for layer, mirrored in zip(there.layers, back.layers, strict=True):
        assert layer.features == mirrored.features[::-1]
        assert layer.overlap == pytest.approx(mirrored.overlap)
        assert layer.by_chance == mirrored.by_chance
        assert layer.leading == pytest.approx(mirrored.leading)
        assert layer.matching.cosine.sum() == pytest.approx(mirrored.matching.cosine.sum())
        pairs = dict(zip(layer.matching.a.tolist(), layer.matching.b.tolist(), strict=True))
        swapped = zip(mirrored.matching.b.tolist(), mirrored.matching.a.tolist(), strict=True)
        assert pairs == dict(swapped)
        assert 0 <= layer.overlap <= 1
        assert ((layer.matching.cosine >= 0) & (layer.matching.cosine <= 1)).all()
    for edges, mirrored in zip(there.pairs, back.pairs, strict=True):
        assert (edges.both, edges.lost, edges.gained) == (
            mirrored.both,
            mirrored.gained,
            mirrored.lost,
        )
        assert edges.unmatched == mirrored.unmatched[::-1]
        assert edges.jaccard == mirrored.jaccard
        assert edges.rank_correlation == pytest.approx(mirrored.rank_correlation)
        assert edges.both + edges.lost + edges.unmatched[0] == len(
            a.graph.kept_edges(edges.pair).inputs
        )
        assert edges.both + edges.gained + edges.unmatched[1] == len(
            b.graph.kept_edges(edges.pair).inputs
        )
    assert there.modules.agreement == pytest.approx(back.modules.agreement)
    assert there.modules.features == back.modules.features
    shared = [sum(fate.shared for fate in difference.modules.fates) for difference in (there, back)]
    assert shared[0] == shared[1]
    for difference in (there, back):
        paired = [fate.to for fate in difference.modules.fates if fate.to is not None]
        assert len(set(paired)) == len(paired)
        assert len(paired) + len(difference.modules.lost) == difference.modules.count[0]
        assert len(paired) + len(difference.modules.gained) == difference.modules.count[1]
        for fate in difference.modules.fates:
            assert fate.matched == fate.shared + sum(fate.elsewhere.values()) + fate.nowhere


@pytest.mark.parametrize("angle", [0.1, 0.4, 0.7])
def test_a_rotated_pair(angle):
    directions = orthogonal(8, 3)[:5]
    turned = directions.copy()
    c, s = np.cos(angle), np.sin(angle)
    turned[1:3] = np.array([[c, s], [-s, c]]) @ directions[1:3]
    layer = compare_layer("l", basis_of(directions), basis_of(turned, seed=1))
    np.testing.assert_allclose(layer.matching.cosine, [1, c, c, 1, 1])
    np.testing.assert_array_equal(layer.matching.a, layer.matching.b)
    assert layer.leading[1] == pytest.approx(1)
    assert layer.leading[2] == pytest.approx((1 + c**2) / 2)
    assert [layer.leading[4], layer.overlap] == pytest.approx([1, 1])
    assert layer.by_chance == 5 / 8
    kept = layer.matching.above(0.95).a.tolist()
    assert kept == ([1, 2, 3, 4, 5] if c >= 0.95 else [1, 4, 5])


def test_a_pair_exchanged_by_a_large_rotation_is_matched_crosswise():
    directions = np.eye(4)[:2]
    turned = np.array([[0.28, 0.96], [-0.96, 0.28]]) @ directions
    matching = match_features(directions, turned)
    assert matching.b.tolist() == [1, 0]
    np.testing.assert_allclose(matching.cosine, 0.96)


def test_matching_is_best_in_total_and_not_greedy():
    a, b = np.eye(2), np.array([[0.8, 0.6], [1.0, 0.0]])
    # The first of A is nearest to the second of B, which also leaves the best for the other.
    assert match_features(a, b).b.tolist() == [1, 0]
    b = np.array([[1.0, 0.0], [0.99, np.sqrt(1 - 0.99**2)]])
    assert match_features(np.array([[0.995, 0.0999], [0.0, 1.0]]), b).b.tolist() == [0, 1]


def test_a_dropped_feature_takes_its_edges_and_nothing_else():
    a = made([6, 5], [4, 5], seed=5)
    features = {"l0": np.array([0, 1, 2, 4]), "l1": np.arange(6)}
    b = chosen(a, features)
    difference = compare_sides(a, b)
    (pair,) = difference.pairs
    kept = a.graph.kept_edges(("l0", "l1"))
    dropped = int((kept.inputs == 3).sum())
    assert dropped > 0
    assert (pair.lost, pair.gained, pair.unmatched) == (0, 0, (dropped, 0))
    assert (pair.both, pair.jaccard) == (len(kept.inputs) - dropped, 1)
    first = difference.layers[0]
    assert first.features == (4, 3)
    assert first.overlap == pytest.approx(1)
    assert first.leading[2] == pytest.approx(1)
    assert first.matching.a.tolist() == [1, 2, 4]
    assert first.matching.b.tolist() == [1, 2, 3]
    back = compare_sides(b, a).pairs[0]
    assert back.unmatched == (0, dropped)


def test_edges_lost_and_gained_are_counted():
    a = made([5, 5], [3, 3], seed=1)
    pair = ("l0", "l1")
    before = np.array([[9, 9, 9, 9], [9, 5, 5, 0], [9, 0, 5, 0], [9, 5, 0, 0.5]])
    after = np.array([[9, 9, 9, 9], [9, 5, 0, 5], [9, 0, 5, 5], [9, 0, 0, 0.5]])
    a = replace(a, graph=replace(a.graph, edges={pair: before}, epsilon={pair: 1.0}))
    b = replace(a, graph=replace(a.graph, edges={pair: after}, epsilon={pair: 1.0}))
    edges = compare_sides(a, b).pairs[0]
    assert (edges.both, edges.lost, edges.gained) == (2, 2, 2)
    assert edges.jaccard == pytest.approx(1 / 3)
    inner = before[1:, 1:].ravel(), after[1:, 1:].ravel()
    assert edges.rank_correlation == pytest.approx(spearmanr(*inner).statistic)
    # Every run has its own ε: a tenth of all interactions is the same graph.
    smaller = replace(a.graph, edges={pair: before / 10}, epsilon={pair: 0.1})
    edges = compare_sides(a, replace(a, graph=smaller)).pairs[0]
    assert (edges.both, edges.lost, edges.gained) == (4, 0, 0)
    assert edges.rank_correlation == pytest.approx(1)


@given(st.integers(0, 40), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_rank_correlation_is_spearmans(count, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 6, (2, count)).astype(float)
    correlation = rank_correlation(a, b)
    if count < 2 or len(np.unique(a)) == 1 or len(np.unique(b)) == 1:
        assert correlation is None
    else:
        assert correlation == pytest.approx(spearmanr(a, b).statistic)


def test_modules_that_split_merge_and_vanish():
    a = made([12, 12], [11, 2], seed=2)
    before = np.array([-1, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, -1])
    after = np.array([-1, 3, 3, 3, 0, 0, 0, 0, 1, -1, 1, 1])
    none = np.full(3, -1)
    extra = np.array([-1, 2, 2])

    def having(*numbers):
        membership = dict(zip(("l0", "l1"), numbers, strict=True))
        return replace(a, graph=a.graph.with_partition(partition(membership)))

    modules = compare_sides(having(before, none), having(after, extra)).modules
    first, second, third = modules.fates
    assert (first.size, first.to, first.shared, first.elsewhere) == (4, 3, 3, {0: 1})
    assert (second.to, second.shared, second.elsewhere) == (0, 3, {})
    assert (third.to, third.shared, third.nowhere) == (1, 2, 1)
    assert modules.count == (3, 4)
    assert (modules.lost, modules.gained) == ((), (2,))
    in_both = (before >= 0) & (after >= 0)
    assert modules.features == in_both.sum() == 9
    expected = adjusted_mutual_information(before[in_both], after[in_both])
    assert modules.agreement == pytest.approx(expected)
    back = compare_sides(having(after, extra), having(before, none)).modules
    assert (back.lost, back.gained) == ((2,), ())
    assert (back.fates[2].to, back.fates[2].shared, back.fates[2].nowhere) == (None, 0, 2)


def test_modules_are_paired_for_the_largest_total():
    """Module 0 shares most with 0, but giving it 1 keeps more features together."""
    a = made([12, 12], [12, 2], seed=2)
    before = np.array([-1, *[0] * 7, *[1] * 5])
    after = np.array([-1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0])
    sides = [
        replace(
            a,
            graph=a.graph.with_partition(partition({"l0": members, "l1": np.full(3, -1)})),
        )
        for members in (before, after)
    ]
    fates = compare_sides(*sides).modules.fates
    assert [(fate.to, fate.shared) for fate in fates] == [(1, 3), (0, 5)]


def test_modules_without_matched_features():
    a, b = made([9, 9], [3, 3], seed=1), made([9, 9], [3, 3], seed=50)
    difference = compare_sides(a, b, 1.0)
    assert difference.modules.agreement is None
    assert difference.modules.features == 0
    assert difference.modules.lost == tuple(range(difference.modules.count[0]))
    assert [pair.jaccard for pair in difference.pairs] == [None]
    assert [pair.rank_correlation for pair in difference.pairs] == [None]
    json.dumps(difference.as_dict(), allow_nan=False)
    # Whatever is assigned counts as matched at 0.
    everything = compare_sides(a, b, 0.0)
    assert [len(everything.matched(name).a) for name in ("l0", "l1")] == [3, 3]


def test_random_subspaces_overlap_as_chance_says():
    overlaps = [
        subspace_overlap(orthogonal(10, seed)[:3], orthogonal(10, seed + 5000)[:6])
        for seed in range(400)
    ]
    layer = compare_layer("l", basis_of(orthogonal(10, 0)[:3]), basis_of(orthogonal(10, 5000)[:6]))
    assert layer.by_chance == 6 / 10
    assert np.mean(overlaps) == pytest.approx(0.6, abs=0.02)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_overlap_is_of_subspaces_and_not_of_directions(k, other, seed):
    """Any other directions of the same subspace, however far from orthogonal, are the same."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((k, 8)), rng.standard_normal((other, 8))
    mixed = rng.standard_normal((k + 2, k)) @ a
    assert subspace_overlap(a, mixed) == pytest.approx(1)
    assert subspace_overlap(mixed, b) == pytest.approx(subspace_overlap(a, b))
    # Against cosines of principal angles from projections.
    p, q = (np.linalg.pinv(directions) @ directions for directions in (a, b))
    assert subspace_overlap(a, b) == pytest.approx(np.trace(p @ q) / min(k, other))
    assert orthonormal(mixed).shape == (k, 8)


def test_over_complete_dictionaries_count_their_rank():
    directions = np.random.default_rng(0).standard_normal((12, 4))
    layer = compare_layer("l", basis_of(directions), basis_of(directions[:3]))
    assert layer.features == (12, 3)
    assert layer.overlap == pytest.approx(1)
    assert layer.by_chance == 1
    assert len(layer.matching.a) == 3


def test_isolated_features_and_the_constant_do_not_count():
    directions = orthogonal(6, 0)[:3]
    a, b = basis_of(directions, 0), basis_of(directions, 9)
    assert not torch.equal(a.decoder[0], b.decoder[0])
    layer = compare_layer("l", a, b)
    assert layer.overlap == pytest.approx(1)
    assert layer.matching.a.tolist() == layer.matching.b.tolist() == [1, 2, 3]
    # Two isolated features on one side only.
    more = replace(b, isolated=2)
    assert compare_layer("l", a, more).matching.b.tolist() == [2, 3]
    assert decoder_directions("l", more).shape == (2, 7)


def test_nothing_but_isolated_features():
    a = basis_of(orthogonal(4, 0)[:2])
    alone = Basis(a.encoder[:, :1], a.decoder[:1], a.importance[:1], 1)
    layer = compare_layer("l", a, alone)
    assert (layer.overlap, layer.by_chance, layer.leading) == (None, None, {})
    assert layer.features == (2, 0)
    assert len(layer.matching.a) == 0
    assert compare_layer("l", alone, alone, needed=1).needed == 0


def test_norms_from_the_ends_of_the_range():
    directions = orthogonal(5, 1)[:3]
    a = basis_of(directions)
    scale = torch.tensor([1, 1e-200, 1e200, 1], dtype=torch.float64)
    b = replace(a, decoder=a.decoder * scale.unsqueeze(1))
    np.testing.assert_allclose(compare_layer("l", a, b).matching.cosine, 1)
    zero = replace(a, decoder=a.decoder * torch.tensor([1, 0, 1, 1]).double().unsqueeze(1))
    layer = compare_layer("l", a, zero)
    np.testing.assert_allclose(layer.matching.cosine, [0, 1, 1])
    assert layer.by_chance == 3 / 5


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_decoders_that_are_not_finite(value):
    a = basis_of(orthogonal(4, 0)[:2])
    broken = a.decoder.clone()
    broken[1, 1] = value
    with pytest.raises(NumericalError, match=r"Decoders of mid .*force=True\."):
        compare_layer("mid", a, replace(a, decoder=broken))


def test_unrotated_layers_are_compared_as_they_are():
    eye = Basis(torch.eye(4).double(), torch.eye(4).double(), torch.ones(4).double(), 0, False)
    layer = compare_layer("output", eye, eye)
    assert not layer.rotated
    assert layer.matching.a.tolist() == layer.matching.b.tolist() == [0, 1, 2, 3]
    assert layer.overlap == 1


def test_needed_features():
    directions = orthogonal(8, 3)
    a, b = directions[:6], directions[[0, 1, 6, 3, 4, 5]]
    layer = compare_layer("l", basis_of(a), basis_of(b), needed=4)
    assert layer.needed == 3  # without the constant
    assert layer.needed_overlap == pytest.approx(2 / 3)
    unknown = compare_layer("l", basis_of(a), basis_of(b))
    assert (unknown.needed, unknown.needed_overlap) == (None, None)
    assert compare_layer("l", basis_of(a), basis_of(b), needed=100).needed == 6
    assert compare_layer("l", basis_of(a), basis_of(b), needed=0).needed == 0
    b = needing(made([8, 5], [6, 3]), {"l0": 4, "l1": None})
    a = replace(b, bases={**b.bases, "l0": basis_of(b.bases["l0"].decoder[1:, :-1].numpy())})
    difference = compare_sides(a, b)
    assert [difference.needed_matched(layer) for layer in difference.layers] == [3, None]
    figures = difference.as_dict()["layers"]
    assert (figures["l0"]["needed"], figures["l0"]["needed_matched"]) == (3, 3)
    assert figures["l0"]["share_matched"] == 1


def test_layers_that_are_not_common_are_named():
    a, b = made([6, 5, 4], [4, 4, 3]), made([6, 7], [4, 4])
    difference = compare_sides(a, b)
    assert [layer.name for layer in difference.layers] == ["l0"]
    assert difference.others == {"l1": (6, 8), "l2": (5, None)}
    assert difference.pairs == ()
    assert compare_sides(b, a).others == {"l1": (8, 6), "l2": (None, 5)}
    with pytest.raises(UsageError, match=r"no node layer .*l0 of 7.*l0 of 4.*same network\."):
        compare_sides(a, made([3, 3], [2, 2]))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["step-000500", "step-001000"], [500, 1000]),
        (["500", "20"], [500, 20]),
        (["a1", "b1"], None),
        (["a1", "b"], None),
        (["1a", "2a"], None),
    ],
)
def test_places_of_runs(names, expected):
    assert places(names) == expected


TOLERANCES = (0.001, 0.1)


@pytest.fixture(scope="module")
def computed(weights, tmp_path_factory) -> ComputedRun:
    out = tmp_path_factory.mktemp("difference") / "run-7"
    return lg.analyze(ModularAddition(weights=weights), out=out, seeds=3, tolerances=TOLERANCES)


@pytest.fixture(scope="module")
def saved(computed) -> SavedRun:
    return open_run(computed.directory)


@pytest.fixture(scope="module")
def other(weights) -> ComputedRun:
    """A run of other weights, which is nowhere but in memory."""
    moved = {
        name: tensor + 0.05 * tensor.std() * torch.randn(tensor.shape, generator=seeded())
        for name, tensor in weights.items()
    }
    return lg.analyze(ModularAddition(weights=moved), seeds=3, tolerances=TOLERANCES)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_a_real_run_and_itself(saved):
    own = side(saved)
    assert own.basis == "lib"
    assert own.graph.communities == saved.graph().communities
    difference = compare_sides(own, own)
    for layer in difference.layers:
        np.testing.assert_allclose(layer.matching.cosine, 1)
        np.testing.assert_array_equal(layer.matching.a, layer.matching.b)
        assert layer.needed_overlap in (None, pytest.approx(1))
    assert all((pair.lost, pair.gained) == (0, 0) for pair in difference.pairs)
    assert not difference.layers[-1].rotated


@pytest.mark.parametrize("basis", [None, "pca"])
def test_runs_in_memory_and_their_directories_differ_in_the_same(computed, other, basis):
    """The first in memory, as a run that was read back, and by its path."""
    path = computed.directory
    differences = [
        diff(run, other, basis=basis) for run in (computed, open_run(path), path, str(path))
    ]
    figures = [difference.as_dict() for difference in differences]
    assert figures[0] == figures[1] == figures[2] == figures[3]
    assert [str(difference) for difference in differences[1:]] == [str(differences[0])] * 3
    assert str(differences[0]).startswith(
        f"A: {path}, {(basis or 'lib').upper()}\nB: modular-addition, {(basis or 'lib').upper()}\n"
    )
    assert sum(layer["matched"] for layer in figures[0]["layers"].values()) > 0
    assert figures[0] != diff(other, other, basis=basis).as_dict()
    assert repr(differences[0]).startswith("<Difference of ")


def test_bases_and_threshold_reach_the_difference(computed, other):
    difference = diff(computed, other, basis="pca", basis_b="lib", threshold=0.25)
    assert (difference.a.basis, difference.b.basis, difference.threshold) == ("pca", "lib", 0.25)
    assert diff(computed, other, basis_b="pca").a.basis == "lib"
    with pytest.raises(UsageError, match="no basis 'ica': choose one of lib, pca"):
        diff(computed, other, basis_b="ica")
    with pytest.raises(UsageError, match=r"1\.5 is no \|cosine\|"):
        diff(computed, other, threshold=1.5)


def test_a_series_of_runs_in_memory_and_on_disk(computed, other):
    series = diff_series([computed, other, computed.directory])
    assert [row.name for row in series.figures] == ["run-7", "modular-addition", "run-7"]
    assert series.figures[0] == series.figures[2]
    for a, b, difference in zip(
        (computed, other), (other, computed), series.differences, strict=True
    ):
        assert difference.as_dict() == diff(a, b).as_dict()
    assert "Each and the one before it" in str(series)
    assert series.title == "modular-addition: 3 runs in the LIB basis"
    plain = series.as_dict(figures=False)
    assert plain["runs"][1] == {"run": "modular-addition", "basis": "lib"}
    with_figures = series.as_dict()
    assert with_figures["differences"] == plain["differences"]
    assert with_figures["runs"][1]["score"] == other.metrics.score.test
    bases = diff_series([computed, other], bases=["pca", None])
    assert [side.basis for side in bases.sides] == ["pca", "lib"]
    assert bases.title == "modular-addition: 2 runs in the PCA and LIB basis"


def test_series_that_are_none(computed):
    with pytest.raises(UsageError, match="give another"):
        diff_series([computed])
    with pytest.raises(UsageError, match="1 bases are not those of 2 runs"):
        diff_series([computed, computed], bases=["lib"])


def test_the_constant_is_in_no_decoder_that_is_compared(saved):
    """So that leaving out isolated features leaves out the constant, whatever the basis."""
    for name in saved.basis_names:
        for layer, basis in saved.bases(name).items():
            if basis.rotated and basis.isolated:
                assert basis.decoder[basis.isolated :, -1].abs().max() == 0, (name, layer)


def test_two_bases_of_one_run_span_the_same(saved):
    lib, pca = side(saved), side(saved, "pca")
    modules = saved.metrics.bases["pca"].modules
    assert pca.graph.partition.modularity == pytest.approx(modules.modularity)
    assert pca.graph.partition.size == modules.count
    for layer in compare_sides(lib, pca).layers:
        assert layer.overlap == pytest.approx(1, abs=1e-6)


def test_figures_are_those_of_the_run(saved):
    own = side(saved)
    row = run_figures(own, own)
    figures = saved.metrics.bases["lib"]
    assert row.name == "run-7"
    assert row.score == saved.metrics.score.test
    required = [counts[0.001] for counts in figures.edges_required.values()]
    assert row.edges_needed == (None if None in required else sum(required))
    ratios = [measures.participation_ratio for measures in figures.sparsity.values()]
    assert row.effective_edges == pytest.approx(sum(ratios))
    assert row.modules == figures.modules.count
    assert row.modularity == figures.modules.modularity
    assert row.within_concept == figures.modules.within_concept
    assert row.overlap_last == pytest.approx(1)


def test_overlap_with_the_last_run():
    """Over the features that the last run needs, or over all where none are known to be needed."""
    own, last = made([8, 6], [5, 4], 1), made([8, 6], [5, 4], 60)
    assert run_figures(last, last).overlap_last == pytest.approx(1)
    needed = {"l0": 3, "l1": 1}
    needy = needing(last, needed)
    first, second = compare_sides(own, needy).layers
    assert (first.needed, second.needed) == (2, 0)
    expected = (first.leading[2] + second.overlap) / 2
    assert run_figures(own, needy).overlap_last == pytest.approx(expected)
    mean = np.mean([first.overlap, second.overlap])
    assert run_figures(needing(own, needed), last).overlap_last == mean


def test_edges_needed_are_not_known_where_all_are_too_few():
    own = made([8, 6, 5], [5, 4, 4])

    def edges_needed(*counts):
        required = {f"pair {i}": {0.001: count, 0.1: 1} for i, count in enumerate(counts)}
        metrics = metrics_of({"lib": {"edges_required": required}})
        a = replace(own, metrics=metrics)
        return run_figures(a, a).edges_needed

    assert edges_needed(5, 6, 7) == 18
    assert edges_needed(None, 6, 7) is None
    assert edges_needed() is None


def test_the_figure_places_runs_by_their_numbers(saved, tmp_path):
    pytest.importorskip("matplotlib")
    own = side(saved)
    row = run_figures(own, own)
    images = []
    for names in (("s1", "s2", "s9"), ("s1", "s2", "s3"), ("s1", "s2", "t")):
        rows = [replace(row, name=name, modules=i) for i, name in enumerate(names)]
        for _ in range(2):
            draw_series(rows, tmp_path / "a.png", title="$x")
        images.append((tmp_path / "a.png").read_bytes())
    assert len(set(images)) == 3


def test_edges_of_the_figure_have_ticks_and_other_scores_are_no_part_of_it(
    saved, tmp_path, monkeypatch
):
    pytest.importorskip("matplotlib")
    from libgraph.report import series_figure

    seen = {}

    def look(figure, path):
        figure.canvas.draw()
        for axes in figure.axes:
            low, high = axes.get_ylim()
            seen[axes.get_ylabel()] = [
                label.get_text()
                for place, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
                if low <= place <= high and label.get_text()
            ]
        seen["scores"] = figure.axes[0].lines[0].get_ydata().tolist()

    monkeypatch.setattr(series_figure, "save_figure", look)
    own = side(saved)
    row = run_figures(own, own)
    for lowest in (80, 9, 0.5):
        rows = [
            replace(row, name=name, edges_needed=190 + number, effective_edges=lowest)
            for number, name in enumerate(("a", "b"))
        ]
        rows[0] = replace(rows[0], score_name="another", score=7.0)
        draw_series(rows, tmp_path / "a.png")
        assert len(seen["edges"]) >= 3, lowest
        assert np.isnan(seen["scores"][0])
        assert seen["scores"][1] == row.score


@pytest.mark.parametrize(
    ("part", "change"),
    [("decoder", lambda decoder: decoder[:, 1:]), ("encoder", lambda encoder: encoder[:, 1:])],
)
def test_a_run_whose_bases_do_not_fit(saved, monkeypatch, part, change):
    broken = {
        name: replace(basis, **{part: change(getattr(basis, part))})
        for name, basis in saved.bases("lib").items()
    }
    monkeypatch.setattr(SavedRun, "bases", lambda self, name: broken)
    with pytest.raises(UsageError, match=r"do not fit its node layer .*force=True\."):
        side(saved)


# Agreement of dictionaries


def latents_of(directions: np.ndarray) -> Dictionary:
    """Latents that write these, after a constant and an error."""
    count, size = directions.shape
    decoder = np.zeros((count + 2, size + 1))
    decoder[0, -1] = 1
    decoder[2:, :-1] = directions
    return Dictionary(
        torch.tensor(decoder.T.copy()),
        torch.tensor(decoder),
        torch.ones(count + 2).double(),
        isolated=2,
        gate=Threshold(torch.zeros(count).double()),
    )


def test_closest_is_the_mean_of_largest_cosines():
    """Each feature's nearest, which may be the same one for several, by a plain loop."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((7, 5)), rng.standard_normal((9, 5))
    found = compare_layer("h", basis_of(a), basis_of(b)).closest

    def nearest(each: np.ndarray, others: np.ndarray) -> float:
        return max(abs(each @ o) / np.linalg.norm(each) / np.linalg.norm(o) for o in others)

    assert found.a == pytest.approx(np.mean([nearest(each, b) for each in a]), abs=1e-12)
    assert found.b == pytest.approx(np.mean([nearest(each, a) for each in b]), abs=1e-12)


def test_latents_of_opposite_directions_are_not_the_same():
    """Latents are never negative, so that their signs count; those of linear features do not."""
    directions = orthogonal(6, 1)
    turned = directions * np.array([1, -1, 1, -1, -1, 1])[:, None]
    latents = compare_layer("h", latents_of(directions), latents_of(turned))
    assert latents.closest == pytest.approx((0.5, 0.5))
    assert len(latents.matching.above(0.9).a) == 3
    linear = compare_layer("h", basis_of(directions), latents_of(turned))
    assert linear.closest == pytest.approx((1, 1))


def test_chance_is_what_random_directions_of_the_same_shape_have():
    """Features that crowd into few dimensions are near anything there, and chance says so."""
    rng = np.random.default_rng(2)
    crowded = rng.standard_normal((40, 8)) * np.array([9, 9, *[0.01] * 6])
    others = rng.standard_normal((40, 8)) * np.array([9, 9, *[0.01] * 6])
    alike = compare_layer("h", latents_of(crowded), latents_of(others))
    assert alike.closest.a == pytest.approx(alike.closest_by_chance.a, abs=0.02)
    assert alike.closest_by_chance.a > 0.95
    spread = compare_layer("h", latents_of(orthogonal(8, 3)), latents_of(orthogonal(8, 3)[::-1]))
    assert spread.closest.a == pytest.approx(1)
    assert spread.closest_by_chance.a < 0.8


def test_directions_are_compared_in_the_coordinates_of_a_linear_basis():
    """What a basis does not see does not count: its encoder gives the coordinates."""
    rng = np.random.default_rng(4)
    seen, unseen = rng.standard_normal((5, 3)), 100 * rng.standard_normal((2, 5, 4))
    a, b = (latents_of(np.hstack([seen, noise])) for noise in unseen)
    encoder = torch.zeros(8, 4).double()
    encoder[:3, 1:] = torch.tensor(rng.standard_normal((3, 3)))
    encoder[-1, 0] = 1
    within = Basis(encoder, encoder.T, torch.ones(4).double(), isolated=1)
    assert compare_layer("h", a, b, coordinates=within).closest == pytest.approx((1, 1))
    assert compare_layer("h", a, b).closest.a < 0.95


def test_latents_are_no_coordinates():
    """A dictionary's features are not linear: said by name, with what to do."""

    class Curved:
        def chosen(self, basis):
            return basis

        def bases(self, basis):
            return {"h": latents_of(orthogonal(4, 0))}

    with pytest.raises(UsageError, match="latents at h, and no coordinates: name a linear basis"):
        coordinates_of(Curved(), "dictionary")
    assert coordinates_of(Curved(), None) is None


def test_it_is_said_where_coordinates_are_others(caplog):
    """As at node layers that the run of a series whose coordinates they are does not have."""
    a, b = made([4, 5], [3, 3], seed=1), made([4, 5], [3, 3], seed=2)
    whole = compare_sides(a, b, coordinates=a.bases)
    assert not caplog.records
    some = compare_sides(a, b, coordinates={"l0": a.bases["l0"]})
    (record,) = caplog.records
    assert "are compared in their own coordinates at l1:" in record.getMessage()
    assert some.layers[0].closest == whole.layers[0].closest
    assert some.layers[1].closest == compare_sides(a, b).layers[1].closest
