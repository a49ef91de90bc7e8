"""The behavioural loss's Hessian and its spectrum, against autodiff and what is known of it."""

import itertools

import pytest
import torch
from helpers.chance import deviations
from helpers.networks import random_network, toy_data
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import AppendOne
from torch.func import functional_call, hessian

from libgraph.bases.method import Truncation
from libgraph.degeneracy.behaviour.behaviour import (
    Probes,
    behaviour_hessian,
    behaviour_spectrum,
    behavioural_loss,
)
from libgraph.degeneracy.behaviour.lanczos import NOTHING, HessianSpectrum, lanczos
from libgraph.degeneracy.weights.jacobians import count_parameters, output_jacobians, split_change
from libgraph.degeneracy.weights.weights import moved, weights_of
from libgraph.errors import NumericalError, UsageError
from libgraph.network.network import Network, NodeLayer
from libgraph.sections import Function, Linear, SkipMLP

NETWORKS = {
    "linear": (["linear", "linear"], [3, 2, 2], 1),
    "tanh": (["tanh", "linear"], [3, 4, 2], 2),
    "gelu": (["gelu", "tanh"], [3, 3, 3], 1),
    "gated": (["gated", "linear"], [3, 4, 2], 1),
    "attention": (["attention", "tanh"], [3, 3, 2], 3),
    "attention-prefix": (["attention-rotary-prefix", "division"], [3, 3, 2], 3),
    "parallel": (["parallel", "mixing"], [3, 2, 2], 3),
}
EPSILONS = torch.logspace(-6, 2, 9, dtype=torch.float64)
EPS = torch.finfo(torch.float64).eps


@pytest.fixture(params=[*NETWORKS, "modules"])
def case(request):
    if request.param == "modules":
        layers = [NodeLayer("l0", 4), NodeLayer("l1", 2, constant=False)]
        section = Function(WithBias(), 4, 2).double()
        return Network(AppendOne(), [section], layers), normal(seeded(3), 7, 2, 3)
    kinds, sizes, positions = NETWORKS[request.param]
    network = random_network(kinds, sizes, seed=1)
    return network, normal(seeded(3), 7, positions, sizes[0])


def autodiff_hessian(network, inputs):
    weights = weights_of(network)
    outputs = network(inputs)

    def loss(flat):
        tensors = moved(split_change(flat, weights))
        return (functional_call(network, tensors, (inputs,)) - outputs).square().sum() / len(inputs)

    return hessian(loss)(torch.zeros(count_parameters(weights)).double()).detach()


