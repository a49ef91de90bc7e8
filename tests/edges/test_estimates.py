"""Interactions of a whole network estimated from random signs, against exact ones."""

from functools import cache

import pytest
import torch
from helpers.edges import assert_same_edges, every_basis
from helpers.networks import small_network, toy_data
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import libgraph as lg
from libgraph.edges.interactions import _seeds, _Signs, estimate_interactions, interactions
from libgraph.runs.measures import standard_error
from libgraph.sections.quadrature import Quadrature

FALSE_ALARMS = 1e-6
"""How often a check of chance may fail by chance, if its seeds were drawn anew."""

GRADIENT = Quadrature.gradient()


@cache
def network_and_bases(kinds=("attention", "tanh", "linear"), samples=12):
    network, inputs = small_network(kinds, samples)
    return network, inputs, every_basis(network, toy_data(network, inputs))


def test_estimates_of_a_network_are_near_its_interactions():
    """Squared errors add up to what is reported.

    Of sums of squares of one normal deviate each, and of several in any proportion, that of one
    deviate by itself is the least certain: χ² with as many degrees as there are repeats.
    """
    network, inputs, bases = network_and_bases(samples=200)
    data, repeats = toy_data(network, inputs, batch_size=64), 30
    exact = interactions(network, bases, data, GRADIENT)
    estimates = [
        estimate_interactions(network, bases, data, GRADIENT, 4, seed) for seed in range(repeats)
    ]
    for estimate in estimates:
        assert estimate.edges.keys() == estimate.errors.keys() == exact.keys()
    level = FALSE_ALARMS / 2 / len(exact)
    low, high = (stats.chi2(repeats).ppf(level / 2), stats.chi2(repeats).isf(level / 2))
    for name, by_pair in exact.items():
        for pair, edges in by_pair.items():
            missed = torch.stack([estimate.edges[name][pair] - edges for estimate in estimates])
            reported = torch.stack([estimate.errors[name][pair] for estimate in estimates])
            if pair == ("l2", "l3"):
                assert not missed.any()
                assert not reported.any()
            else:
                squares = float(missed.square().sum() / reported.square().sum())
                assert low < repeats * squares < high
                assert float(reported.norm()) < 0.1 * repeats**0.5 * float(edges.norm())


def test_no_more_positions_than_draws_is_exact():
    network, inputs, bases = network_and_bases(("attention", "attention-last"))
    data = toy_data(network, inputs)
    exact = interactions(network, bases, data, GRADIENT)
    enough = estimate_interactions(network, bases, data, GRADIENT, 5)
    for name in bases:
        assert_same_edges(enough.edges[name], exact[name], 0)
        assert not any(error.any() for error in enough.errors[name].values())
    fewer = estimate_interactions(network, bases, data, GRADIENT, 4)
    assert {pair: bool(e.any()) for pair, e in fewer.errors["pca"].items()} == {
        ("l0", "l1"): True,
        ("l1", "l2"): False,
    }


def test_no_signs_are_exact_and_have_no_errors():
    network, inputs, bases = network_and_bases()
    data = toy_data(network, inputs)
    estimate = estimate_interactions(network, bases, data, GRADIENT, 0)
    assert estimate.errors == {}
    for name, by_pair in interactions(network, bases, data, GRADIENT).items():
        assert_same_edges(estimate.edges[name], by_pair, 0)


def test_the_seed_decides():
    network, inputs, bases = network_and_bases()
    data = toy_data(network, inputs)

    def edges(seed):
        pca = {"pca": bases["pca"]}
        return estimate_interactions(network, pca, data, GRADIENT, 2, seed).edges["pca"]["l0", "l1"]

    assert torch.equal(edges(3), edges(3))
    assert not torch.equal(edges(3), edges(4))


@given(batch_size=st.integers(1, 30))
@settings(deadline=None, max_examples=10)
def test_batches_do_not_matter(batch_size):
    network, inputs, bases = network_and_bases()
    parts, whole = toy_data(network, inputs, batch_size=batch_size), toy_data(network, inputs)
    estimate, expected = (
        estimate_interactions(network, bases, data, GRADIENT, 3) for data in (parts, whole)
    )
    for name in bases:
        assert_same_edges(estimate.edges[name], expected.edges[name])
        assert_same_edges(estimate.errors[name], expected.errors[name], 1e-7)


def test_batches_and_layer_pairs_draw_signs_of_their_own():
    like = torch.zeros(40, 5, 1)

    def signs(seed):
        chances = [_Signs(3, 40, of_pair) for of_pair in _seeds(2, seed)]
        return [chance.of(number, 0, like) for number in range(2) for chance in chances]

    drawn = signs(0) + signs(1)
    # Of a batch they are the same where those before it are measured elsewhere.
    alone = [_Signs(3, 40, of_pair).of(1, 0, like) for of_pair in _seeds(2, 0)]
    for one, other in zip(alone, drawn[2:4], strict=True):
        assert torch.equal(one, other)
    count = drawn[0].numel()
    level = FALSE_ALARMS / (len(drawn) * (len(drawn) - 1) / 2)
    low, high = (stats.binom(count, 0.5).ppf(level / 2), stats.binom(count, 0.5).isf(level / 2))
    for i, first in enumerate(drawn):
        assert first.shape == (3, 40, 5)
        assert set(first.unique().tolist()) == {-1.0, 1.0}
        for second in drawn[:i]:
            assert low < int((first == second).sum()) < high


def test_the_relative_error_leaves_isolated_features_out():
    def basis(isolated):
        return lg.Basis(torch.eye(3), torch.eye(3), torch.ones(3), isolated=isolated)

    bases = {"a": basis(1), "b": basis(0)}
    edges = torch.tensor([[9.0, 3, 0], [9, 0, 4], [9, 0, 0]])
    errors = torch.tensor([[7.0, 0.3, 0], [7, 0.4, 0], [7, 0, 0]])
    pair = ("a", "b")
    assert standard_error(bases, {pair: edges}, {pair: errors}) == {"a->b": pytest.approx(0.1)}
    assert standard_error(bases, {pair: 0 * edges}, {pair: errors}) == {"a->b": None}
    assert standard_error(bases, {pair: edges}, {}) == {}
