"""Dictionaries with random weights, and features by their definition."""

import torch

from helpers.numbers import normal, seeded
from libgraph.network.dictionary import Dictionary, Threshold, TopK


def random_dictionary(size, latents, seed, *, k=None, threshold=0.0):
    """Of a node layer whose last coordinate is the constant: k latents at once, or a threshold."""
    generator = seeded(seed)
    isolated = 2
    encoder = torch.zeros(size, isolated + latents, dtype=torch.float64)
    decoder = torch.zeros(isolated + latents, size, dtype=torch.float64)
    encoder[-1, 0] = decoder[0, -1] = 1
    encoder[:, isolated:] = normal(generator, size, latents)
    decoder[isolated:, :-1] = normal(generator, latents, size - 1)
    decoder[0, :-1] = normal(generator, size - 1)
    gate = Threshold(torch.full((latents,), threshold).double()) if k is None else TopK(k)
    importance = torch.ones(isolated + latents).double()
    return Dictionary(encoder, decoder, importance, isolated, gate=gate)


def latents_by_definition(basis, x):
    """Features of one activation, without the error, in a loop."""
    if basis.linear:
        return x @ basis.encoder
    pre = (x @ basis.encoder).tolist()
    first = basis.isolated
    latents = pre[first:]
    if isinstance(basis.gate, TopK):
        rest = [] if basis.gate.others is None else (x @ basis.gate.others).tolist()
        least = sorted([*latents, *rest], reverse=True)[basis.gate.k - 1]
        kept = [p if p > 0 and p >= least else 0.0 for p in latents]
    else:
        kept = [
            p if p > t else 0.0 for p, t in zip(latents, basis.gate.threshold.tolist(), strict=True)
        ]
    return torch.tensor([*pre[: first - 1], 0.0, *kept], dtype=torch.float64)