class WithBias(torch.nn.Sequential):
    """What no section knows, with weights of PyTorch's own that record gradients."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2, bias=False))


class AsIs(torch.nn.Module):
    def forward(self, x):
        return x


def linear_network(matrices):
    layers = [NodeLayer("l0", len(matrices[0]), constant=False)]
    layers += [NodeLayer(f"l{i + 1}", m.shape[1], constant=False) for i, m in enumerate(matrices)]
    return Network(AsIs(), [Linear(m) for m in matrices], layers)


def test_hessian(case):
    network, inputs = case
    expected = autodiff_hessian(network, inputs)
    weights = weights_of(network)
    for size in (3, 7):
        found = behaviour_hessian(network, toy_data(network, inputs, batch_size=size), weights)
        assert_close(found, expected)
    spectrum = behaviour_spectrum(network, toy_data(network, inputs, batch_size=2))
    assert spectrum.exact
    assert spectrum.parameters == len(expected)
    assert_close(spectrum.values, torch.linalg.eigvalsh(expected).flip(0))
    assert_close(
        spectrum.effective(EPSILONS), (spectrum.values > EPSILONS[:, None]).sum(1).double()
    )
    assert not spectrum.error(EPSILONS).any()


def test_jacobian_of_a_section_that_is_used_twice():
    section = random_network(["tanh"], [3, 3], seed=1).sections[0]
    layers = [NodeLayer(f"l{i}", 4) for i in range(3)]
    network, inputs = Network(AppendOne(), [section, section], layers), normal(seeded(3), 5, 2, 3)
    weights = weights_of(network)

    def outputs(flat):
        tensors = moved(split_change(flat, weights))
        return functional_call(network, tensors, (inputs,), tie_weights=False).flatten()

    flat = torch.zeros(count_parameters(weights)).double()
    expected = torch.func.jacrev(outputs)(flat).detach()
    assert_close(output_jacobians(network, inputs, weights), expected)


def test_jacobian_in_chunks(case, monkeypatch):
    network, inputs = case
    weights = weights_of(network)

    def outputs(flat):
        return functional_call(network, moved(split_change(flat, weights)), (inputs,)).flatten()

    flat = torch.zeros(count_parameters(weights)).double()
    expected = torch.func.jacrev(outputs)(flat).detach()
    assert_close(output_jacobians(network, inputs, weights), expected)
    monkeypatch.setattr("libgraph.degeneracy.weights.jacobians.CHUNK_BYTES", 2000)
    assert_close(output_jacobians(network, inputs, weights), expected)
    some = weights[1:]
    start = count_parameters(weights[:1])
    assert_close(output_jacobians(network, inputs, some), expected[:, start:])


@pytest.mark.parametrize("samples", [2, 30])
def test_both_sides(samples, monkeypatch):
    """The output side where samples are few, the parameter side where they are many."""
    network = random_network(["tanh", "gelu"], [3, 3, 2], seed=2)
    inputs = normal(seeded(0), samples, 2, 3)
    weights = weights_of(network)
    expected = torch.linalg.eigvalsh(autodiff_hessian(network, inputs)).flip(0)
    outputs = samples * 2 * 3
    assert (outputs < count_parameters(weights)) == (samples == 2)
    smaller = min(outputs, count_parameters(weights))
    largest = max(count_parameters([weight]) for weight in weights)
    data = toy_data(network, inputs, batch_size=4)
    for room in (2**30, 8 * outputs * largest):
        monkeypatch.setattr("libgraph.degeneracy.behaviour.behaviour.KERNEL_BYTES", room)
        spectrum = behaviour_spectrum(network, data, most_exact=smaller)
        assert spectrum.exact
        assert_close(spectrum.values, expected)
    monkeypatch.setattr("libgraph.degeneracy.behaviour.behaviour.KERNEL_BYTES", room - 1)
    probes = Probes(steps=2)
    spectrum = behaviour_spectrum(network, data, most_exact=smaller, probes=probes)
    assert spectrum.exact == (samples == 30)
    assert not behaviour_spectrum(network, data, most_exact=smaller - 1, probes=probes).exact


def test_known_spectrum():
    """Orthonormal inputs of a linear map: every entry has the curvature 2/n of its input's row."""
    rows = torch.linalg.qr(normal(seeded(0), 5, 3))[0]
    scales = torch.tensor([1.0, 2.0, 0.0]).double()
    network = linear_network([normal(seeded(1), 3, 4)])
    data = toy_data(network, (rows * scales)[:, None], batch_size=2)
    expected = torch.tensor([8.0] * 4 + [2.0] * 4 + [0.0] * 4).double() / 5
    exact = behaviour_spectrum(network, data)
    assert_close(exact.values, expected)
    assert exact.rank == 8
    # Three eigenvalues, so that three steps find all; and signs hit every entry alike.
    estimated = behaviour_spectrum(network, data, most_exact=0, probes=Probes(2, 3))
    assert not estimated.exact
    assert estimated.resolved
    assert estimated.rank == 8
    at = torch.tensor([1e-6, 0.3, 0.5, 1.5, 1.7]).double()
    assert_close(estimated.effective(at), torch.tensor([8.0, 8, 4, 4, 0]).double())
    assert float(estimated.error(at).max()) < 1e-9


VECTORS = torch.linalg.qr(normal(seeded(0), 12, 12))[0]
FOUR_VALUES = {
    "apart": [5.0] * 3 + [2.0] + [0.5] * 4 + [0.0] * 4,
    "close": [5.0] * 3 + [2.0] + [1e-3] * 4 + [0.0] * 4,
}


@pytest.mark.parametrize("kind", FOUR_VALUES)
@pytest.mark.parametrize("steps", [4, 7, 20])
def test_lanczos_is_exact_after_as_many_steps_as_eigenvalues(kind, steps):
    values = torch.tensor(FOUR_VALUES[kind]).double()
    matrix = (VECTORS * values) @ VECTORS.T
    probes = normal(seeded(1), 3, 12)
    along = (probes @ VECTORS).square() / probes.square().sum(1, keepdim=True)
    nodes, shares, _ = lanczos(lambda x: x @ matrix, probes, steps)
    # Steps with full orthogonalisation are exact ones for a matrix that differs by rounding errors;
    # the share of an eigenvalue then differs by that over its distance from the others.
    gap = float(values.unique().diff().min())
    rounding = 4 * 12 * EPS * float(values.max()) / gap
    for epsilon in (1.0, 3.0, 1e-4, 1e-2):
        expected = torch.where(values > epsilon, along, 0).sum(1)
        assert_close(torch.where(nodes > epsilon, shares, 0).sum(1), expected, rounding)


