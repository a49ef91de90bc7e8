"""What is carried on: copies in place of products, and only where they are the same."""

import copy

import pytest
import torch
from helpers.numbers import normal, seeded
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual

from libgraph.backend.state import own_state
from libgraph.interventions.subject import Subject
from libgraph.network.basis import Basis
from libgraph.network.network import Network, NodeLayer
from libgraph.sections import Linear, SkipMLP, carrying
from libgraph.sections.carrying import Carrier, Centred, Centrer, Reader, Stretches, rows_read
from libgraph.sections.norm import split_norm


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(carrying, "SMALLEST", 1)


def matrix(*columns, rows=6):
    """Column i copies the coordinate `columns[i]`, or none."""
    factor = torch.zeros(rows, len(columns), dtype=torch.float64)
    for column, row in enumerate(columns):
        if row is not None:
            factor[row, column] = 1
    return factor


@pytest.mark.parametrize(
    ("factor", "sources"),
    [
        (matrix(0, 1, 2), (slice(0, 3),)),
        (matrix(None, None, 3, 4, None), (2, slice(3, 5), 1)),
        (matrix(4, 5, 0, 1), (slice(4, 6), slice(0, 2))),
        (matrix(2, 2, 2), (slice(2, 3), slice(2, 3), slice(2, 3))),
        (matrix(None), (1,)),
    ],
)
def test_stretches(factor, sources):
    found = Stretches.of(factor)
    assert found is not None
    assert found.sources == sources
    x = normal(seeded(0), 2, 3, 6)
    assert torch.equal(found(x, factor), x @ factor)
    factor[5] = normal(seeded(1), factor.shape[1])
    biased = Stretches.of(factor)
    if 5 not in {row for part in sources if isinstance(part, slice) for row in range(6)[part]}:
        assert biased is not None
        assert biased.mixed == 5
        assert torch.allclose(biased(x, factor), x @ factor, rtol=1e-14, atol=1e-14)


def test_what_is_no_copy_is_multiplied():
    two = matrix(0, 1, 2)
    two[1, 0] = two[2, 0] = 1
    assert Stretches.of(two) is None
    assert Stretches.of(normal(seeded(2), 6, 6)) is None
    assert Stretches.of(2 * matrix(0, 1)) is None
    scattered = matrix(*(i if i % 2 else None for i in range(40)), rows=40)
    assert Stretches.of(scattered) is None


@pytest.mark.parametrize(
    ("rows", "stretches"),
    [
        ([2, 3, 4], (slice(2, 5),)),
        ([0, 2, 3, 9], (slice(2, 4), slice(0, 1), slice(9, 10))),
        ([5, 7, 8], (slice(7, 9), slice(5, 6))),
        ([], None),
        (range(9), None),
    ],
)
def test_rows_that_are_read(rows, stretches):
    factor, x = torch.zeros(10, 4, dtype=torch.float64), normal(seeded(5), 2, 3, 10)
    factor[list(rows)] = normal(seeded(6), len(rows), 4)
    assert rows_read(factor) == stretches
    read = Reader()
    assert torch.allclose(read(x, factor), x @ factor, rtol=1e-14, atol=1e-14)
    factor[1] = 1
    assert torch.allclose(read(x, factor), x @ factor, rtol=1e-14, atol=1e-14)
    assert torch.allclose(
        copy.deepcopy(read)(x, 2 * factor), 2 * x @ factor, rtol=1e-14, atol=1e-14
    )


def centring(size, shared, before=1, behind=1):
    block = torch.eye(size, dtype=torch.float64) + shared
    return torch.nn.functional.pad(block, (0, 0, before, behind))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shared", [-1 / 7, 0.0, 0.3])
@pytest.mark.parametrize("apart", [(0, 0), (1, 1), (0, 2)])
def test_a_mean_is_taken_out(dtype, shared, apart):
    factor = centring(7, shared, *apart).to(dtype)
    found = Centred.of(factor)
    assert found is not None
    assert found.rows == slice(apart[0], apart[0] + 7)
    x = normal(seeded(5), 4, len(factor)).to(dtype)
    expected = x.double() @ centring(7, shared, *apart)
    bound = 16 * torch.finfo(dtype).eps * x.abs().sum(1, keepdim=True).double()
    assert ((Centrer()(x, factor).double() - expected).abs() <= bound).all()


def test_what_centres_not_is_multiplied():
    changed = centring(7, -1 / 7)
    changed[3, 4] += 1e-9
    scaled = centring(7, -1 / 7)
    scaled[4, 3] += 1e-12
    apart = torch.cat([torch.eye(4)[:2], torch.zeros(1, 4), torch.eye(4)[2:]]).double()
    for factor in (changed, scaled, 2 * centring(7, -1 / 7), apart, normal(seeded(2), 6, 6)):
        assert Centred.of(factor) is None
        x = normal(seeded(3), 4, len(factor))
        assert torch.equal(Centrer()(x, factor), x @ factor)


def test_what_is_written_is_not_changed_where_others_have_it():
    """By a watcher, by derivatives."""
    size = 6
    skip = matrix(0, 1, 2, 3, 4, 5)
    skip[5] = normal(seeded(6), size)
    mlp = SkipMLP(skip, normal(seeded(7), size, 4), normal(seeded(8), 4, size))
    x, seen = normal(seeded(9), 2, 3, size), {}

    def watcher(section, name, x, z):
        seen[name] = z
        return z

    expected = x @ skip + torch.relu(x @ mlp.inner) @ mlp.outer
    mlp.watcher = watcher
    assert torch.allclose(mlp(x), expected, rtol=1e-12)
    assert torch.allclose(seen["outer"], torch.relu(x @ mlp.inner) @ mlp.outer, rtol=1e-12)
    mlp.watcher = None
    _, tangent = torch.func.jvp(mlp, (x,), (torch.ones_like(x),))
    slopes = (x @ mlp.inner > 0).double() * mlp.inner.sum(0)
    assert torch.allclose(tangent, skip.sum(0) + slopes @ mlp.outer, rtol=1e-12)
    needed = x.clone().requires_grad_()
    mlp(needed).sum().backward()
    assert needed.grad.isfinite().all()


