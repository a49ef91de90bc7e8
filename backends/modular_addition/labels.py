"""Fourier terms of functions of two residues (x, y) modulo p.

A feature's variance over all p² pairs is shared out among the terms cos(kx) + cos(ky),
cos(kx + ly), cos(kx − ly) and, where sum and difference are about equally strong, their product
cos(kx) * cos(ly), each up to phases. A term belongs to frequency k if no other enters it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.graph.features import FeatureLabel

SMALLEST_SHARE = 0.005


PRODUCT_RATIO = 0.25
"""Sum and difference make a product where the weaker has this share of the stronger."""


Terms = dict[str, tuple[float, str | None]]
"""Share of the variance and frequency (None where two differ) by term."""


def fourier_terms(values: Float[Tensor, "p p"]) -> Terms:
    """Terms of one function of (x, y) with a share of its variance of at least half a percent."""
    return _terms(_power(values.double()[..., None, None])[0], values.shape[0])


def fourier_labels(values: Float[Tensor, "p p s k"]) -> list[FeatureLabel]:
    """A label for each of k features; the variance at the s positions is added up."""
    power = _power(values.double())
    labels = []
    for terms in (_terms(each, values.shape[0]) for each in power):
        if not terms:
            labels.append(FeatureLabel("constant", {}))
            continue
        concepts: dict[str, float] = {}
        for share, frequency in terms.values():
            if frequency is not None:
                concepts[frequency] = concepts.get(frequency, 0.0) + share
        text = " | ".join(f"{share:.0%} {term}" for term, (share, _) in terms.items())
        labels.append(FeatureLabel(text, concepts))
    return labels


def _power(values: Float[Tensor, "p p s k"]) -> Float[Tensor, "k p p"]:
    """Power at each pair of frequencies, the mean taken out; zero for a constant function."""
    centred = values - values.mean((0, 1))
    noise = 1e-20 * values.square().mean((0, 1)).sum(0)
    power = torch.fft.fft2(centred, dim=(0, 1), norm="forward").abs().square().sum(2)
    power = torch.where(power.sum((0, 1)) > noise, power, 0)
    return power.permute(2, 0, 1)


def _terms(power: Float[Tensor, "p p"], p: int) -> Terms:
    total = float(power.sum())
    if total == 0:
        return {}
    half = p // 2 + 1
    share = power / total
    # A real function has the same power at (k, l) and (−k, −l).
    k = torch.arange(1, half, device=power.device)
    # Where p is even, k = p/2 is its own negative, and its sum and difference are one.
    own = 2 * k == p
    single = (torch.where(own, 1, 2) * (share[k, 0] + share[0, k])).tolist()
    twice = torch.where(own[:, None] & own[None, :], 1, 2)
    plus = (twice * share[k[:, None], k[None, :]]).cpu()
    minus = (2 * share[k[:, None], -k[None, :]]).cpu()
    minus[own.cpu()[:, None] | own.cpu()[None, :]] = 0
    terms: Terms = {f"cos({i}x) + cos({i}y)": (s, str(i)) for i, s in enumerate(single, 1)}
    strong = torch.maximum(plus, minus) >= SMALLEST_SHARE / 2
    for a, b in strong.nonzero().tolist():
        i, j, add, sub = a + 1, b + 1, float(plus[a, b]), float(minus[a, b])
        frequency = str(i) if i == j else None
        if min(add, sub) >= PRODUCT_RATIO * max(add, sub):
            terms[f"cos({i}x) * cos({j}y)"] = (add + sub, frequency)
        else:
            terms[f"cos({i}x + {j}y)"] = (add, frequency)
            terms[f"cos({i}x - {j}y)"] = (sub, frequency)
    kept = sorted(terms.items(), key=lambda item: -item[1][0])
    return {term: value for term, value in kept if value[0] >= SMALLEST_SHARE}