def test_lanczos_tells_that_nothing_is_left():
    values = torch.tensor(FOUR_VALUES["apart"]).double()
    matrix = (VECTORS * values) @ VECTORS.T
    probes = normal(seeded(1), 3, 12)
    # The same steps in one coordinate an eigenvalue: what a vector has less of in length than the
    # one before, rounding errors in it have more of in size.
    along, nodes, vectors = (probes @ VECTORS).square(), values.unique(), []
    within = torch.stack([along[:, values == node].sum(1) for node in nodes], dim=1).sqrt()
    lanczos(lambda x: (vectors.append(x), x * nodes)[1], within, 4)
    growth = torch.ones(3).double()
    for before, after in itertools.pairwise(vectors):
        growth *= nodes.max() / (before * nodes * after).sum(1)
    assert float(growth.max()) * 12 * EPS < NOTHING
    for steps in (4, 7, 20):
        assert lanczos(lambda x: x @ matrix, probes, steps)[2].all()
    assert not lanczos(lambda x: x @ matrix, probes, 3)[2].any()
    # However close values are, nothing is left after as many steps as there are coordinates.
    close = (VECTORS * torch.tensor(FOUR_VALUES["close"]).double()) @ VECTORS.T
    assert lanczos(lambda x: x @ close, probes, 12)[2].all()
    assert not lanczos(lambda x: x @ close, probes, 3)[2].any()


def test_bounds_hold():
    """Gauss quadrature of a probe's own spectral measure, which is known here."""
    values = torch.logspace(-4, 0, 80).double().flip(0)
    probes = normal(seeded(0), 2, 80)
    along = probes.square() / probes.square().sum(1, keepdim=True)
    epsilons = torch.logspace(-5, 0.1, 200).double()
    expected = (along.mean(0) * (values > epsilons[:, None])).sum(1)
    for steps in (2, 5, 20):
        nodes, shares, _ = lanczos(lambda x: x * values, probes, steps)
        found = HessianSpectrum(80, nodes.flatten(), shares.flatten() / 2, False, 2, False)
        low, high = found.bounds(epsilons)
        assert (low <= expected + 1e-9).all()
        assert (expected <= high + 1e-9).all()
        assert (low <= found.effective(epsilons)).all()
        assert (found.effective(epsilons) <= high).all()
    assert float((high - low).max()) < 0.6


def test_estimate_agrees_with_exact():
    network = random_network(["tanh", "gated", "linear"], [6, 5, 5, 3], seed=4)
    inputs, probes = normal(seeded(0), 60, 1, 6), 20
    data = toy_data(network, inputs, batch_size=25)
    exact = behaviour_spectrum(network, data)
    chosen = Probes(probes, 50, seed=1)
    found = behaviour_spectrum(network, data, most_exact=0, probes=chosen)
    counts, errors = found.effective(EPSILONS), found.error(EPSILONS)
    assert (errors < 0.15 * exact.parameters).all()
    off = (counts - exact.effective(EPSILONS)).abs()
    assert (off <= deviations(len(EPSILONS), probes - 1) * errors).all()
    assert float(found.shares.sum()) == pytest.approx(exact.parameters)
    # Of these probes themselves everything is known: what lies above ε of their own spectral
    # measure is within the bounds, and its mean needs no resolution.
    matrix, signs = autodiff_hessian(network, inputs), chosen.vectors(exact.parameters)
    assert signs.abs().unique().tolist() == [1]
    values, vectors = torch.linalg.eigh(matrix)
    along = (signs @ vectors).square().mean(0)
    own = torch.where(values > EPSILONS[:, None], along, 0).sum(1)
    (low, high), rounding = found.bounds(EPSILONS), 1e-9 * exact.parameters
    assert (low - rounding <= own).all()
    assert (own <= high + rounding).all()
    assert (low <= counts).all()
    assert (counts <= high).all()
    means = (found.values * found.shares).unflatten(0, (probes, -1)).sum(1) * probes
    assert_close(means, ((signs @ matrix) * signs).sum(1))


def test_estimates_are_no_more_than_there_are_outputs():
    network = random_network(["gelu", "linear"], [5, 5, 2], rotated=False)
    data = toy_data(network, normal(seeded(0), 4, 1, 5))
    found = behaviour_spectrum(network, data, most_exact=2, probes=Probes(steps=3))
    assert not found.exact
    rows = 4 * 2
    assert found.most == rows < found.parameters
    epsilon = torch.tensor([0.0, 1e-12])
    assert float(found.effective(epsilon).max()) <= rows
    assert float(found.bounds(epsilon)[1].max()) <= rows


