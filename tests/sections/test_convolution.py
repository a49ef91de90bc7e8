"""Convolutions and pooling against torch's own, plain formulas and automatic differentiation."""

import math
from typing import NamedTuple

import pytest
import torch
from helpers.jacobians import RULES, chunks_of, dense_gram, dense_interactions
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import ACTIVATIONS
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from libgraph.network.network import Network, NodeLayer
from libgraph.sections import (
    Convolution,
    Linear,
    Pooling,
    Section,
    autodiff,
    average_windows,
    conv_factors,
    windows,
)
from libgraph.sections.closed_form import ClosedForm
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.skip_mlp import average_slopes
from libgraph.testing import check_section

CONVS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
POOLS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
quick = settings(deadline=None, max_examples=30)
chunk_sizes = st.sampled_from([1, 300, 2**26])


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


def images(case):
    return normal(seeded(case.seed + 1), case.samples, case.channels, *case.size)


def rows(grid):
    """Images `(n, c, *size)` as activations with the constant channel."""
    flat = grid.flatten(2).transpose(1, 2)
    return torch.cat([flat, torch.ones_like(flat[..., :1])], dim=-1)


def make_windows(case):
    return windows(case.size, case.kernel, **case.options)


def build(case):
    """A section with arbitrary factors, and activations with an arbitrary last channel."""
    generator = seeded(case.seed)
    offsets = math.prod(case.kernel)
    section = Convolution(
        normal(generator, offsets, case.d_in, case.d_out),
        normal(generator, offsets, case.d_in, case.hidden),
        normal(generator, case.hidden, case.d_out),
        make_windows(case),
        ACTIVATIONS[case.activation],
    )
    x = normal(generator, case.samples, math.prod(case.size), case.d_in)
    return section, x


def build_features(case):
    generator = seeded(case.seed + 2)
    features = normal(generator, case.samples, math.prod(case.size), case.features)
    return features, normal(generator, case.features, case.d_in)


def build_pooling(case, kind="random"):
    generator = seeded(case.seed)
    reads = make_windows(case)
    s = math.prod(case.size)
    pool = normal(generator, len(reads), s) if kind == "random" else average_windows(reads, s)
    section = Pooling(pool, normal(generator, case.d_in, case.d_out))
    return section, normal(generator, case.samples, s, case.d_in)


def plain(case, reads, factors, x):
    """Σ_δ x_{r(t,δ)} F_δ, one output position and one offset at a time."""
    y = torch.zeros(len(x), len(reads), factors.shape[-1], dtype=x.dtype)
    for t, window in enumerate(reads.tolist()):
        for offset, s in enumerate(window):
            if s >= 0:
                y[:, t] += x[:, s] @ factors[offset]
    return y


@given(case=cases(dimensions=(1, 2, 3)), chunk=chunk_sizes)
@quick
def test_forward_is_the_convolution_of_torch(case, chunk):
    generator = seeded(case.seed)
    reads = make_windows(case)
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


@given(case=cases())
@quick
def test_forward_with_any_factors(case):
    section, x = build(case)
    hidden = section.activation(plain(case, section.reads, section.inner, x))
    assert_close(section(x), plain(case, section.reads, section.skip, x) + hidden @ section.outer)


@given(case=cases(), chunk=chunk_sizes)
@quick
def test_jacobian_gram(case, chunk):
    section, x = build(case)
    expected = dense_gram(section, x)
    with chunks_of(chunk):
        assert_close(section.jacobian_gram(x), expected)
        assert_close(autodiff.jacobian_gram(section, x), expected)


@given(case=cases(), rule=st.sampled_from(RULES), chunk=chunk_sizes)
@quick
def test_interactions(case, rule, chunk):
    section, x = build(case)
    features, decoder = build_features(case)
    rule = Quadrature.parse(rule)
    expected = dense_interactions(section, x, features, decoder, rule)
    with chunks_of(chunk):
        assert_close(section.interactions(x, features, decoder, rule), expected)
        assert_close(autodiff.interactions(section, x, features, decoder, rule), expected)


