import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libgraph.errors import UsageError
from libgraph.sections.quadrature import DEFAULT_POINTS, Quadrature

RULES = {"trapezoid": Quadrature.trapezoid, "gauss-legendre": Quadrature.gauss_legendre}


def integral_of_power(rule, degree):
    return np.dot(rule.weights, np.array(rule.points) ** degree)


def test_gradient_is_the_end_of_the_path():
    rule = Quadrature.gradient()
    assert (rule.points, rule.weights) == ((1.0,), (1.0,))


@pytest.mark.parametrize("name", RULES)
@given(points=st.integers(2, 40))
@settings(deadline=None, max_examples=20)
def test_points_lie_on_the_path_and_weights_sum_to_one(name, points):
    rule = RULES[name](points)
    assert len(rule.points) == len(rule.weights) == points
    assert sum(rule.weights) == pytest.approx(1, abs=1e-13)
    assert min(rule.points) >= 0
    assert max(rule.points) <= 1
    assert all(np.diff(rule.points) > 0)
    assert rule.points == pytest.approx([1 - point for point in reversed(rule.points)])
    assert min(rule.weights) > 0


@given(points=st.integers(1, 12))
@settings(deadline=None, max_examples=15)
def test_gauss_legendre_is_exact_up_to_its_degree_and_no_further(points):
    rule = Quadrature.gauss_legendre(points)
    for degree in range(2 * points):
        assert integral_of_power(rule, degree) == pytest.approx(1 / (degree + 1), abs=1e-13)
    if points <= 6:
        beyond = 2 * points
        assert integral_of_power(rule, beyond) != pytest.approx(1 / (beyond + 1), abs=1e-9)


@given(points=st.integers(2, 50))
@settings(deadline=None, max_examples=15)
def test_trapezoid_is_exact_for_lines_and_has_its_known_error_for_squares(points):
    rule = Quadrature.trapezoid(points)
    assert (rule.points[0], rule.points[-1]) == (0, 1)
    assert integral_of_power(rule, 1) == pytest.approx(1 / 2)
    assert integral_of_power(rule, 2) - 1 / 3 == pytest.approx(1 / (6 * (points - 1) ** 2))


@pytest.mark.parametrize("text", ["gradient", "trapezoid:5", "gauss-legendre:3"])
def test_the_name_reads_back(text):
    rule = Quadrature.parse(text)
    assert rule.name == text
    assert Quadrature.parse(rule.name) == rule


@pytest.mark.parametrize("name", RULES)
def test_the_number_of_points_has_a_default(name):
    assert Quadrature.parse(name) == RULES[name](DEFAULT_POINTS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("simpson", "Unknown integration 'simpson'"),
        ("", "Unknown integration ''"),
        ("gradient:3", "Unknown integration 'gradient:3'"),
        ("trapezoid:many", "'many' is not a number"),
        ("trapezoid:-2", "'-2' is not a number"),
        ("trapezoid:1", "at least 2 points, not 1"),
        ("gauss-legendre:0", "at least 1 point, not 0"),
    ],
)
def test_what_cannot_be_parsed(text, said):
    with pytest.raises(UsageError, match=said):
        Quadrature.parse(text)
