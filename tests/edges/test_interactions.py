"""Edges from their definition (docs/math.md §3), looping over samples, positions, features."""

from functools import cache

import pytest
import torch
from helpers.edges import assert_same_edges, every_basis
from helpers.networks import random_network, toy_data
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import AppendOne
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import jacrev

from libgraph.edges.interactions import interactions
from libgraph.network.basis import Basis
from libgraph.network.network import Network, NodeLayer
from libgraph.sections import Function, Linear
from libgraph.sections.quadrature import Quadrature

RULES = ["gradient", "trapezoid:3", "gauss-legendre:2"]
CHAINS = [
    ["relu", "attention", "linear"],
    ["attention-full", "mixing"],
    ["gelu", "attention-last"],
    ["positionwise", "pooling"],
]


def setup(chain, *, seed=0, positions=3, rotated=False, samples=12):
    sizes = [3, 4, 3, 4][: len(chain) + 1]
    network = random_network(chain, sizes, seed=seed, rotated=rotated)
    return network, normal(seeded(seed), samples, positions, sizes[0])


def random_basis(size, kept, seed):
    """An encoder and a decoder that have nothing to do with each other."""
    generator = seeded(seed)
    encoder, decoder = normal(generator, size, kept), normal(generator, kept, size)
    return Basis(encoder, decoder, torch.ones(kept).double(), 0)


def expected_edges(network, bases, inputs, rule):
    edges = {}
    for index, (a, b, section) in enumerate(network.pairs):
        source, target = bases[a.name], bases[b.name]
        activations = network.activations_at(index, inputs)
        total = torch.zeros(len(target), len(source), dtype=torch.float64)
        for x in activations:
            jacobian = sum(
                weight * jacrev(lambda x: section(x.unsqueeze(0)).squeeze(0))(point * x)  # noqa: B023
                for point, weight in zip(rule.points, rule.weights, strict=True)
            )
            for t in range(jacobian.shape[0]):
                for i in range(len(target)):
                    for j in range(len(source)):
                        effect = sum(
                            (x[s] @ source.encoder[:, j])
                            * (source.decoder[j] @ jacobian[t, :, s].T @ target.encoder[:, i])
                            for s in range(len(x))
                        )
                        total[i, j] += effect**2
        edges[a.name, b.name] = total / (activations.shape[0] * activations.shape[1])
    return edges


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
def test_edges_are_those_of_the_definition_in_every_basis(chain, rule):
    network, inputs = setup(chain, samples=5)
    data = toy_data(network, inputs, batch_size=2)
    bases, rule = every_basis(network, data), Quadrature.parse(rule)
    edges = interactions(network, bases, data, rule)
    assert edges.keys() == bases.keys()
    for name, by_layer in bases.items():
        assert_same_edges(edges[name], expected_edges(network, by_layer, inputs, rule), 1e-9)


@given(seed=st.integers(0, 1000), kept=st.lists(st.integers(1, 6), min_size=3, max_size=3))
@settings(deadline=None, max_examples=15)
def test_edges_in_bases_of_any_size(seed, kept):
    network, inputs = setup(["attention", "silu"], seed=seed, samples=2, positions=2)
    bases = {
        layer.name: random_basis(layer.size, k, seed + k)
        for layer, k in zip(network.node_layers, kept, strict=True)
    }
    rule = Quadrature.gradient()
    edges = interactions(network, {"any": bases}, toy_data(network, inputs), rule)["any"]
    assert_same_edges(edges, expected_edges(network, bases, inputs, rule))


@cache
def network_with_bases():
    network, inputs = setup(["mixing", "attention", "linear"])
    return network, inputs, every_basis(network, toy_data(network, inputs))


@given(batch_size=st.integers(1, 30), limit=st.integers(1, 12))
@settings(deadline=None, max_examples=15)
def test_batches_do_not_matter(batch_size, limit):
    network, inputs, bases = network_with_bases()
    together = toy_data(network, inputs[:limit])
    parts = toy_data(network, inputs, batch_size=batch_size, limit=limit)
    rule = Quadrature.trapezoid(3)
    edges, expected = (interactions(network, bases, data, rule) for data in (parts, together))
    for name in bases:
        assert_same_edges(edges[name], expected[name])


def test_each_basis_is_measured_as_if_alone():
    network, inputs = setup(["tanh", "attention"])
    data, rule = toy_data(network, inputs), Quadrature.gradient()
    bases = every_basis(network, data)
    together = interactions(network, bases, data, rule)
    for name, by_layer in bases.items():
        assert_same_edges(
            interactions(network, {name: by_layer}, data, rule)[name], together[name], 1e-14
        )


@pytest.mark.parametrize("positions", [1, 2, 5])
def test_edges_are_a_mean_over_input_positions(positions):
    """The same activation at T positions: alone each adds its square, summed up the sum's."""
    matrix = normal(seeded(0), 3, 2)
    x = torch.tensor([0.5, -2.0, 1.0], dtype=torch.float64)
    inputs = x[:2].repeat(4, positions, 1)
    apart = Linear(matrix)
    summed = Function(lambda x: x.sum(1, keepdim=True) @ matrix, 3, 2).double()
    single = (x.unsqueeze(1) * matrix).T.square()
    layers = [NodeLayer("a", 3), NodeLayer("b", 2, constant=False)]
    for section, factor in ((apart, 1), (summed, positions)):
        network = Network(AppendOne(), [section], layers)
        bases = {
            layer.name: Basis(eye, eye, eye.diagonal(), 0)
            for layer in layers
            for eye in [torch.eye(layer.size).double()]
        }
        edges = interactions(
            network, {"neuron": bases}, toy_data(network, inputs), Quadrature.gradient()
        )
        assert_close(edges["neuron"]["a", "b"], factor * single)


def test_integrated_gradients_of_a_relu_through_zero_are_its_output():
    """y = relu(x) along the path from zero has the slope of its end: E = E[y²]."""
    network = Network(
        AppendOne(),
        [Function(torch.relu, 3, 3, positionwise=True).double()],
        [NodeLayer("a", 3), NodeLayer("b", 3)],
    )
    inputs = normal(seeded(0), 20, 2, 2)
    data = toy_data(network, inputs)
    bases = every_basis(network, data)["neuron"]
    edges = interactions(network, {"neuron": bases}, data, Quadrature.gauss_legendre(4))
    expected = AppendOne()(inputs).relu().square().mean((0, 1))[[2, 0, 1]].diag()
    assert_close(edges["neuron"]["a", "b"], expected)


def test_single_precision_data_give_double_precision_edges():
    network, inputs = setup(["tanh", "attention-last"])
    data, rule = toy_data(network, inputs), Quadrature.gradient()
    bases = every_basis(network, data)
    expected = interactions(network, bases, data, rule)
    single = toy_data(network.float(), inputs.float(), dtype=torch.float32)
    edges = interactions(network, bases, single, rule)
    for name in bases:
        assert all(matrix.dtype == torch.float64 for matrix in edges[name].values())
        assert_same_edges(edges[name], expected[name], 1e-4)


def test_progress_is_told():
    network, inputs = setup(["linear"])
    data, told = toy_data(network, inputs, batch_size=5), []
    bases = every_basis(network, data)
    interactions(network, bases, data, Quadrature.gradient(), lambda *event: told.append(event))
    assert told == [("interactions", done, 3) for done in range(4)]