def test_estimate_does_not_depend_on_batches_or_memory():
    network = random_network(["tanh", "linear"], [3, 2, 2], seed=4)
    inputs = normal(seeded(0), 12, 1, 3)
    found = []
    for options in ({"batch_size": 12}, {"batch_size": 5, "memory": 1}):
        data = toy_data(network, inputs, **options)
        found.append(behaviour_spectrum(network, data, most_exact=0, probes=Probes(3, 5)))
    assert_close(found[1].values, found[0].values)
    assert_close(found[1].shares, found[0].shares, 1e-8)


def test_rank_has_the_symmetries_of_the_network():
    """A ReLU unit may be scaled on one side and scaled back on the other."""
    inner, outer = normal(seeded(0), 4, 5), normal(seeded(1), 5, 3)
    inputs = normal(seeded(2), 40, 1, 3)
    scales = torch.tensor([0.5, 1.0, 2.0, 3.0, 0.25]).double()
    ranks = []
    for scale in (torch.ones_like(scales), scales):
        section = SkipMLP(torch.zeros(4, 3).double(), inner * scale, outer / scale[:, None])
        layers = [NodeLayer("in", 4), NodeLayer("out", 3, constant=False)]
        network = Network(AppendOne(), [section], layers)
        spectrum = behaviour_spectrum(network, toy_data(network, inputs))
        assert spectrum.parameters == 35
        ranks.append(spectrum.rank)
    # One free direction for each unit's scale.
    assert ranks == [30, 30]


def test_rotations_between_linear_layers():
    first, second = normal(seeded(0), 4, 3), normal(seeded(1), 3, 5)
    inputs = normal(seeded(2), 40, 1, 4)
    turn = torch.linalg.qr(normal(seeded(3), 3, 3))[0]
    skewed = normal(seeded(4), 3, 3)
    spectra = []
    for change, back in ((torch.eye(3).double(),) * 2, (turn, turn.T), (skewed, skewed.inverse())):
        network = linear_network([first @ change, back @ second])
        spectra.append(behaviour_spectrum(network, toy_data(network, inputs)))
    # Any invertible map between them leaves the product as it is: 9 free directions of 27.
    assert [spectrum.rank for spectrum in spectra] == [18, 18, 18]
    assert_close(spectra[1].values, spectra[0].values)
    assert float((spectra[2].values - spectra[0].values).abs().max()) > 0.1


def test_loss(case):
    network, inputs = case
    weights = weights_of(network)
    generator = seeded(5)
    change = normal(generator, count_parameters(weights))
    data = toy_data(network, inputs, batch_size=2)
    tensors = moved(split_change(change, weights))
    difference = (functional_call(network, tensors, (inputs,)) - network(inputs)).detach()
    loss = behavioural_loss(network, data, split_change(change, weights))
    assert loss == pytest.approx(float(difference.square().sum() / len(inputs)))
    assert behavioural_loss(network, data, {}) == 0
    quadratic = change @ behaviour_hessian(network, data, weights) @ change / 2
    for step in (1e-4, 1e-5):
        near = behavioural_loss(network, data, split_change(step * change, weights))
        assert near / step**2 == pytest.approx(float(quadratic), rel=1e4 * step)


def test_truncation():
    values = torch.tensor([1.0, 1e-3, 1e-12]).double()
    for truncation, rank in (("rel:1e-10", 2), ("abs:1e-15", 3), ("rel:1e-2", 1)):
        spectrum = HessianSpectrum(
            3, values, torch.ones(3).double(), True, truncation=Truncation.parse(truncation)
        )
        assert spectrum.rank == rank


def test_progress():
    network = random_network(["tanh"], [3, 2], seed=0)
    data = toy_data(network, normal(seeded(0), 5, 1, 3), memory=1)
    told: list[tuple[str, int, int]] = []
    for options in ({}, {"most_exact": 0, "probes": Probes(2, 3)}):
        told.clear()
        behaviour_spectrum(network, data, **options, progress=lambda *step: told.append(step))
        assert told == sorted(told)
        assert told[-1][1] == told[-1][2]


def test_mistakes():
    network = random_network(["tanh"], [3, 2], seed=0)
    data = toy_data(network, normal(seeded(0), 5, 1, 3))
    with pytest.raises(UsageError, match="at least 2 probes"):
        behaviour_spectrum(network, data, probes=Probes(1))
    with pytest.raises(UsageError, match="no weights"):
        behaviour_spectrum(network, data, [])
    weights_of(network)[0].module.inner[0, 0] = torch.nan
    for most in (100, 0):
        with pytest.raises(NumericalError, match="NaN"):
            behaviour_spectrum(network, data, most_exact=most)
