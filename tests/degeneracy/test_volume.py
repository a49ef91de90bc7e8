"""Effective parameters from volumes, against losses whose volumes are known."""

import math
from typing import NamedTuple

import pytest
import torch
from helpers.chance import deviations, seed_of, spread
from helpers.networks import random_network, toy_data
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import AppendOne
from torch import nn

from libgraph.degeneracy.behaviour.behaviour import behaviour_spectrum
from libgraph.degeneracy.behaviour.chains import ACCEPTANCE, Sampling, folded
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


class Effort(NamedTuple):
    """How many chains, and by how much shorter they are than they should be."""

    chains: int
    shorter: int

    def sampling(self, steps, radius=1.0, half_width=0.3):
        steps //= self.shorter
        return Sampling(radius, chains=self.chains, steps=steps, half_width=half_width)


EVERY_DAY, THOROUGH = Effort(128, 4), Effort(512, 1)
EFFORTS = [
    pytest.param(EVERY_DAY, id="every-day"),
    pytest.param(THOROUGH, id="thorough", marks=pytest.mark.slow),
]


def agrees(curve, expected, largest, effort):
    """Within what chance may do, where errors are no larger than this with 64 long chains."""
    off = (curve.effective - torch.as_tensor(expected).double()).abs()
    assert float(curve.errors.max()) < largest * (64 * effort.shorter / effort.chains) ** 0.5
    allowed = deviations(len(off), effort.chains - 1) * curve.errors
    assert bool((off <= allowed).all()), (curve.effective, curve.errors)


def has_spread(curve, effort):
    """Two halves of the draws, independent ones, differ by twice the error of them all."""
    allowed = 2 * deviations(len(curve.drift), effort.chains - 1) * curve.errors
    assert bool((curve.drift.abs() < allowed).all()), (curve.drift, curve.errors)


def test_reflection():
    u = torch.tensor([3.0, 12, -12, 29, 34, -51]).double() / 10
    x, sign, shift = folded(u)
    assert_close(10 * x, torch.tensor([3.0, 8, -8, -9, -6, -9]).double())
    assert_close(sign * x + shift, u)


def growth_between_axes(scale, epsilons, curve):
    """N_eff of λ w₁²w₂² within |w| ≤ 1: V(ε) = 4 √(ε/λ) (1 + log √(λ/ε))."""

    def volume(epsilon):
        share = (epsilon / scale).sqrt()
        return share * (1 - share.log())

    above, below = (
        volume(torch.tensor(epsilons).double() * (side * curve.half_widths).exp())
        for side in (1, -1)
    )
    return (above / below).log() / curve.half_widths


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_singular(scale, effort):
    """L = λ w₁²w₂²: each weight is free where the other is zero (arXiv 2405.10927)."""
    epsilons = [0.3, 0.1, 0.03, 0.01, 0.003, 0.001]
    curve = local_volume(
        lambda w: scale * (w[0] * w[1]).square(), origin(2), epsilons, effort.sampling(1500)
    )
    agrees(curve, growth_between_axes(scale, epsilons, curve), 0.03, effort)
    has_spread(curve, effort)
    # The finite ratio is what the derivative is, s / (1 + s) with s = log √(λ/ε).
    s = torch.log(scale / torch.tensor(epsilons).double()) / 2
    assert_close(growth_between_axes(scale, epsilons, curve), s / (1 + s), 0.01)


@pytest.mark.parametrize("effort", EFFORTS)
def test_singular_elsewhere(effort):
    """The same with another centre and radius, tolerances in any order: the box moves along."""
    centre = torch.tensor([3.0, -2.0]).double()
    epsilons = [0.001, 0.3, 0.03]
    sampling = effort.sampling(1500, radius=0.5)
    curve = local_volume(lambda w: ((w - centre).prod() * 4).square(), centre, epsilons, sampling)
    agrees(curve, growth_between_axes(1, epsilons, curve), 0.03, effort)
    assert curve.epsilons.tolist() == epsilons


@pytest.mark.parametrize("effort", EFFORTS)
def test_quadratic(effort):
    """An ellipsoid that fits into the box: all 20 parameters count, whatever their curvature."""
    loss, matrix = quadratic(torch.logspace(4, 0, 20).double())
    epsilons = [0.1, 0.01, 0.001]
    curve = local_volume(loss, origin(20), epsilons, effort.sampling(1500), hessian=matrix)
    agrees(curve, [20.0] * 3, 0.2, effort)
    has_spread(curve, effort)


@pytest.mark.slow
def test_curvatures_are_learnt():
    """The same without a Hessian, which takes as many steps as it should."""
    loss, _ = quadratic(torch.logspace(4, 0, 20).double())
    curve = local_volume(loss, origin(20), [0.1, 0.01, 0.001], THOROUGH.sampling(1500))
    agrees(curve, [20.0] * 3, 0.2, THOROUGH)
    # Led to its best value, up to what is left of the last corrections.
    assert bool((curve.acceptance - ACCEPTANCE).abs().max() < 0.1)


