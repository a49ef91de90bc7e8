"""Effective parameters from volumes, against losses whose volumes are known."""

import math

import pytest
import torch
from helpers.networks import random_network, toy_data
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import AppendOne
from torch import nn

from libgraph.degeneracy.behaviour.behaviour import behaviour_spectrum
from libgraph.degeneracy.behaviour.chains import Sampling, folded
from libgraph.degeneracy.behaviour.volume import local_volume, network_volume
from libgraph.degeneracy.weights.weights import weights_of
from libgraph.errors import NumericalError, TooLarge, UsageError
from libgraph.network.network import Network, NodeLayer
from libgraph.sections import Linear


def origin(size):
    return torch.zeros(size).double()


def quadratic(values, seed=0):
    turn = torch.linalg.qr(normal(seeded(seed), len(values), len(values)))[0]
    matrix = (turn * values) @ turn.T
    return (lambda w: w @ matrix @ w / 2), matrix


def agrees(curve, expected, largest):
    assert float(curve.errors.max()) < largest
    off = (curve.effective - torch.as_tensor(expected).double()).abs()
    assert bool((off <= 3 * curve.errors).all()), (curve.effective, curve.errors)


def test_reflection():
    u = torch.tensor([3.0, 12, -12, 29, 34, -51]).double() / 10
    x, sign, shift = folded(u)
    assert_close(10 * x, torch.tensor([3.0, 8, -8, -9, -6, -9]).double())
    assert_close(sign * x + shift, u)


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_singular(scale):
    """L = λ w₁²w₂²: each weight is free where the other is zero (arXiv 2405.10927)."""
    epsilons = [0.3, 0.1, 0.03, 0.01, 0.003, 0.001]
    curve = local_volume(
        lambda w: scale * (w[0] * w[1]).square(), origin(2), epsilons, Sampling(1.0, steps=1500)
    )
    s = torch.log(scale / torch.tensor(epsilons).double()) / 2
    agrees(curve, s / (1 + s), 0.03)
    assert bool((curve.drift.abs() < 6 * curve.errors).all())


def test_singular_elsewhere():
    """The same with another centre and radius, tolerances in any order: the box moves along."""
    centre = torch.tensor([3.0, -2.0]).double()
    epsilons = [0.001, 0.3, 0.03]
    curve = local_volume(
        lambda w: ((w - centre).prod() * 4).square(), centre, epsilons, Sampling(0.5, steps=1500)
    )
    s = torch.log(1 / torch.tensor(epsilons).double()) / 2
    agrees(curve, s / (1 + s), 0.03)
    assert curve.epsilons.tolist() == epsilons


def test_quadratic():
    """An ellipsoid that fits into the box: all 20 parameters count, whatever their curvature."""
    loss, matrix = quadratic(torch.logspace(4, 0, 20).double())
    sampling = Sampling(1.0, steps=1500)
    curve = local_volume(loss, origin(20), [0.1, 0.01, 0.001], sampling, hessian=matrix)
    agrees(curve, [20.0] * 3, 0.2)
    assert bool((curve.drift.abs() < 6 * curve.errors).all())
    curve = local_volume(loss, origin(20), [0.1, 0.01, 0.001], sampling)
    agrees(curve, [20.0] * 3, 0.2)
    assert bool((curve.acceptance - 0.574).abs().max() < 0.1)


def test_flat_directions():
    """What is flat up to the walls adds nothing."""
    values = torch.tensor([1e2, 1.0, 0.0, 0.0, 1e-6]).double()
    curve = local_volume(
        lambda w: (values * w.square()).sum() / 2,
        origin(5),
        [0.1, 0.03, 0.01],
        Sampling(1.0, steps=1200),
        hessian=values.diag(),
    )
    agrees(curve, [2.0] * 3, 0.1)


def test_walls():
    """Half-way between free and not: the volume of an ellipsoid cut by the box, by quadrature."""
    values = torch.tensor([8.0, 0.4]).double()
    epsilons = torch.tensor([1.0, 0.3, 0.1]).double()
    turn = torch.tensor([[0.8, 0.6], [-0.6, 0.8]]).double()
    matrix = (turn * values) @ turn.T
    grid = (torch.arange(2000).double() + 0.5) / 1000 - 1
    places = torch.cartesian_prod(grid, grid)
    losses = ((places @ matrix) * places).sum(1) / 2
    for hessian, width in ((None, 0.3), (matrix, 0.3), (matrix, 0.1)):
        expected = []
        for epsilon in epsilons:
            counts = [(losses < epsilon * math.exp(h)).sum() for h in (width, -width)]
            expected.append(float((counts[0] / counts[1]).log()) / width)
        curve = local_volume(
            lambda w: w @ matrix @ w / 2,
            origin(2),
            epsilons.tolist(),
            Sampling(1.0, steps=900, half_width=width),
            hessian=hessian,
        )
        agrees(curve, expected, 0.07)
        assert curve.half_widths.tolist() == [width] * 3
    assert expected[0] < 1.2
    assert expected[2] > 1.8


def test_many_parameters():
    """Between walls and curvature in 100 dimensions, by the saddle point of the volume."""
    values = torch.logspace(2, -6, 100).double()
    epsilons = [1.0, 0.01]
    curve = local_volume(
        lambda w: (values * w.square()).sum() / 2,
        origin(100),
        epsilons,
        Sampling(1.0, steps=1000),
        hessian=values.diag(),
    )
    grid = torch.linspace(-1, 1, 4001).double()

    def mean_loss(beta):
        losses = values[:, None] * grid.square() / 2
        return float(
            ((-beta * losses).exp() * losses).sum(1).div((-beta * losses).exp().sum(1)).sum()
        )

    expected = []
    for epsilon in epsilons:
        low, high = 1e-3, 1e6
        for _ in range(40):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if mean_loss(middle) > epsilon else (low, middle)
        expected.append(2 * middle * epsilon)
    agrees(curve, expected, 0.4)