@given(case=cases(), kind=st.sampled_from(["random", "average"]), rule=st.sampled_from(RULES))
@quick
def test_the_gram_and_interactions_of_pooling(case, kind, rule):
    assume(kind == "random" or bool((make_windows(case) >= 0).any(1).all()))
    section, x = build_pooling(case, kind)
    features, decoder = build_features(case)
    rule = Quadrature.parse(rule)
    gram = dense_gram(section, x)
    edges = dense_interactions(section, x, features, decoder, rule)
    assert_close(section(x), torch.einsum("ts,nsi,io->nto", section.pool, x, section.matrix))
    assert_close(section.jacobian_gram(x), gram)
    assert_close(autodiff.jacobian_gram(section, x), gram)
    assert_close(section.interactions(x, features, decoder, rule), edges)
    assert_close(ClosedForm.interactions(section, x, features, decoder, rule), edges)
    assert_close(autodiff.interactions(section, x, features, decoder, rule), edges)


@pytest.mark.parametrize("make", [build, build_pooling])
@given(case=cases(), shared=st.booleans())
@quick
def test_linearize_is_the_derivative(make, case, shared):
    section, x = make(case)
    tangents = normal(seeded(3), 1 if shared else case.samples, 2, *x.shape[1:])
    found = section.linearize(x)(tangents)
    expected = [
        torch.func.jvp(section, (x,), (tangents[:, i].expand_as(x).contiguous(),))[1]
        for i in range(2)
    ]
    assert_close(found, torch.stack(expected, dim=1))


@pytest.mark.parametrize("make", [build, build_pooling])
@given(case=cases(), rule=st.sampled_from(RULES))
@quick
def test_effects_are_those_of_any_section(make, case, rule):
    section, x = make(case)
    rule = Quadrature.parse(rule)
    features, decoder = build_features(case)
    expected = Section.effects(section, x, rule)(features, Section.seen(section, decoder))
    assert expected.shape == (case.samples, case.features, math.prod(case.outputs), case.d_out)
    assert_close(section.effects(x, rule)(features, section.seen(decoder)), expected)


@pytest.mark.parametrize("make", [build, build_pooling])
@given(case=cases(), ends=st.sampled_from(["both", "in", "out", "none"]))
@quick
def test_rebase_multiplies_at_both_ends(make, case, ends):
    section, x = make(case)
    generator = seeded(case.seed + 3)
    decoder = normal(generator, case.features, case.d_in) if ends in ("both", "in") else None
    encoder = normal(generator, case.d_out, 4) if ends in ("both", "out") else None
    before = torch.eye(case.d_in).double() if decoder is None else decoder
    after = torch.eye(case.d_out).double() if encoder is None else encoder
    rebased = section.rebase(decoder, encoder)
    f = normal(generator, case.samples, x.shape[1], len(before))
    assert type(rebased) is type(section)
    assert (rebased.d_in, rebased.d_out) == (len(before), after.shape[1])
    assert_close(rebased(f), section(f @ before) @ after)
    gram = before @ section.rebase(encoder=encoder).jacobian_gram(f @ before) @ before.T
    assert_close(rebased.jacobian_gram(f), gram)


@pytest.mark.parametrize("make", [build, build_pooling])
@given(case=cases(), data=st.data())
@quick
def test_masked_is_a_pass_of_its_own_for_every_output(make, case, data):
    section, x = make(case)
    size = case.d_in * case.d_out
    entries = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    keep = torch.tensor(entries).reshape(case.d_in, case.d_out)
    expected = [section(torch.where(keep[:, i], x, 0))[..., i] for i in range(case.d_out)]
    assert_close(section.masked(x, keep), torch.stack(expected, -1))


@pytest.mark.parametrize("make", [build, build_pooling])
def test_single_precision_sums_up_in_double(make):
    section, x = make(SMALL)
    features, decoder = build_features(SMALL)
    rule = Quadrature.gauss_legendre(2)
    gram, edges = section.jacobian_gram(x), section.interactions(x, features, decoder, rule)
    section.float()
    arguments = (x.float(), features.float(), decoder.float(), rule)
    assert section(x.float()).dtype == torch.float32
    for sums, expected in (
        (section.jacobian_gram(x.float()), gram),
        (section.interactions(*arguments), edges),
    ):
        assert sums.dtype == torch.float64
        assert_close(sums, expected, 1e-4)


@pytest.mark.parametrize("make", [build, build_pooling])
def test_sums_can_be_differentiated_through_the_bases(make):
    section, x = make(SMALL._replace(samples=1))
    generator = seeded(7)
    encoder, decoder = normal(generator, 2, 3), normal(generator, 2, 3)
    features = normal(generator, 1, 12, 2)

    def sums(encoder, decoder, features):
        rebased = section.rebase(encoder=encoder)
        edges = rebased.interactions(x, features, decoder, Quadrature.gradient())
        return edges, rebased.jacobian_gram(x)

    variables = [each.requires_grad_() for each in (encoder, decoder, features)]
    assert torch.autograd.gradcheck(sums, variables)


