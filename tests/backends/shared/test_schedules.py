"""Learning rates and random numbers of a step depend on its number alone."""

import math

import pytest
import torch

from libgraph.backend.streams import stream
from libgraph_backends.shared.schedules import falling, rising, set_learning_rate
from libgraph_backends.shared.streams import step_generator


def test_a_rise_ends_at_one():
    assert [rising(step, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("lowest", [0.0, 0.1])
def test_a_fall_is_a_cosine_from_one_to_the_lowest(lowest):
    assert falling(0, lowest) == 1
    assert falling(math.pi / 2, lowest) == pytest.approx((1 + lowest) / 2)
    assert falling(math.pi, lowest) == pytest.approx(lowest)


def test_the_rate_is_set_for_all_parameters():
    groups = [{"params": [torch.ones(1, requires_grad=True)]} for _ in range(2)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


@pytest.mark.parametrize("make", [stream, step_generator])
def test_streams_differ_and_are_repeated(make):
    numbers = {
        (seed, number): float(torch.rand(1, generator=make(seed, number)))
        for seed in range(3)
        for number in range(3)
    }
    assert len(set(numbers.values())) == 9
    assert float(torch.rand(1, generator=make(2, 1))) == numbers[2, 1]


def test_seeds_of_more_than_32_bits_have_streams_of_their_own():
    low, high = (float(torch.rand(1, generator=stream(seed, 0))) for seed in (1, 1 + 2**32))
    assert low != high