def test_everything_below():
    """A tolerance that the loss never reaches within the box: nothing counts."""
    curve = local_volume(lambda w: w.square().sum(), origin(2), [5.0], Sampling(1.0, steps=90))
    assert curve.effective.tolist() == [0.0]


def test_seed():
    def curve(seed):
        sampling = Sampling(1.0, steps=60, chains=4, seed=seed)
        return local_volume(lambda w: w.square().sum(), origin(2), [0.1, 0.2], sampling).effective

    assert torch.equal(curve(1), curve(1))
    assert not torch.equal(curve(1), curve(2))


def test_errors_are_what_seeds_scatter_by():
    values = torch.tensor([4.0, 1.0, 0.5]).double()
    curves = [
        local_volume(
            lambda w: (values * w.square()).sum(),
            origin(3),
            [0.01, 0.1],
            Sampling(1.0, steps=300, chains=16, seed=seed),
        )
        for seed in range(12)
    ]
    scatter = torch.stack([curve.effective for curve in curves]).std(0)
    stated = torch.stack([curve.errors for curve in curves]).mean(0)
    assert bool((scatter / stated).log().abs().max() < math.log(2))


def test_network_with_a_quadratic_loss():
    """A linear network: with room for all eigenvalues, their number."""
    network = Network(
        AppendOne(),
        [Linear(normal(seeded(0), 4, 2))],
        [NodeLayer("in", 4), NodeLayer("out", 2, constant=False)],
    )
    inputs = normal(seeded(1), 30, 1, 3)
    inputs[..., 2] = inputs[..., 0]
    data = toy_data(network, inputs)
    spectrum = behaviour_spectrum(network, data)
    assert (spectrum.parameters, spectrum.rank) == (8, 6)
    curve = network_volume(network, data, [0.03, 0.01], Sampling(1.0, steps=900))
    agrees(curve, [6.0] * 2, 0.15)


def test_network_whose_weights_are_free_one_at_a_time():
    """x w₁ w₂, far from the parameters too: volumes by a grid over both weights."""
    factors = [torch.full((1, 1), each).double() for each in (1.25, 0.8)]
    layers = [NodeLayer(name, 1, constant=False) for name in "abc"]
    network = Network(torch.nn.Identity(), [Linear(each) for each in factors], layers)
    inputs = normal(seeded(0), 20, 1, 1)
    epsilons = [0.3, 0.1, 0.03, 0.01]
    sampling = Sampling(0.9, steps=1500)
    curve = network_volume(network, toy_data(network, inputs), epsilons, sampling)
    grid = 0.9 * ((torch.arange(3000).double() + 0.5) / 1500 - 1)
    losses = inputs.square().mean() * (torch.outer(1.25 + grid, 0.8 + grid) - 1).square()
    expected = []
    for epsilon in epsilons:
        counts = [(losses < epsilon * math.exp(h)).sum() for h in (0.3, -0.3)]
        expected.append(float((counts[0] / counts[1]).log()) / 0.3)
    agrees(curve, expected, 0.06)


def test_network_near_its_parameters():
    """In a small box the loss is quadratic: the spectrum counts the same parameters."""
    network = random_network(["tanh", "linear"], [2, 2, 1], seed=3)
    data = toy_data(network, normal(seeded(2), 20, 1, 2))
    chosen = weights_of(network)[:1]
    radius = 1e-2
    values = behaviour_spectrum(network, data, chosen).values * radius**2
    epsilon = float(values[values > 1e-9 * values[0]].min()) / 50
    curve = network_volume(network, data, [epsilon], Sampling(radius, steps=900), chosen)
    agrees(curve, [float((values > epsilon).sum())], 0.3)


def test_mistakes(monkeypatch):
    with pytest.raises(UsageError, match="positive"):
        local_volume(lambda w: w.square().sum(), origin(2), [0.1, -1.0], Sampling(1.0))
    with pytest.raises(UsageError, match="positive"):
        Sampling(0.0)
    with pytest.raises(UsageError, match="positive"):
        Sampling(1.0, half_width=0.0)
    with pytest.raises(UsageError, match="at least 2 chains"):
        Sampling(1.0, chains=1)
    with pytest.raises(NumericalError, match="centre"):
        local_volume(lambda w: 0 / w.sum(), origin(2), [0.1], Sampling(1.0))
    network = random_network(["tanh"], [3, 2], seed=0)
    data = toy_data(network, normal(seeded(0), 5, 1, 3))
    monkeypatch.setattr("libgraph.degeneracy.behaviour.volume.MOST_PARAMETERS", 10)
    with pytest.raises(TooLarge, match="behaviour_spectrum"):
        network_volume(network, data, [0.1], Sampling(1.0))
    with pytest.raises(UsageError, match="without parameters"):
        network_volume(network, data, [0.1], Sampling(1.0), [])


def test_all_batches_count():
    """A Hessian of rank 8 that no sample alone has."""
    layers = [NodeLayer("l0", 4), NodeLayer("l1", 2, constant=False)]
    network = Network(nn.Identity(), [Linear(normal(seeded(0), 4, 2))], layers)
    x = normal(seeded(1), 100, 1, 4)
    sampling = Sampling(50.0, steps=300, chains=64)
    one, whole = (
        network_volume(network, toy_data(network, x, batch_size=size), [1e-3], sampling)
        for size in (1, 100)
    )
    assert one.effective.tolist() == whole.effective.tolist()
    assert abs(float(whole.effective[0]) - 8) < 1
