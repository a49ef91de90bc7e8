"""Estimates of a section's interactions from random signs: exact, unbiased, as sure as they say."""

from itertools import product

import pytest
import torch
from helpers.jacobians import Automatic, Shape, build, build_features, chunks_of
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import KINDS, random_section
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from libgraph.backend.streams import stream
from libgraph.edges.interactions import draw_signs
from libgraph.sections import Pooling, autodiff
from libgraph.sections.closed_form import SignedForm
from libgraph.sections.quadrature import Quadrature

FALSE_ALARMS = 1e-6
"""How often a check of chance may fail by chance, if its seeds were drawn anew."""

EXACT = ["linear", "variance", "division", "positionwise", "chain", "pool"]
SIGNED = [kind for kind in KINDS if isinstance(random_section(kind, 2, 2), SignedForm)]
GRADIENT = Quadrature.gradient()

each_kind = pytest.mark.parametrize("kind", KINDS)


def all_signs(samples, positions):
    """Every choice of signs, the same for all samples."""
    signs = torch.tensor(list(product([-1.0, 1.0], repeat=positions)), dtype=torch.float64)
    return signs.unsqueeze(1).expand(-1, samples, -1)


def some_signs(section, x, draws, seed=0):
    return draw_signs(draws, section(x), stream(seed, 0))


@each_kind
def test_all_signs_together_give_the_exact_interactions(kind):
    """In the basis of the next node layer."""
    shape = Shape(4, 2, 3, 3, 2, 9, 2, 2)
    section, x = build(kind, shape)
    rebased = section.rebase(encoder=normal(seeded(8), 2, 4))
    arguments = (x, *build_features(shape), GRADIENT)
    signs = all_signs(len(x), section(x).shape[1])
    expected = rebased.interactions(*arguments)
    for estimated in (rebased, Automatic(rebased)):
        assert_close(estimated.estimate(*arguments, signs).total, expected)


@pytest.mark.parametrize("kind", SIGNED)
def test_the_variance_is_unbiased(kind):
    """Over all pairs of draws its mean is the variance of their mean."""
    shape = Shape(1, 1, 3, 3, 2, 4, 2, 2)
    section, x = build(kind, shape)
    arguments = (x, *build_features(shape), GRADIENT)
    draws = all_signs(1, section(x).shape[1])
    estimates = [section.estimate(*arguments, torch.stack(pair)) for pair in product(draws, draws)]
    totals = torch.stack([estimate.total for estimate in estimates])
    variances = torch.stack([estimate.variance for estimate in estimates])
    assert_close(variances.mean(0), totals.var(0, correction=0))


@pytest.mark.parametrize("kind", SIGNED)
def test_errors_are_of_the_size_that_is_reported(kind):
    """Errors' means and squares, and variances' means, by normal and χ² approximations."""
    shape, draws, repeats = Shape(2, 300, 8, 3, 3, 5, 2, 2), 4, 20
    section, x = build(kind, shape)
    features, decoder = build_features(shape)
    effects = section.effects(x, GRADIENT)(features, section.seen(decoder))
    # Squares of the sums under all signs, `(x, features, signs, outputs)`: what is drawn from.
    squares = (all_signs(1, effects.shape[2]).squeeze(1) @ effects).square()
    exact, (variance, fourth) = squares.mean(2).sum(0).T, moments(squares)
    estimates = [
        section.estimate(x, features, decoder, GRADIENT, some_signs(section, x, draws, seed))
        for seed in range(repeats)
    ]
    errors = torch.stack([estimate.total for estimate in estimates]) - exact
    reported = torch.stack([estimate.variance for estimate in estimates])
    if kind.endswith("last"):
        # With one position signs are squared away.
        assert_close(errors + exact, exact.expand_as(errors))
        return
    spread = (variance.sum(0).T / draws).sqrt()
    # The variance of a variance of `draws` numbers, from their second and fourth moments.
    surety = fourth - variance.square() * (draws - 3) / (draws - 1)
    surety = (surety.sum(0).T / draws).sqrt() / draws
    level = FALSE_ALARMS / 3 / exact.numel()
    deviations = float(stats.norm.isf(level / 2)) / repeats**0.5
    assert float((errors.mean(0) / spread).abs().max()) < deviations
    assert float(((reported.mean(0) - spread.square()) / surety).abs().max()) < deviations
    low, high = (stats.chi2(repeats).ppf(level / 2), stats.chi2(repeats).isf(level / 2))
    ratios = (errors / spread).square().sum(0)
    assert low < float(ratios.min())
    assert float(ratios.max()) < high


def moments(squares):
    """The second and fourth central moments over signs."""
    centred = squares - squares.mean(2, keepdim=True)
    return centred.square().mean(2), centred.pow(4).mean(2)


@each_kind
def test_one_position_is_exact_whatever_the_signs(kind):
    shape = Shape(3, 4, 1, 3, 2, 5, 2, 2)
    section, x = build(kind, shape)
    features, decoder = build_features(shape)
    expected = section.interactions(x, features, decoder, GRADIENT)
    for estimated in (section, Automatic(section)):
        estimate = estimated.estimate(x, features, decoder, GRADIENT, some_signs(section, x, 3))
        assert_close(estimate.total, expected)
        assert float(estimate.variance.max()) <= 1e-24 * float(expected.max()) ** 2


@pytest.mark.parametrize(("kind", "features"), [*((kind, 9) for kind in EXACT), ("mixing", 4)])
def test_sections_that_gain_nothing_are_exact(kind, features, monkeypatch):
    monkeypatch.setattr(autodiff, "estimate", None)
    shape = Shape(3, 3, 4, 3, 2, features, 2, 2)
    if kind == "pool":
        section = Pooling(normal(seeded(0), 3, 4), normal(seeded(1), 3, 2))
        x = normal(seeded(2), 3, 4, 3)
    else:
        section, x = build(kind, shape)
    arguments = (x, *build_features(shape), GRADIENT)
    estimate = section.estimate(*arguments, some_signs(section, x, 2))
    assert torch.equal(estimate.total, section.interactions(*arguments))
    assert not estimate.variance.any()


@pytest.mark.parametrize("kind", ["gelu", "gated", "attention", "attention-rotary", "parallel"])
def test_small_chunks_take_samples_and_features_apart(kind, monkeypatch):
    shape = Shape(0, 3, 6, 3, 4, 5, 2, 2)
    section, x = build(kind, shape)
    sizes = []
    signed = type(section).signed_effects

    def spy(self, x, quadrature, signs):
        effects = signed(self, x, quadrature, signs)
        return lambda features, seen: sizes.append(tuple(features.shape)) or effects(features, seen)

    monkeypatch.setattr(type(section), "signed_effects", spy)
    with chunks_of(1):
        section.estimate(x, *build_features(shape), GRADIENT, some_signs(section, x, 2))
    assert sizes == [(1, 6, 1)] * 3 * 5


@pytest.mark.parametrize("kind", SIGNED)
def test_chunks_are_of_the_size_that_is_said(kind):
    """No tensor that a chunk of features makes is much larger than the chunk."""
    shape = Shape(0, 2, 16, 7, 9, 64, 3, 8)
    section, x = build(kind, shape)
    arguments = (x, *build_features(shape), GRADIENT, some_signs(section, x, 4))
    size = 8 * 1024

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            # Views of one another, such as expanded tensors, hold no memory of their own.
            if isinstance(result, torch.Tensor) and result.is_contiguous():
                self.elements = max(self.elements, result.numel())
            return result

    with chunks_of(size), Largest() as largest:
        section.estimate(*arguments)
    assert largest.elements * 8 <= 2 * size