@pytest.mark.parametrize("effort", EFFORTS)
def test_flat_directions(effort):
    """What is flat up to the walls adds nothing."""
    values = torch.tensor([1e2, 1.0, 0.0, 0.0, 1e-6]).double()
    curve = local_volume(
        lambda w: (values * w.square()).sum() / 2,
        origin(5),
        [0.1, 0.03, 0.01],
        effort.sampling(1200),
        hessian=values.diag(),
    )
    agrees(curve, [2.0] * 3, 0.1, effort)


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize(("known", "width"), [(False, 0.3), (True, 0.3), (True, 0.1)])
def test_walls(known, width, effort):
    """Half-way between free and not: the volume of an ellipsoid cut by the box, by quadrature."""
    values = torch.tensor([8.0, 0.4]).double()
    epsilons = torch.tensor([1.0, 0.3, 0.1]).double()
    turn = torch.tensor([[0.8, 0.6], [-0.6, 0.8]]).double()
    matrix = (turn * values) @ turn.T
    grid = (torch.arange(2000).double() + 0.5) / 1000 - 1
    places = torch.cartesian_prod(grid, grid)
    losses = ((places @ matrix) * places).sum(1) / 2
    expected = []
    for epsilon in epsilons:
        counts = [(losses < epsilon * math.exp(h)).sum() for h in (width, -width)]
        expected.append(float((counts[0] / counts[1]).log()) / width)
    curve = local_volume(
        lambda w: w @ matrix @ w / 2,
        origin(2),
        epsilons.tolist(),
        effort.sampling(900, half_width=width),
        hessian=matrix if known else None,
    )
    agrees(curve, expected, 0.07, effort)
    assert curve.half_widths.tolist() == [width] * 3
    assert expected[0] < 1.2
    assert expected[2] > 1.8


@pytest.mark.parametrize("effort", EFFORTS)
def test_many_parameters(effort):
    """Between walls and curvature in 100 dimensions, by the saddle point of the volume."""
    values = torch.logspace(2, -6, 100).double()
    epsilons = [1.0, 0.01]
    curve = local_volume(
        lambda w: (values * w.square()).sum() / 2,
        origin(100),
        epsilons,
        effort.sampling(1000),
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
    agrees(curve, expected, 0.4, effort)


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


@pytest.mark.slow
def test_errors_are_what_seeds_scatter_by():
    values, epsilons, seeds = torch.tensor([4.0, 1.0, 0.5]).double(), [0.01, 0.1], 120
    curves = [
        local_volume(
            lambda w: (values * w.square()).sum(),
            origin(3),
            epsilons,
            Sampling(1.0, steps=150, chains=16, seed=seed_of("scatter", seed)),
        )
        for seed in range(seeds)
    ]
    scatter = torch.stack([curve.effective for curve in curves]).std(0)
    stated = torch.stack([curve.errors for curve in curves]).square().mean(0).sqrt()
    low, high = spread(seeds - 1, len(epsilons))
    # The jackknife says rather too much than too little with few chains.
    assert bool((0.9 * low * stated < scatter).all()), (scatter, stated)
    assert bool((scatter < high * stated).all()), (scatter, stated)


@pytest.mark.parametrize("effort", EFFORTS)
def test_network_with_a_quadratic_loss(effort):
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
    curve = network_volume(network, data, [0.03, 0.01], effort.sampling(900))
    agrees(curve, [6.0] * 2, 0.15, effort)


@pytest.mark.parametrize("effort", EFFORTS)
def test_network_whose_weights_are_free_one_at_a_time(effort):
    """x w₁ w₂, far from the parameters too: volumes by a grid over both weights."""
    factors = [torch.full((1, 1), each).double() for each in (1.25, 0.8)]
    layers = [NodeLayer(name, 1, constant=False) for name in "abc"]
    network = Network(torch.nn.Identity(), [Linear(each) for each in factors], layers)
    inputs = normal(seeded(0), 20, 1, 1)
    epsilons = [0.3, 0.1, 0.03, 0.01]
    sampling = effort.sampling(1500, radius=0.9)
    curve = network_volume(network, toy_data(network, inputs), epsilons, sampling)
    grid = 0.9 * ((torch.arange(3000).double() + 0.5) / 1500 - 1)
    losses = inputs.square().mean() * (torch.outer(1.25 + grid, 0.8 + grid) - 1).square()
    expected = []
    for epsilon in epsilons:
        counts = [(losses < epsilon * math.exp(h)).sum() for h in (0.3, -0.3)]
        expected.append(float((counts[0] / counts[1]).log()) / 0.3)
    agrees(curve, expected, 0.06, effort)


@pytest.mark.parametrize("effort", EFFORTS)
def test_network_near_its_parameters(effort):
    """In a small box the loss is quadratic: the spectrum counts the same parameters."""
    network = random_network(["tanh", "linear"], [2, 2, 1], seed=3)
    data = toy_data(network, normal(seeded(2), 20, 1, 2))
    chosen = weights_of(network)[:1]
    radius = 1e-2
    values = behaviour_spectrum(network, data, chosen).values * radius**2
    epsilon = float(values[values > 1e-9 * values[0]].min()) / 50
    sampling = effort.sampling(900, radius=radius)
    curve = network_volume(network, data, [epsilon], sampling, chosen)
    agrees(curve, [float((values > epsilon).sum())], 0.3, effort)


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
    effort = Effort(256, 1)
    sampling = effort.sampling(300, radius=50.0)
    one, whole = (
        network_volume(network, toy_data(network, x, batch_size=size), [1e-3], sampling)
        for size in (1, 100)
    )
    assert one.effective.tolist() == whole.effective.tolist()
    agrees(whole, [8.0], 0.3, effort)
