"""Convolutions against torch's own, plain formulas and their Jacobians."""

import pytest
import torch
from helpers.grids import SMALL, build_convolution, build_pooling, cases, images, rows
from helpers.jacobians import CHUNK_SIZES, chunks_of
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import ACTIVATIONS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from libgraph.network.network import Network, NodeLayer
from libgraph.sections import Convolution, Linear, conv_factors, windows
from libgraph.testing import check_section

CONVS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
quick = settings(deadline=None, max_examples=30)


@given(case=cases(dimensions=(1, 2, 3)), chunk=st.sampled_from(CHUNK_SIZES))
@quick
def test_forward_is_the_convolution_of_torch(case, chunk):
    generator = seeded(case.seed)
    reads = case.windows
    shape = (case.channels, *case.kernel)
    conv, grid = CONVS[len(case.size)], images(case)
    weight, skip_weight = (normal(generator, size, *shape) for size in (case.hidden, case.d_out))
    bias, skip_bias = (normal(generator, size) for size in (case.hidden, case.d_out))
    if not (reads >= 0).all(0).any():
        with pytest.raises(ValueError, match="The convolution's bias has no place"):
            conv_factors(weight, bias, reads)
        bias = skip_bias = None
    outer = normal(generator, case.hidden, case.d_out)
    phi = ACTIVATIONS[case.activation]
    section = Convolution(
        conv_factors(skip_weight, skip_bias, reads),
        conv_factors(weight, bias, reads),
        outer,
        reads,
        phi,
    )
    hidden = phi(conv(grid, weight, bias, **case.options))
    beside = conv(grid, skip_weight, skip_bias, **case.options)
    expected = beside.flatten(2).transpose(1, 2) + hidden.flatten(2).transpose(1, 2) @ outer
    assert hidden.shape[2:] == case.outputs
    with chunks_of(chunk):
        assert_close(section(rows(grid)), expected)


@pytest.mark.parametrize("hidden", [3, 40])
def test_samples_are_taken_a_chunk_at_a_time(hidden, monkeypatch):
    section, x = build_convolution(SMALL._replace(hidden=hidden))
    sizes = []
    for name in ("_read", "_windows"):
        read = getattr(Convolution, name)

        def watched(self, x, read=read):
            sizes.append(len(x))
            return read(self, x)

        monkeypatch.setattr(Convolution, name, watched)
    # What two samples' windows or hidden units take in float64.
    two = 2 * 8 * section.reads.shape[0] * max(section.reads.shape[1] * SMALL.d_in, hidden)
    for size, expected in ((1, [1, 1, 1]), (two - 1, [1, 1, 1]), (two, [2, 1])):
        for run in (section, section.jacobian_gram, section.linearize):
            sizes.clear()
            with chunks_of(size):
                run(x)
            assert sizes == expected


@given(
    size=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    channels=st.integers(1, 3),
    hidden=st.integers(1, 4),
)
@quick
def test_a_window_over_all_is_a_linear_map_of_the_flattened_image(size, channels, hidden):
    grid = normal(seeded(1), 3, channels, *size)
    linear = torch.nn.Linear(grid[0].numel(), hidden).double()
    reads = windows(size, size)
    weight = linear.weight.detach().unflatten(1, grid.shape[1:])
    factors = conv_factors(weight, linear.bias.detach(), reads)
    section = Convolution(torch.zeros_like(factors), factors, torch.eye(hidden).double(), reads)
    expected = linear(grid.flatten(1)).relu().unsqueeze(1).detach()
    assert_close(section(rows(grid)), expected)
    assert section(rows(grid)).shape == (3, 1, hidden)
    check_section(section, rows(grid))


def test_windows_of_one_position_are_a_map_at_every_position():
    generator = seeded(0)
    matrix, x = normal(generator, 3, 2), normal(generator, 2, 6, 3)
    none = torch.zeros(1, 3, 1).double(), torch.zeros(1, 2).double()
    section = Convolution(matrix[None], *none, windows((2, 3), 1))
    assert_close(section(x), Linear(matrix)(x))
    assert_close(section.jacobian_gram(x), Linear(matrix).jacobian_gram(x))


def test_factors_follow_the_dtype_and_windows_do_not():
    section, x = build_convolution(SMALL)
    section.float()
    saved = section.state_dict()
    assert saved["reads"].dtype == torch.long
    assert all(saved[name].dtype == torch.float32 for name in ("skip", "inner", "outer"))
    again = build_convolution(SMALL._replace(seed=9))[0].float()
    again.load_state_dict(saved)
    assert torch.equal(again(x.float()), section(x.float()))
    pooling = build_pooling(SMALL)[0].float()
    assert {tensor.dtype for tensor in pooling.state_dict().values()} == {torch.float32}


def test_networks_tell_activations_and_windows_apart():
    prints = set()
    for change in (
        {},
        {"activation": "relu"},
        {"stride": (2, 2), "padding": (1, 2), "dilation": (1, 1)},
    ):
        section, _ = build_convolution(SMALL._replace(**change))
        ends = [NodeLayer("a", section.d_in), NodeLayer("b", section.d_out)]
        prints.add(Network(torch.nn.Identity(), [section], ends).fingerprint())
    assert len(prints) == 3
    assert "gelu" in repr(build_convolution(SMALL)[0])


def test_a_window_must_not_read_a_position_twice():
    factors, outer = torch.zeros(3, 2, 1), torch.zeros(1, 1)
    Convolution(factors, factors, outer, torch.tensor([[0, 1, 2], [-1, 2, -1]]))
    with pytest.raises(
        ValueError, match="The window of output position 1 reads input position 4 more than once"
    ):
        Convolution(factors, factors, outer, torch.tensor([[0, 1, 2], [4, -1, 4]]))


def test_a_table_for_a_larger_grid_is_an_error():
    section, x = build_convolution(SMALL)
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|DATA bounds)"):
        section(x[:, :-1])
