"""Which positions windows read, and what is made of that."""

import pytest
import torch
from helpers.numbers import assert_close

from libgraph.sections import average_windows, conv_factors, windows


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (((3,), 3, 1, 1), [[-1, 0, 1], [0, 1, 2], [1, 2, -1]]),
        (((5,), 2, 2), [[0, 1], [2, 3]]),
        (((5,), 2, 1, 0, 3), [[0, 3], [1, 4]]),
        (((4,), 2, 3, 1), [[-1, 0], [2, 3]]),
        (((2, 3), 2), [[0, 1, 3, 4], [1, 2, 4, 5]]),
        (((2, 3), (1, 2), (1, 2), (0, 1)), [[-1, 0], [1, 2], [-1, 3], [4, 5]]),
        (((1,), 1, 1, 1), [[-1], [0], [-1]]),
    ],
)
def test_windows(arguments, expected):
    assert windows(*arguments).tolist() == expected


def test_averages_are_over_what_is_inside():
    pool = average_windows(windows((3,), 3, padding=1), 3)
    expected = [[1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1 / 2, 1 / 2]]
    assert_close(pool, torch.tensor(expected, dtype=torch.float64))


def test_the_bias_is_where_the_grid_always_is():
    reads = windows((4,), 3, padding=1)
    factors = conv_factors(torch.zeros(2, 1, 3), torch.tensor([3.0, 4.0]), reads)
    assert factors.shape == (3, 2, 2)
    assert factors.nonzero().tolist() == [[1, 1, 0], [1, 1, 1]]
    assert factors[1, 1].tolist() == [3, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((3,), 4), "A window of 4 with dilation 1 leaves no output on a grid of 3 with padding 0"),
        (((9, 3), 2, 1, 0, (1, 3)), "A window of 2×2 with dilation 1×3 leaves no output on a grid"),
        (((0,), 1, 1, 1), "leaves no output on a grid of 0"),
        (((3, 3), (1, 1, 1)), r"The kernel of windows .* must be 2 numbers of at least 1, not"),
        (((3, 3), 2, 0), r"The stride of windows .* of at least 1, not \(0, 0\)"),
        (((3,), 2, 1, -1), r"The padding of windows .* of at least 0, not \(-1,\)"),
        (((3,), 2, 1, 0, 0), r"The dilation of windows .* of at least 1, not \(0,\)"),
    ],
)
def test_windows_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        windows(*arguments)


def test_a_kernel_must_be_that_of_the_windows():
    with pytest.raises(ValueError, match=r"kernel of 2×2 has 4 offsets, but the windows have 9"):
        conv_factors(torch.zeros(1, 1, 2, 2), None, windows((3, 3), 3))


def test_averages_need_something_inside():
    with pytest.raises(ValueError, match="The window of output position 0 is all outside"):
        average_windows(windows((2,), 1, padding=1), 2)
    with pytest.raises(ValueError, match="The windows read input position 2, but there are 2"):
        average_windows(windows((3,), 1), 2)
