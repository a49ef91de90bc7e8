"""Automatic differentiation takes the mode with fewer passes."""

import pytest
from helpers.jacobians import Shape, build, build_features
from helpers.numbers import normal, seeded
from helpers.sections import random_section

from libgraph.edges.interactions import draw_signs
from libgraph.sections import Function, Parallel, autodiff
from libgraph.sections.quadrature import Quadrature
from libgraph.testing import check_section

GRADIENT = Quadrature.gradient()


@pytest.mark.parametrize(("d_in", "d_out", "mode"), [(2, 5, "jvp"), (5, 2, "vjp"), (3, 3, "vjp")])
def test_the_gram_takes_the_mode_with_fewer_passes(d_in, d_out, mode, monkeypatch):
    used = spy_on_modes(monkeypatch)
    section, x = random_section("mixing", d_in, d_out), normal(seeded(0), 2, 3, d_in)
    check_section(section, x, checks=["jacobian_gram"])
    assert used == {mode}


@pytest.mark.parametrize(("features", "mode"), [(2, "jvp"), (6, "jvp"), (7, "vjp")])
def test_interactions_take_the_mode_with_fewer_passes(features, mode, monkeypatch):
    used = spy_on_modes(monkeypatch)
    section, x = build("mixing", Shape(0, 2, 3, 4, 2, features, 1, 1))
    rules = [Quadrature.trapezoid(3)]
    check_section(section, x, checks=["interactions"], quadratures=rules, features=features)
    assert used == {mode}


def spy_on_modes(monkeypatch):
    used = set()
    for name in ("jvp", "vjp"):
        original = getattr(autodiff, name)

        def spy(*arguments, name=name, original=original):
            used.add(name)
            return original(*arguments)

        monkeypatch.setattr(autodiff, name, spy)
    return used


@pytest.mark.parametrize(("features", "mode"), [(4, "exact"), (5, "signs")])
@pytest.mark.parametrize("parallel", [False, True])
def test_estimates_are_exact_where_that_takes_no_more_passes(features, mode, parallel, monkeypatch):
    """With 2 draws and 2 outputs: 4 passes against one a feature."""
    shape = Shape(0, 2, 6, 3, 2, features, 1, 1)
    section, x = build("mixing", shape)
    if parallel:
        section = Parallel([section, Function(section.function, 3, 2).double()])
    taken = []
    estimate = autodiff.estimate
    monkeypatch.setattr(
        autodiff, "estimate", lambda *given: taken.append("signs") or estimate(*given)
    )
    exact = type(section).interactions
    monkeypatch.setattr(
        type(section), "interactions", lambda *given: taken.append("exact") or exact(*given)
    )
    signs = draw_signs(2, section(x), seeded(0))
    section.estimate(x, *build_features(shape), GRADIENT, signs)
    assert taken == [mode]