@pytest.mark.filterwarnings("error")
def test_many_samples_at_a_time_are_no_loop():
    """Of which vmap would warn."""
    factor = matrix(*range(6))
    factor[5] = normal(seeded(6), 6)
    norm = torch.nn.Sequential(*split_norm(6))
    x = normal(seeded(3), 4, 2, 3, 6)
    assert Stretches.of(factor).mixed == 5
    assert torch.allclose(torch.func.vmap(lambda x: Carrier()(x, factor))(x), x @ factor)
    assert torch.func.vmap(norm.double())(torch.cat([x, x[..., :1]], dim=-1)).isfinite().all()


def test_a_mean_in_half_precision_is_a_product():
    """A sum of large numbers is infinite there."""
    factor = centring(256, -1 / 256).half()
    x = torch.full((3, 258), 1000.0).half()
    x[:, 7] = 900.0
    expected = x.double() @ factor.double()
    assert (Centrer()(x, factor).double() - expected).abs().max() <= 1


def test_many_stretches_are_one_product():
    factor = torch.zeros(60, 4)
    factor[::3] = 1
    assert rows_read(factor) is None


def test_a_changed_matrix_is_looked_at_again():
    carry, factor, x = Carrier(), matrix(0, 1, 2), normal(seeded(3), 4, 6)
    assert torch.equal(carry(x, factor), x[:, :3])
    factor[0, 0] = 3
    assert torch.allclose(carry(x, factor), x @ factor)
    other = matrix(3, 4)
    assert torch.equal(carry(x, other), x[:, 3:5])
    assert torch.equal(copy.deepcopy(carry)(x, factor), x @ factor)


def own_network(weight):
    """Of a user who keeps sections, whose matrix is a view of the weight of a model."""
    layers = [NodeLayer("in", 6), NodeLayer("out", 3, rotated=False)]
    return Network(lambda x: x, [Linear(weight.T)], layers)


@pytest.mark.parametrize("how", ["analysis", "subject"])
def test_weights_changed_through_data_are_seen_by_the_next_analysis(how):
    weight = torch.zeros(3, 6)
    weight[:, :2] = normal(seeded(3), 3, 2).float()
    network, x = own_network(weight), normal(seeded(4), 5, 1, 6).float()
    assert torch.equal(network(x), x @ weight.T)
    weight.data[:, 2:] = 1.0
    # Nothing tells.
    assert not torch.allclose(network(x), x @ weight.T)
    if how == "analysis":
        with own_state():
            pass
    else:
        eyes = {"in": torch.eye(6), "out": torch.eye(3)}
        bases = {name: Basis(eye, eye, eye.sum(0), 0) for name, eye in eyes.items()}
        Subject(network, None, bases, None, None)
    assert torch.allclose(network(x), x @ weight.T)


def test_derivatives_by_the_matrix_are_whole():
    carry, factor, x = Carrier(), matrix(0, 1, 2), normal(seeded(4), 4, 6)
    by_rows = torch.func.grad(lambda m: Reader()(x, m).square().sum())(factor)
    assert torch.allclose(by_rows, 2 * x.T @ x[:, :3])
    carry(x, factor)
    gradient = torch.func.grad(lambda m: carry(x, m).square().sum())(factor)
    assert torch.allclose(gradient, 2 * x.T @ x[:, :3])
    _, tangent = torch.func.jvp(lambda m: carry(x, m), (factor,), (torch.ones_like(factor),))
    assert torch.allclose(tangent, x.sum(1, keepdim=True).expand(-1, 3))
    with dual_level():
        dual = make_dual(factor, torch.ones_like(factor))
        for product in (carry, Reader()):
            assert torch.equal(unpack_dual(product(x, dual)).tangent, tangent)
    many = torch.stack([factor, 2 * factor])
    assert torch.allclose(torch.vmap(lambda m: carry(x, m))(many), x @ many)
    needed = factor.clone().requires_grad_()
    carry(x, needed).square().sum().backward()
    assert torch.allclose(needed.grad, gradient)


def test_sections_carry_on():
    x = torch.cat([normal(seeded(5), 2, 3, 8), torch.ones(2, 3, 1).double()], dim=-1)
    variance, division = split_norm(8)
    y = division(variance(x))
    expected = torch.nn.functional.layer_norm(x[..., :8], (8,))
    assert torch.allclose(y, torch.cat([expected, x], dim=-1), rtol=1e-12)
    assert variance.carry.copies.of(variance.skip) is not None
    assert division.carry.copies.of(division.skip) is not None
    assert division.place.copies.of(division.outer) is not None
    assert division.holder.copies.of(division.variance) is not None
    assert division.centre.centred.of(division.stream) is not None
    assert variance.centre.centred.of(variance.stream) is not None
    skip = matrix(0, 1, 2, 3, 4, 5)
    skip[5] = normal(seeded(6), 6)
    mlp = SkipMLP(skip, normal(seeded(7), 6, 4), normal(seeded(8), 4, 6))
    z = normal(seeded(9), 2, 3, 6)
    assert mlp.carry.copies.of(skip) is not None
    assert torch.allclose(mlp(z), z @ skip + torch.relu(z @ mlp.inner) @ mlp.outer, rtol=1e-12)
