"""Convolutions and poolings of any shape, with inputs for them."""

import math
from typing import NamedTuple

import torch
from hypothesis import assume
from hypothesis import strategies as st

from helpers.numbers import normal, seeded
from helpers.sections import ACTIVATIONS
from libgraph.sections import Convolution, Pooling, average_windows, windows


class Case(NamedTuple):
    """A convolution: a grid, a window, and how much goes through it."""

    seed: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    activation: str
    samples: int
    channels: int
    hidden: int
    d_out: int
    features: int

    @property
    def options(self):
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}

    @property
    def outputs(self):
        return tuple(
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in zip(*self[1:6], strict=True)
        )

    @property
    def d_in(self):
        return self.channels + 1

    @property
    def windows(self):
        return windows(self.size, self.kernel, **self.options)


@st.composite
def cases(draw, dimensions=(1, 2)):
    d = draw(st.sampled_from(dimensions))

    def numbers(low, high):
        return tuple(draw(st.lists(st.integers(low, high), min_size=d, max_size=d)))

    most = {1: 7, 2: 4, 3: 3}[d]
    case = Case(
        seed=draw(st.integers(0, 2**16)),
        size=numbers(1, most),
        kernel=numbers(1, 3),
        stride=numbers(1, 3),
        padding=numbers(0, 2),
        dilation=numbers(1, 2),
        activation=draw(st.sampled_from(sorted(ACTIVATIONS))),
        samples=draw(st.integers(1, 3)),
        channels=draw(st.integers(1, 3)),
        hidden=draw(st.integers(1, 3)),
        d_out=draw(st.integers(1, 3)),
        features=draw(st.integers(1, 5)),
    )
    assume(min(case.outputs) > 0)
    return case


SMALL = Case(5, (4, 3), (3, 2), (2, 1), (1, 1), (1, 2), "gelu", 3, 2, 3, 2, 4)


SPECIAL = [
    SMALL,
    SMALL._replace(size=(5,), kernel=(3,), stride=(1,), padding=(1,), dilation=(1,)),
    SMALL._replace(size=(5,), kernel=(2,), stride=(3,), padding=(0,), dilation=(1,)),
    # Windows larger than the grid, offsets that are never inside, a window of one position.
    SMALL._replace(size=(2,), kernel=(5,), stride=(1,), padding=(2,), dilation=(1,)),
    SMALL._replace(size=(2, 2), kernel=(3, 1), stride=(1, 1), padding=(2, 0), dilation=(2, 1)),
    SMALL._replace(size=(3, 2), kernel=(1, 1), stride=(1, 1), padding=(0, 0), dilation=(1, 1)),
    SMALL._replace(size=(3, 3), kernel=(3, 3), stride=(1, 1), padding=(0, 0), dilation=(1, 1)),
]


def images(case):
    return normal(seeded(case.seed + 1), case.samples, case.channels, *case.size)


def rows(grid):
    """Images `(n, c, *size)` as activations with the constant channel."""
    flat = grid.flatten(2).transpose(1, 2)
    return torch.cat([flat, torch.ones_like(flat[..., :1])], dim=-1)


def build_convolution(case):
    """A section with arbitrary factors, and activations with an arbitrary last channel."""
    generator = seeded(case.seed)
    offsets = math.prod(case.kernel)
    section = Convolution(
        normal(generator, offsets, case.d_in, case.d_out),
        normal(generator, offsets, case.d_in, case.hidden),
        normal(generator, case.hidden, case.d_out),
        case.windows,
        ACTIVATIONS[case.activation],
    )
    return section, normal(generator, case.samples, math.prod(case.size), case.d_in)


def build_pooling(case, kind="random"):
    """A pooling by any matrix, or one that averages what is inside of each window."""
    generator = seeded(case.seed)
    reads = case.windows
    s = math.prod(case.size)
    pool = normal(generator, len(reads), s) if kind == "random" else average_windows(reads, s)
    section = Pooling(pool, normal(generator, case.d_in, case.d_out))
    return section, normal(generator, case.samples, s, case.d_in)
