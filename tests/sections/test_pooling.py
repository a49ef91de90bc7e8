"""Pooling against torch's own."""

import math

import pytest
import torch
from helpers.grids import build_pooling, cases, images, rows
from helpers.jacobians import RULES
from helpers.numbers import assert_close, normal, seeded
from hypothesis import assume, given, settings
from torch.nn import functional

from libgraph.sections import Pooling, average_windows, windows
from libgraph.sections.closed_form import ClosedForm
from libgraph.testing import check_section

POOLS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
quick = settings(deadline=None, max_examples=30)


class FromEffects(Pooling):
    """Without its own formula for interactions."""

    interactions = ClosedForm.interactions


@given(case=cases())
@quick
def test_averages_and_what_their_effects_add_up_to(case):
    assume(bool((case.windows >= 0).any(1).all()))
    section, x = build_pooling(case, "average")
    options = {"quadratures": RULES, "features": case.features, "seed": case.seed}
    check_section(section, x, **options)
    squares = FromEffects(section.pool, section.matrix)
    check_section(squares, x, checks=["interactions"], **options)


@given(case=cases(dimensions=(1, 2, 3)))
@quick
def test_average_pooling_is_that_of_torch(case):
    # Torch neither dilates here nor pads by more than half a window.
    padding = tuple(min(p, k // 2) for p, k in zip(case.padding, case.kernel, strict=True))
    case = case._replace(dilation=(1,) * len(case.size), padding=padding)
    # In three dimensions it also wants the window to fit without padding.
    fits = all(k <= s for k, s in zip(case.kernel, case.size, strict=True))
    assume(min(case.outputs) > 0 and (len(case.size) < 3 or fits))
    pool = average_windows(case.windows, math.prod(case.size))
    section = Pooling(pool, torch.eye(case.d_in).double())
    grid = images(case)
    expected = POOLS[len(case.size)](
        grid, case.kernel, case.stride, case.padding, count_include_pad=False
    )
    assert_close(section(rows(grid)), rows(expected))


@pytest.mark.parametrize("size", [(6,), (3, 4), (2, 3, 2)])
def test_one_window_over_all_averages_globally(size):
    grid = normal(seeded(0), 3, 2, *size)
    pool = average_windows(windows(size, size), math.prod(size))
    section = Pooling(pool, torch.eye(3).double())
    assert_close(section(rows(grid)), rows(grid.flatten(2).mean(2, keepdim=True)))


def test_pooling_reads_out_one_position():
    x = normal(seeded(0), 3, 4, 2)
    section = Pooling(torch.eye(4)[2:3].double(), torch.eye(2).double())
    assert torch.equal(section(x), x[:, 2:3])
