import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from libgraph.edges.sparsity import gini, hoyer, participation_ratio, sparsity_measures, top_share
from libgraph.errors import NumericalError, UsageError

MEASURES = [hoyer, gini, participation_ratio, top_share]
edge_matrices = arrays(np.float64, (4, 5), elements=st.floats(0, 1e3, width=32)).filter(np.any)


def test_equal_edges():
    assert sparsity_measures(np.full((10, 20), 3.0)) == pytest.approx(
        {"hoyer": 0, "gini": 0, "participation_ratio": 200, "top_share": 0.01}
    )


def test_one_edge_among_many():
    edges = np.zeros((10, 20))
    edges[3, 4] = 7
    assert sparsity_measures(edges) == pytest.approx(
        {"hoyer": 1, "gini": 1 - 1 / 200, "participation_ratio": 1, "top_share": 1}
    )


def test_by_hand():
    edges = [[1.0, 2.0], [3.0, 4.0]]
    assert hoyer(edges) == pytest.approx(2 - 10 / np.sqrt(30))
    assert participation_ratio(edges) == pytest.approx(100 / 30)
    assert top_share(edges, 0.5) == pytest.approx(0.7)
    assert top_share(edges, 0.51) == pytest.approx(0.9)
    # Mean absolute difference over twice the mean: the definition by pairs.
    differences = np.abs(np.subtract.outer(np.ravel(edges), np.ravel(edges)))
    assert gini(edges) == pytest.approx(differences.mean() / (2 * 2.5))


@pytest.mark.parametrize("measure", MEASURES)
@given(edges=edge_matrices, exponent=st.integers(-250, 250))
@settings(deadline=None, max_examples=40)
def test_scale_and_order_do_not_matter(measure, edges, exponent):
    value = measure(edges)
    assert np.isfinite(value)
    assert measure(edges * 10.0**exponent) == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert measure(edges.T[::-1]) == pytest.approx(value, rel=1e-9, abs=1e-9)


@given(edges=edge_matrices)
@settings(deadline=None, max_examples=40)
def test_taking_from_the_rich_is_less_sparse(edges):
    flatter = 0.5 * edges + 0.5 * edges.mean()
    assert hoyer(flatter) <= hoyer(edges) + 1e-9
    assert gini(flatter) <= gini(edges) + 1e-9
    assert participation_ratio(flatter) >= participation_ratio(edges) - 1e-9
    assert top_share(flatter, 0.2) <= top_share(edges, 0.2) + 1e-9


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("edges", [np.zeros((2, 2)), np.empty((0, 3)), [[-1.0]], [[np.nan, 1.0]]])
def test_no_measure_without_finite_positive_edges(measure, edges):
    with pytest.raises(NumericalError):
        measure(edges)


def test_a_single_edge_is_as_sparse_as_can_be():
    assert hoyer([[2.0]]) == 1
    with pytest.raises(UsageError, match="fraction"):
        top_share([[2.0]], 0)
    with pytest.raises(UsageError, match="fraction"):
        top_share([[2.0]], 1.5)
    assert top_share(np.ones((10, 10)), 0.07) == pytest.approx(0.07)
