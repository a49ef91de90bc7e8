"""Fourier terms of features: planted waves are found, with their shares."""

import math

import pytest
import torch
from helpers.numbers import normal, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from libgraph_backends.modular_addition.labels import fourier_labels, fourier_terms, pair_labels

P = 13
phases = st.floats(-3, 3)
frequencies = st.integers(1, P // 2)
few = settings(deadline=None, max_examples=20)


def wave(kx=0, ky=0, phase=0.0, p=P):
    """cos(kx·x + ky·y + phase), frequencies in units of 2π/p, as `(p, p)` with x in rows."""
    x, y = torch.meshgrid(torch.arange(p).double(), torch.arange(p).double(), indexing="ij")
    return torch.cos(2 * math.pi * (kx * x + ky * y) / p + phase)


def assert_terms(terms, expected):
    assert list(terms) == list(expected)
    for term, (share, frequency) in expected.items():
        assert terms[term] == (pytest.approx(share), frequency)


@given(k=frequencies, a=phases, b=phases, mean=phases)
@few
def test_a_wave_in_each_number(k, a, b, mean):
    values = wave(kx=k, phase=a) + wave(ky=k, phase=b) + mean
    assert_terms(fourier_terms(values), {f"cos({k}x) + cos({k}y)": (1, str(k))})


@given(k=frequencies, phase=phases, scale=st.floats(1e-6, 1e6))
@few
def test_waves_of_the_sum_and_of_the_difference(k, phase, scale):
    for sign, term in ((1, f"cos({k}x + {k}y)"), (-1, f"cos({k}x - {k}y)")):
        assert_terms(fourier_terms(scale * wave(k, sign * k, phase)), {term: (1, str(k))})


@given(k=frequencies, m=frequencies, a=phases, b=phases)
@few
def test_products(k, m, a, b):
    values = wave(kx=k, phase=a) * wave(ky=m, phase=b)
    frequency = str(k) if k == m else None
    assert_terms(fourier_terms(values), {f"cos({k}x) * cos({m}y)": (1, frequency)})


def test_waves_of_two_frequencies_belong_to_none():
    assert_terms(fourier_terms(wave(2, -4, 0.3)), {"cos(2x - 4y)": (1, None)})
    assert_terms(fourier_terms(wave(4, 2, 0.3)), {"cos(4x + 2y)": (1, None)})


def test_shares_are_those_of_the_variance_largest_first():
    values = wave(1, 1) + 2 * wave(3, 3) + 0.05 * wave(kx=6) + wave(kx=2) + wave(ky=2)
    total = (1 + 4 + 0.05**2 + 2) / 2
    assert_terms(
        fourier_terms(values),
        {
            "cos(3x + 3y)": (2 / total, "3"),
            "cos(2x) + cos(2y)": (1 / total, "2"),
            "cos(1x + 1y)": (0.5 / total, "1"),
        },
    )


@given(seed=st.integers(0, 1000))
@few
def test_shares_of_any_function_sum_to_at_most_one(seed):
    terms = fourier_terms(normal(seeded(seed), P, P))
    assert 0.8 < sum(share for share, _ in terms.values()) <= 1 + 1e-9
    assert min(share for share, _ in terms.values()) >= 0.005


def test_sum_and_difference_of_unlike_strength_stay_apart():
    terms = fourier_terms(wave(5, 5) + 0.3 * wave(5, -5))
    assert list(terms) == ["cos(5x + 5y)", "cos(5x - 5y)"]
    product = fourier_terms(wave(5, 5) + 0.6 * wave(5, -5))
    assert list(product) == ["cos(5x) * cos(5y)"]


@pytest.mark.parametrize("value", [0.0, 3.7, -1e6])
def test_a_constant_has_no_terms(value):
    values = torch.full((P, P), value)
    assert fourier_terms(values) == {}
    (label,) = fourier_labels(values[..., None, None])
    assert (label.text, dict(label.concepts)) == ("constant", {})


@pytest.mark.parametrize("p", [8, 12])
def test_shares_of_an_even_modulus_sum_to_one(p):
    (share, _), *_ = fourier_terms(wave(kx=p // 2, p=p) + wave(ky=p // 2, p=p)).values()
    assert share == pytest.approx(1)


def test_labels_add_up_positions_and_concepts():
    single = torch.stack([wave(3, 3), wave(4, 4), wave() * 0], dim=-1)
    # A mean that all positions share is no matter of position.
    values = torch.stack([single, 2 * single.roll(1, -1)], dim=2) + 5
    labels = fourier_labels(values)
    assert [label.text for label in labels] == [
        "100% cos(3x + 3y)",
        "80% cos(3x + 3y) | 20% cos(4x + 4y)",
        "100% cos(4x + 4y)",
    ]
    assert labels[1].concepts == {"3": pytest.approx(0.8), "4": pytest.approx(0.2)}


def test_shares_are_of_the_whole_variance_position_first():
    # As in the trained transformer: where the equals sign stands, and a little of a wave.
    values = torch.stack([wave(3, 3), wave(4, 4), wave(3, 3)], dim=2)[..., None]
    means = torch.tensor([-183.0, -183, 366]).double()
    between, within = means.var(correction=0), torch.tensor(0.5)
    (label,) = fourier_labels(values + means[:, None])
    total = float(between + within)
    shares = {"position": float(between) / total, "3": 1 / 3 / total, "4": 1 / 6 / total}
    assert label.concepts == pytest.approx(shares)
    assert label.concept == "position"
    assert label.text == "99.999% position | 0.0005% cos(3x + 3y) | 0.0002% cos(4x + 4y)"
    # A position that says less than the numbers comes after them.
    (label,) = fourier_labels(values + torch.tensor([0, 0, 1.0]).double()[:, None])
    assert label.text == "46% cos(3x + 3y) | 31% position | 23% cos(4x + 4y)"


def test_concepts_leave_out_terms_of_two_frequencies():
    values = wave(3, 3) + wave(kx=3) + wave(2, 5)
    (label,) = fourier_labels(values[..., None, None])
    assert label.concepts == {"3": pytest.approx(2 / 3)}
    assert "33% cos(2x + 5y)" in label.text


def test_labels_find_planted_features():
    def encode(inputs):
        x, y = (2 * math.pi * inputs[:, i].double() / 7 for i in (0, 1))
        wave = torch.stack([torch.ones_like(x), torch.cos(2 * (x + y)), x.sin() * y.cos()], -1)
        return {"ln2.0": wave.unsqueeze(1), "ln1.0": wave[:, None, :2].expand(-1, 3, -1)}

    labels = pair_labels(encode, 7)
    texts = ["constant", "100% cos(2x + 2y)", "100% cos(1x) * cos(1y)"]
    assert [label.text for label in labels["ln2.0"]] == texts
    assert [label.text for label in labels["ln1.0"]] == texts[:2]


def test_a_feature_of_many_small_terms_is_no_constant():
    (label,) = fourier_labels(normal(seeded(0), 113, 113, 2, 1))
    assert (label.text, dict(label.concepts)) == ("many small terms", {})