@pytest.mark.parametrize("make", [build, build_pooling])
@pytest.mark.parametrize(
    "case",
    [
        SMALL,
        SMALL._replace(size=(5,), kernel=(3,), stride=(1,), padding=(1,), dilation=(1,)),
        SMALL._replace(size=(5,), kernel=(2,), stride=(3,), padding=(0,), dilation=(1,)),
        # Windows larger than the grid, offsets that are never inside, a window of one position.
        SMALL._replace(size=(2,), kernel=(5,), stride=(1,), padding=(2,), dilation=(1,)),
        SMALL._replace(size=(2, 2), kernel=(3, 1), stride=(1, 1), padding=(2, 0), dilation=(2, 1)),
        SMALL._replace(size=(3, 2), kernel=(1, 1), stride=(1, 1), padding=(0, 0), dilation=(1, 1)),
        SMALL._replace(size=(3, 3), kernel=(3, 3), stride=(1, 1), padding=(0, 0), dilation=(1, 1)),
    ],
)
def test_sections_pass_the_public_check(make, case):
    section, x = make(case)
    assert not section.positionwise
    check_section(section, x)


@pytest.mark.parametrize("hidden", [3, 40])
def test_samples_are_taken_a_chunk_at_a_time(hidden, monkeypatch):
    section, x = build(SMALL._replace(hidden=hidden))
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


@given(case=cases(dimensions=(1, 2, 3)))
@quick
def test_average_pooling_is_that_of_torch(case):
    # Torch neither dilates here nor pads by more than half a window.
    padding = tuple(min(p, k // 2) for p, k in zip(case.padding, case.kernel, strict=True))
    case = case._replace(dilation=(1,) * len(case.size), padding=padding)
    # In three dimensions it also wants the window to fit without padding.
    fits = all(k <= s for k, s in zip(case.kernel, case.size, strict=True))
    assume(min(case.outputs) > 0 and (len(case.size) < 3 or fits))
    pool = average_windows(make_windows(case), math.prod(case.size))
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


def test_slopes_are_averaged_along_the_path():
    hidden = normal(seeded(0), 4, 3)
    rule = Quadrature.gauss_legendre(8)
    # φ' averaged over [0, h] is the difference quotient.
    expected = torch.tanh(hidden) / hidden
    assert_close(average_slopes(torch.tanh, hidden, rule), expected, 1e-6)


def test_factors_follow_the_dtype_and_windows_do_not():
    section, x = build(SMALL)
    section.float()
    saved = section.state_dict()
    assert saved["reads"].dtype == torch.long
    assert all(saved[name].dtype == torch.float32 for name in ("skip", "inner", "outer"))
    again = build(SMALL._replace(seed=9))[0].float()
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
        section, _ = build(SMALL._replace(**change))
        ends = [NodeLayer("a", section.d_in), NodeLayer("b", section.d_out)]
        prints.add(Network(torch.nn.Identity(), [section], ends).fingerprint())
    assert len(prints) == 3
    assert "gelu" in repr(build(SMALL)[0])


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


def test_a_window_must_not_read_a_position_twice():
    factors, outer = torch.zeros(3, 2, 1), torch.zeros(1, 1)
    Convolution(factors, factors, outer, torch.tensor([[0, 1, 2], [-1, 2, -1]]))
    with pytest.raises(
        ValueError, match="The window of output position 1 reads input position 4 more than once"
    ):
        Convolution(factors, factors, outer, torch.tensor([[0, 1, 2], [4, -1, 4]]))


def test_a_kernel_must_be_that_of_the_windows():
    with pytest.raises(ValueError, match=r"kernel of 2×2 has 4 offsets, but the windows have 9"):
        conv_factors(torch.zeros(1, 1, 2, 2), None, windows((3, 3), 3))


def test_a_table_for_a_larger_grid_is_an_error():
    section, x = build(SMALL)
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|DATA bounds)"):
        section(x[:, :-1])


def test_averages_need_something_inside():
    with pytest.raises(ValueError, match="The window of output position 0 is all outside"):
        average_windows(windows((2,), 1, padding=1), 2)
    with pytest.raises(ValueError, match="The windows read input position 2, but there are 2"):
        average_windows(windows((3,), 1), 2)
