"""Sections of any shape with features, and two ways to check them against their Jacobians."""

import contextlib
from typing import NamedTuple

import pytest
from hypothesis import strategies as st
from torch import Tensor

from helpers.examples import examples
from helpers.formulas import formula
from helpers.numbers import normal, seeded
from helpers.sections import random_section
from libgraph.sections import Section, autodiff, chunks
from libgraph.sections.quadrature import Quadrature
from libgraph.testing import CHECKS, Jacobians, check_section
from libgraph.testing.comparison import require_close

RULES = [Quadrature.gradient(), Quadrature.trapezoid(3), Quadrature.gauss_legendre(2)]
AUTOMATIC = ["jacobian_gram", "interactions", "estimate"]
REBASED = ["forward", "jacobian_gram", "effects", "interactions", "estimate", "masked"]

# Few examples, each of which checks all that a section says.
quick = examples(12)
CHUNK_SIZES = [1, 300, 2**26]


class Shape(NamedTuple):
    seed: int
    samples: int
    positions: int
    d_in: int
    d_out: int
    features: int
    heads: int
    width: int


shapes = st.builds(
    Shape,
    seed=st.integers(0, 2**16),
    samples=st.integers(1, 3),
    positions=st.integers(1, 6),
    d_in=st.integers(1, 4),
    d_out=st.integers(1, 4),
    features=st.integers(1, 9),
    heads=st.integers(1, 4),
    width=st.integers(1, 3),
)


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


class Automatic(Section):
    """A section of which nothing but `forward` is known; estimates are always from signs."""

    def __init__(self, inner):
        super().__init__(inner.d_in, inner.d_out)
        self.inner = inner
        self.positionwise = inner.positionwise

    def forward(self, x):
        return self.inner(x)

    def estimate(self, x, features, decoder, quadrature, signs):
        return autodiff.estimate(self, x, features, decoder, quadrature, signs)


class View(NamedTuple):
    """A section with activations, and how to look at it.

    Args:
        section: at `x`, or at `f @ decoder` where there is a decoder.
        x: activations of the section or, where there is a decoder, f.
        rule: averages Jacobians.
        chunk: bytes of intermediate results.
        features: their number.
        seed: of features, signs and masks.
        decoder: of coordinates that the section is to be seen from, if any.
        encoder: the same of its output.
    """

    section: Section
    x: Tensor
    rule: Quadrature
    chunk: int
    features: int
    seed: int
    decoder: Tensor | None
    encoder: Tensor | None


@st.composite
def views(draw, build, shapes):
    """A section of some shape, activations, and the ends, rule and chunks to look at it with."""
    shape = draw(shapes)
    section, x = build(shape)
    inside, out = (draw(st.none() | st.integers(1, 5)) for _ in range(2))
    generator = seeded(shape.seed + 3)
    decoder = encoder = None
    if inside is not None:
        decoder = normal(generator, inside, section.d_in)
        x = normal(generator, *x.shape[:2], inside)
    if out is not None:
        encoder = normal(generator, section.d_out, out)
    rule, chunk = draw(st.sampled_from(RULES)), draw(st.sampled_from(CHUNK_SIZES))
    return View(section, x, rule, chunk, shape.features, shape.seed, decoder, encoder)


def check_all(view):
    """All that a section says, on one set of Jacobians.

    Its formula, its closed forms, those that automatic differentiation finds for it and, if there
    is another end, what it says in other coordinates.
    """
    section, decoder, encoder = view.section, view.decoder, view.encoder
    x = view.x if decoder is None else view.x @ decoder
    jacobians = Jacobians(section, x)
    options = {"quadratures": [view.rule], "features": view.features, "seed": view.seed}
    require_close(
        formula(section, x),
        jacobians.outputs(),
        "forward differs from the formula",
        terms=jacobians.terms,
        condition=lambda: jacobians.condition(Jacobians.outputs),
    )
    rebased = section.rebase(decoder, encoder)
    alike = decoder is None and encoder is None
    checks = [check for check in CHECKS if alike or check != "rebase"]
    with chunks_of(view.chunk):
        check_section(section, x, checks=checks, jacobians=jacobians, **options)
        check_section(
            Automatic(section), x, checks=AUTOMATIC, name="autodiff", jacobians=jacobians, **options
        )
    seen = jacobians.rebased(decoder, encoder)
    checks = ["forward"] if alike else REBASED
    check_section(rebased, view.x, checks=checks, name="rebased", jacobians=seen, **options)


@contextlib.contextmanager
def chunks_of(size):
    """Cut intermediate results to so many bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CLOSED_FORMS", chunks.ChunkSize(size, size))
        patch.setattr(autodiff, "DERIVATIVES", chunks.ChunkSize(size, size))
        yield
