"""Sections with latents beside them: all that they say of their Jacobians, and what cannot be."""

import pytest
import torch
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import random_section

from libgraph.errors import BackendError
from libgraph.sections import Linear
from libgraph.sections.beside import Beside
from libgraph.sections.section import Section
from libgraph.testing import check_section

D, CARRIED = 4, 2


def beside(kind="attention", joining=3, *, ends=False):
    generator = seeded(3)
    reading, threshold = normal(generator, D, joining), normal(generator, joining).abs()
    return Beside(random_section(kind, D, D), CARRIED, reading, threshold, ends=ends)


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("joining", [0, 3])
@pytest.mark.parametrize("kind", ["attention", "tanh", "linear"])
def test_it_says_the_same_in_all_coordinates(kind, joining, ends):
    check_section(beside(kind, joining, ends=ends), normal(seeded(4), 2, 3, D + CARRIED))


@pytest.mark.parametrize("ends", [False, True])
def test_latents_go_on_and_others_join_them(ends):
    section, x = beside(ends=ends), normal(seeded(4), 2, 3, D + CARRIED)
    y = section.inner(torch.cat([x[..., : D - 1], x[..., -1:]], -1))
    p = y @ section.reading
    latents = [] if ends else [x[..., D - 1 : -1]]
    latents.append(torch.where(p > section.threshold, p, 0))
    assert_close(section(x), torch.cat([y[..., :-1], *latents, y[..., -1:]], -1))


def test_positions_have_to_stay():
    class Last(Section):
        def forward(self, x):
            return x[:, -1:]

    section = Beside(Last(D, D), CARRIED, torch.zeros(D, 0), torch.zeros(0))
    with pytest.raises(BackendError, match="from 3 positions to 1"):
        section(torch.zeros(2, 3, D + CARRIED))


def test_its_precision_is_that_of_its_parts():
    section = Beside(Linear(torch.eye(D)), CARRIED, torch.zeros(D, 1), torch.zeros(1)).double()
    assert section(torch.zeros(1, 1, D + CARRIED).double()).dtype == torch.float64
