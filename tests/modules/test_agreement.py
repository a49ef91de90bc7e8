import igraph
import numpy as np
import pytest
from helpers.examples import examples
from hypothesis import given
from hypothesis import strategies as st

from libgraph.modules.agreement import (
    adjusted_mutual_information,
    adjusted_rand_index,
    homogeneity,
    mean_agreement,
)

divisions = st.integers(1, 60).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 7), min_size=n, max_size=n)] * 2)
)


@given(divisions)
@examples(50)
def test_measures_are_those_of_scikit_learn(pair):
    metrics = pytest.importorskip("sklearn.metrics")
    a, b = pair
    for modules, truth in ((a, b), (np.array(a), np.array(b)), (list(map(str, a)), b)):
        ami = adjusted_mutual_information(modules, truth)
        assert ami == pytest.approx(metrics.adjusted_mutual_info_score(b, a), abs=1e-9)
        assert adjusted_rand_index(modules, truth) == pytest.approx(
            metrics.adjusted_rand_score(b, a), abs=1e-12
        )
        assert homogeneity(modules, truth) == pytest.approx(
            metrics.homogeneity_score(b, a), abs=1e-9
        )


@pytest.mark.parametrize(
    ("modules", "truth", "expected"),
    [
        # One module tells nothing about any other division.
        ([0, 0, 0], [0, 0, 1], 0),
        ([0, 0, 0, 0], [0, 1, 2, 2], 0),
        # Single members know all of it, but so do they of any other with these sizes.
        ([0, 1, 2, 3], [0, 0, 1, 1], 0),
        # Wherever the odd one stands it is in a half: every shuffle has the same information.
        ([0, 0, 0, 1], [0, 0, 1, 1], 0),
        # 2 + 2 members: the other two ways to pair them share no information, so E[I] = log(2) / 3.
        ([0, 0, 1, 1], [0, 1, 0, 1], -0.5),
    ],
)
def test_by_hand(modules, truth, expected):
    assert adjusted_mutual_information(modules, truth) == pytest.approx(expected, abs=1e-12)
    assert adjusted_mutual_information(truth, modules) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("modules", "members"), [(4, 3000), (1500, 3000), (40, 10_000)])
def test_many_members(modules, members):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(modules)
    a = rng.integers(modules, size=members)
    b = np.where(rng.random(members) < 0.5, a, rng.integers(modules, size=members))
    assert adjusted_mutual_information(a, b) == pytest.approx(
        metrics.adjusted_mutual_info_score(a, b), abs=1e-9
    )
    assert adjusted_rand_index(a, b) == pytest.approx(
        igraph.compare_communities(a.tolist(), b.tolist(), method="adjusted_rand")
    )


def test_chance_is_zero_and_names_do_not_matter():
    rng = np.random.default_rng(0)
    a, b = rng.integers(10, size=(2, 5000))
    assert abs(adjusted_mutual_information(a, b)) < 0.01
    assert adjusted_mutual_information(a, 9 - a) == 1
    assert adjusted_mutual_information(a, a * 0) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("same", [[], [0], [0, 0, 0], [0, 1, 2], [2, 2, 5]])
def test_the_same_division_agrees_whatever_it_is(same):
    for measure in (adjusted_mutual_information, adjusted_rand_index, homogeneity):
        assert measure(same, same) == 1


def test_divisions_of_different_members_are_refused():
    with pytest.raises(ValueError, match="2 members are not 3"):
        adjusted_mutual_information([0, 1], [0, 1, 2])


def test_mean_agreement_leaves_out_what_has_no_module():
    a, b, c = np.array([-1, 0, 0, 1, 1]), np.array([-1, 1, 1, 0, 0]), np.array([-1, 0, 1, 0, 1])
    other = adjusted_mutual_information([0, 0, 1, 1], [0, 1, 0, 1])
    assert mean_agreement([a, b]) == 1
    assert mean_agreement([a]) == 1
    assert mean_agreement([a, b, c]) == pytest.approx((1 + 2 * other) / 3)
