"""Sections of any shape with features, and their dense Jacobians by automatic differentiation."""

import contextlib
from typing import NamedTuple

import pytest
import torch
from torch.func import jacrev

from helpers.numbers import normal, seeded
from helpers.sections import random_section
from libgraph.sections import autodiff, chunks

RULES = ["gradient", "trapezoid:3", "gauss-legendre:2"]


class Shape(NamedTuple):
    seed: int
    samples: int
    positions: int
    d_in: int
    d_out: int
    features: int
    heads: int
    width: int


def build(kind, shape):
    """A section and an input for it."""
    section = random_section(
        kind, shape.d_in, shape.d_out, seed=shape.seed, heads=shape.heads, width=shape.width
    )
    generator = seeded(shape.seed + 1)
    return section, normal(generator, shape.samples, shape.positions, shape.d_in)


def build_features(shape):
    """Features that need not have anything to do with the input, and a decoder."""
    generator = seeded(shape.seed + 2)
    features = normal(generator, shape.samples, shape.positions, shape.features)
    return features, normal(generator, shape.features, shape.d_in)


def jacobians(section, one):
    """J_ts of one sample, as `[t][s]` matrices of shape (d_in, d_out)."""
    full = jacrev(lambda x: section(x.unsqueeze(0)).squeeze(0))(one)
    return [[full[t, :, s].T for s in range(full.shape[2])] for t in range(full.shape[0])]


def dense_gram(section, x):
    total = torch.zeros(section.d_in, section.d_in, dtype=torch.float64)
    for one in x:
        for row in jacobians(section, one):
            for j in row:
                total += j @ j.T
    return total


def dense_interactions(section, x, features, decoder, rule):
    total = torch.zeros(section.d_out, len(decoder), dtype=torch.float64)
    for one, f in zip(x, features, strict=True):
        path = [
            (weight, jacobians(section, point * one))
            for point, weight in zip(rule.points, rule.weights, strict=True)
        ]
        for t in range(len(path[0][1])):
            effect = sum(
                weight * f[s].unsqueeze(1) * (decoder @ js[t][s])
                for weight, js in path
                for s in range(len(one))
            )
            total += effect.T.square()
    return total


@contextlib.contextmanager
def chunks_of(size):
    with pytest.MonkeyPatch.context() as patch:
        for module in (autodiff, chunks):
            patch.setattr(module, "CHUNK_BYTES", size)
        yield
