"""Fourier terms of functions of two residues (x, y) modulo p.

A feature's variance over all p² pairs and all positions is that of its means at the positions,
which says where it is and nothing of numbers, and what is left around these, which is shared out
among the terms cos(kx) + cos(ky), cos(kx + ly), cos(kx − ly) and, where sum and difference are
about equally strong, their product cos(kx) * cos(ly), each up to phases. A term belongs to
frequency k if no other enters it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.backend import POSITION, Encode, FeatureLabel
from libgraph_backends.modular_addition.data import all_pairs
from libgraph_backends.shared.shares import percent

SMALLEST_SHARE = 0.005
"""Terms with less of the variance around the positions' means are left out, as are positions with
less of the whole."""


PRODUCT_RATIO = 0.25
"""Sum and difference make a product where the weaker has this share of the stronger."""


ROUNDING = 1e-20
"""Variance that is less than this of the mean square is taken for none."""


ENCODED_AT_ONCE = 4096
"""Pairs whose features are looked at at a time."""


FEATURES_BYTES = 4 * 2**20
"""Features whose terms are found at a time take about so much; their transforms take several times
as much."""


Terms = dict[str, tuple[float, str | None]]
"""Share of the variance and frequency (None where two differ) by term."""


def pair_labels(encode: Encode, p: int) -> dict[str, list[FeatureLabel]]:
    """Labels of the features of every rotated node layer, from all pairs of numbers below p."""
    parts = [encode(inputs) for inputs in all_pairs(p).split(ENCODED_AT_ONCE)]
    return {
        layer: fourier_labels(torch.cat([part[layer] for part in parts]).unflatten(0, (p, p)))
        for layer in parts[0]
    }


def fourier_terms(values: Float[Tensor, "p p"]) -> Terms:
    """Terms of one function of (x, y) with a share of its variance of at least half a percent."""
    return _terms(_power(values.double()[..., None, None])[0], values.shape[0])


def fourier_labels(values: Float[Tensor, "p p s k"]) -> list[FeatureLabel]:
    """A label for each of k features; the variance at the s positions is added up."""
    at_once = max(1, FEATURES_BYTES // (8 * values[..., 0].numel()))
    return [
        label for part in values.split(at_once, dim=-1) for label in _some_labels(part.double())
    ]


def _some_labels(values: Float[Tensor, "p p s k"]) -> list[FeatureLabel]:
    return [
        _label(position, _terms(power, values.shape[0]), varies=bool(power.any()))
        for position, power in zip(_between_positions(values), _power(values), strict=True)
    ]


def _label(position: float, terms: Terms, *, varies: bool) -> FeatureLabel:
    """Shares of the whole variance: of the position, and of the terms in what it leaves.

    Args:
        position: share of the variance between positions.
        terms: with shares of the rest.
        varies: whether there is a rest.
    """
    parts: list[tuple[str, float, str | None]] = []
    if position >= SMALLEST_SHARE:
        parts.append((POSITION, position, POSITION))
    parts += [(term, (1 - position) * share, k) for term, (share, k) in terms.items()]
    if not parts:
        return FeatureLabel("many small terms" if varies else "constant", {})
    concepts: dict[str, float] = {}
    for _, share, concept in parts:
        if concept is not None:
            concepts[concept] = concepts.get(concept, 0.0) + share
    parts.sort(key=lambda part: -part[1])
    text = " | ".join(f"{percent(share)} {term}" for term, share, _ in parts)
    return FeatureLabel(text, concepts)


def _between_positions(values: Float[Tensor, "p p s k"]) -> list[float]:
    """Share of each feature's variance that its means at the positions have; of a constant 0."""
    means = values.mean((0, 1))
    between = means.var(0, correction=0)
    within = (values - means).square().mean((0, 1, 2))
    noise = ROUNDING * values.square().mean((0, 1, 2))
    shares: list[float] = torch.where(
        between > noise, between / (between + within).clamp(min=1e-300), 0
    ).tolist()
    return shares


def _power(values: Float[Tensor, "p p s k"]) -> Float[Tensor, "k p p"]:
    """Power at each pair of frequencies, the mean taken out; zero for a constant function."""
    centred = values - values.mean((0, 1))
    noise = ROUNDING * values.square().mean((0, 1)).sum(0)
    # Side by side in memory, which transforms are several times as fast on.
    functions = centred.permute(3, 2, 0, 1).contiguous()
    power = torch.fft.fft2(functions, norm="forward").abs().square().sum(1)
    return torch.where(power.sum((1, 2), keepdim=True) > noise[:, None, None], power, 0)


def _terms(power: Float[Tensor, "p p"], p: int) -> Terms:
    """Terms with their shares, the largest first."""
    total = float(power.sum())
    if total == 0:
        return {}
    share = power / total
    terms = _terms_of_one_number(share, p) | _terms_of_both_numbers(share, p)
    ordered = sorted(terms.items(), key=lambda item: -item[1][0])
    return {term: value for term, value in ordered if value[0] >= SMALLEST_SHARE}


def _frequencies(share: Float[Tensor, "p p"], p: int) -> tuple[Tensor, Tensor]:
    """Frequencies k from 1 on, a real function having the same power at k and −k; and which are
    their own negatives, as p/2 is where p is even."""
    k = torch.arange(1, p // 2 + 1, device=share.device)
    return k, 2 * k == p


def _terms_of_one_number(share: Float[Tensor, "p p"], p: int) -> Terms:
    k, own = _frequencies(share, p)
    shares = (torch.where(own, 1, 2) * (share[k, 0] + share[0, k])).tolist()
    return {f"cos({i}x) + cos({i}y)": (value, str(i)) for i, value in enumerate(shares, 1)}


def _terms_of_both_numbers(share: Float[Tensor, "p p"], p: int) -> Terms:
    """Waves of the sum and of the difference, or their product where both are about as strong."""
    k, own = _frequencies(share, p)
    # The sum and difference of a frequency that is its own negative are one wave.
    twice = torch.where(own[:, None] & own[None, :], 1, 2)
    plus = (twice * share[k[:, None], k[None, :]]).cpu()
    minus = (2 * share[k[:, None], -k[None, :]]).cpu()
    minus[own.cpu()[:, None] | own.cpu()[None, :]] = 0
    terms: Terms = {}
    for a, b in (torch.maximum(plus, minus) >= SMALLEST_SHARE / 2).nonzero().tolist():
        i, j, add, subtract = a + 1, b + 1, float(plus[a, b]), float(minus[a, b])
        frequency = str(i) if i == j else None
        if min(add, subtract) >= PRODUCT_RATIO * max(add, subtract):
            terms[f"cos({i}x) * cos({j}y)"] = (add + subtract, frequency)
        else:
            terms[f"cos({i}x + {j}y)"] = (add, frequency)
            terms[f"cos({i}x - {j}y)"] = (subtract, frequency)
    return terms
