"""What docs/math.md §2 promises of bases, on random networks and on planted data."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers.examples import PROFILE, examples
from helpers.networks import random_network, toy_data
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import AppendOne
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.func import jacrev

from libgraph.bases.method import Setting, Truncation, eigenbasis
from libgraph.bases.methods import METHODS as ALL
from libgraph.bases.statistics import node_statistics
from libgraph.edges.interactions import interactions
from libgraph.errors import DataError, NumericalError, UsageError
from libgraph.network.network import Network, NodeLayer
from libgraph.progress import silent
from libgraph.sections import Function, Linear
from libgraph.sections.quadrature import Quadrature

METHODS = {name: ALL[name] for name in ALL if name != "dictionary"}
"""Those whose features are linear; dictionaries have tests of their own."""


HIDDEN = ["linear", "relu", "tanh", "attention", "attention-full", "positionwise", "mixing"]
TRUNCATION = Truncation(True, 1e-9)


class Setup(NamedTuple):
    """A network and inputs enough for activations of full rank."""

    network: Network
    inputs: torch.Tensor


@st.composite
def setups(draw, kinds=HIDDEN, rotated=None, positions=None):
    sizes = [draw(st.integers(2, 4)) for _ in range(draw(st.integers(2, 3)) + 1)]
    last = draw(st.sampled_from([*kinds, "attention-last"] if "attention" in kinds else kinds))
    chain = [draw(st.sampled_from(kinds)) for _ in sizes[2:]] + [last]
    seed = draw(st.integers(0, 1000))
    rotated = draw(st.booleans()) if rotated is None else rotated
    positions = positions or draw(st.integers(1, 4))
    inputs = 0.7 * normal(seeded(seed), 30, positions, sizes[0]) + 0.3
    return Setup(random_network(chain, sizes, seed=seed, rotated=rotated), inputs)


def bases_of(method, setup, truncation=TRUNCATION, batch_size=17):
    data = toy_data(setup.network, setup.inputs, batch_size=batch_size)
    return made(method, setup.network, data, truncation)


def made(method, network, data, truncation):
    # A rotation is one after few steps too.
    steps = 100 if PROFILE == "thorough" else 5
    options = {"sparse_steps": steps} if method == "sparse" else {}
    statistics = node_statistics(network, data)
    make = METHODS[method].prepared(Setting(options))
    return make(network, statistics, data, truncation, silent)


def edges_of(setup, bases):
    data = toy_data(setup.network, setup.inputs, batch_size=100)
    return interactions(setup.network, {"it": bases}, data, Quadrature.gradient())["it"]


def features_of(setup, bases, layer):
    """Activations and features of a node layer, positions as samples."""
    index = [each.name for each in setup.network.node_layers].index(layer)
    x = setup.network.activations_at(index, setup.inputs).flatten(0, 1)
    return x, x @ bases[layer].encoder


@pytest.mark.parametrize("method", METHODS)
def test_bases_are_as_others_take_them(method):
    """The constant first, isolated coordinates next and unmixed, then by importance."""
    plain = random_network(["relu", "linear"], [3, 4, 3], seed=2, rotated=False)
    layers = [plain.node_layers[0], NodeLayer("l1", 5, isolated=(0,)), plain.node_layers[2]]
    network = Network(plain.embed, list(plain.sections), layers)
    setup = Setup(network, 0.7 * normal(seeded(3), 40, 2, 3) + 0.3)
    bases = bases_of(method, setup)
    assert list(bases) == [layer.name for layer in setup.network.node_layers]
    for layer in setup.network.node_layers:
        basis = bases[layer.name]
        assert basis.encoder.dtype == basis.decoder.dtype == torch.float64
        assert (len(basis.encoder), basis.decoder.shape[1]) == (layer.size, layer.size)
        assert bool(basis.importance.isfinite().all())
        if not layer.rotated:
            assert_close(basis.encoder, torch.eye(layer.size, dtype=torch.float64))
            continue
        assert basis.isolated == len(layer.isolated_coordinates)
        x, f = features_of(setup, bases, layer.name)
        if layer.constant:
            assert_close(f[:, 0], torch.ones(len(f), dtype=torch.float64))
        for place, coordinate in enumerate(layer.isolated_coordinates):
            if place == 0 and layer.constant:
                continue
            alone, centred = f[:, place] - f[:, place].mean(), x[:, coordinate]
            centred = centred - centred.mean()
            cosine = (alone @ centred) / (alone.norm() * centred.norm())
            assert abs(float(cosine)) == pytest.approx(1, abs=1e-9)
        if method not in ("neuron", "random"):
            rest = basis.importance[basis.isolated :]
            assert bool((rest[:-1] >= rest[1:] * (1 - 1e-9)).all())


def covariance(f):
    centred = f - f.mean(0)
    return centred.T @ centred / len(f)


def mean_jacobian_gram(setup, index, left, right):
    """(1/nT) Σ_x Σ_ts Ĵ_ts Ĵ_tsᵀ with Ĵ = left J right, one sample at a time."""
    section = setup.network.sections[index]
    x = setup.network.activations_at(index, setup.inputs)
    total = torch.zeros(len(left), len(left), dtype=torch.float64)
    for one in x:
        jacobian = jacrev(lambda a: section(a.unsqueeze(0)).squeeze(0))(one)
        for t in range(jacobian.shape[0]):
            for s in range(jacobian.shape[2]):
                j = left @ jacobian[t, :, s].T @ right
                total += j @ j.T
    return total / (x.shape[0] * x.shape[1])


def each_pair(setup, bases):
    for index, (a, b, _) in enumerate(setup.network.pairs):
        yield index, bases[a.name], bases[b.name], (a.name, b.name)


many = examples(8)


@pytest.mark.parametrize("method", ["lib", "pca"])
@given(setup=setups())
@many
def test_features_are_centred_and_their_covariance_is_their_importance(method, setup):
    bases = bases_of(method, setup)
    for layer in setup.network.node_layers:
        if not layer.rotated:
            continue
        basis, (_, f) = bases[layer.name], features_of(setup, bases, layer.name)
        assert basis.isolated == 1
        assert_close(f[:, 0], torch.ones(len(f)).double(), 1e-12)
        assert_close(covariance(f)[1:, 1:], basis.importance[1:].diag(), 1e-7)
        assert float(f[:, 1:].mean(0).abs().max()) < 1e-8 * float(f.abs().max())
        assert list(basis.importance[1:]) == sorted(basis.importance[1:], reverse=True)


@given(setup=setups())
@many
def test_lib_makes_the_mean_jacobian_gram_the_identity(setup):
    bases = bases_of("lib", setup)
    for index, basis, following, _ in each_pair(setup, bases):
        gram = mean_jacobian_gram(setup, index, basis.decoder, following.encoder)
        assert_close(gram[1:, 1:], torch.eye(len(basis) - 1).double(), 1e-7)


@given(setup=setups(kinds=["linear"], positions=1))
@many
def test_edges_of_a_linear_section_share_out_importance(setup):
    bases = bases_of("lib", setup)
    edges = edges_of(setup, bases)
    for _, basis, _, pair in each_pair(setup, bases):
        assert_close(edges[pair].sum(0)[1:], basis.importance[1:], 1e-8)


@pytest.mark.parametrize("method", METHODS)
@given(setup=setups())
@many
def test_the_decoder_undoes_the_encoder_on_the_kept_subspace(method, setup):
    for basis in bases_of(method, setup).values():
        assert_close(basis.decoder @ basis.encoder, torch.eye(len(basis)).double(), 1e-8)


@pytest.mark.parametrize("method", ["pca", "neuron"])
@given(setup=setups())
@many
def test_untruncated_bases_lose_nothing(method, setup):
    bases = bases_of(method, setup, Truncation(True, 0.0))
    for layer in setup.network.node_layers:
        x, f = features_of(setup, bases, layer.name)
        assert_close(f @ bases[layer.name].decoder, x)


@given(setup=setups())
@many
def test_the_constant_carries_the_mean(setup):
    for method in ("pca", "lib"):
        bases = bases_of(method, setup)
        for layer in setup.network.node_layers:
            if layer.constant:
                x, _ = features_of(setup, bases, layer.name)
                assert_close(bases[layer.name].decoder[0], x.mean(0), 1e-10)
                assert bases[layer.name].importance[0] == (1 if layer.rotated else 0)


@given(setup=setups(), layer=st.integers(0, 1), seed=st.integers(0, 100))
@many
def test_lib_does_not_depend_on_the_coordinates_of_a_node_layer(setup, layer, seed):
    # Scores of attention go as the square of activations, and rounding of them as these times that:
    # 1e-16 · 100² · 100 is 1e-10, while 400 and a few squares of it have been seen to give 3e-7.
    activations = setup.network.activations(setup.inputs)
    assume(all(float(x.abs().max()) < 100 for x in activations))
    bases = bases_of("lib", setup)
    moved = change_coordinates(setup, layer, seed)
    moved_bases = bases_of("lib", moved)
    before, after = edges_of(setup, bases), edges_of(moved, moved_bases)
    for name, basis in bases.items():
        assert_close(moved_bases[name].importance, basis.importance, 1e-7)
    for pair in before:
        assert_close(after[pair], before[pair], 1e-7)


def change_coordinates(setup, index, seed):
    """The same network with activations x M at a node layer, M affine and well conditioned."""
    network, size = setup.network, setup.network.node_layers[index].size
    generator = seeded(seed)
    matrix = torch.eye(size).double()
    rotation = torch.linalg.qr(normal(generator, size - 1, size - 1)).Q
    matrix[:-1, :-1] = rotation * (0.5 + torch.rand(size - 1, generator=generator))
    matrix[-1, :-1] = normal(generator, size - 1)
    sections, embed = list(network.sections), network.embed
    sections[index] = sections[index].rebase(decoder=torch.linalg.inv(matrix))
    if index:
        sections[index - 1] = sections[index - 1].rebase(encoder=matrix)
    else:
        embed = nn.Sequential(embed, Function(lambda x: x @ matrix, size, size))
    return Setup(Network(embed, sections, network.node_layers), setup.inputs)


@given(setup=setups(rotated=True))
@many
def test_pca_is_the_svd_of_the_centred_data(setup):
    bases = bases_of("pca", setup)
    for layer in setup.network.node_layers:
        basis = bases[layer.name]
        x = features_of(setup, bases, layer.name)[0][:, :-1].numpy()
        _, singular, vectors = np.linalg.svd(x - x.mean(0), full_matrices=False)
        kept = len(basis) - 1
        np.testing.assert_allclose(
            basis.importance[1:], singular[:kept] ** 2 / len(x), atol=1e-10 * singular[0] ** 2
        )
        overlap = np.abs(vectors[:kept] @ basis.encoder[:-1, 1:].numpy())
        np.testing.assert_allclose(overlap, np.eye(kept), atol=1e-6)


def test_the_last_node_layer_of_lib_is_pca_if_rotated_and_neurons_if_not():
    inputs = normal(seeded(0), 30, 1, 3)
    for rotated, method in ((True, "pca"), (False, "neuron")):
        setup = Setup(random_network(["relu", "tanh"], [3, 4, 2], rotated=rotated), inputs)
        last, expected = (bases_of(each, setup)["l2"] for each in ("lib", method))
        assert torch.equal(last.encoder, expected.encoder)
        assert torch.equal(last.importance, expected.importance)


@pytest.mark.parametrize("method", METHODS)
def test_unrotated_layers_stay_as_they_are(method):
    setup = Setup(random_network(["relu"], [3, 5], rotated=False), normal(seeded(0), 30, 2, 3))
    bases = bases_of(method, setup)
    basis, (x, _) = bases["l1"], features_of(setup, bases, "l1")
    assert not basis.rotated
    assert basis.isolated == 0
    assert torch.equal(basis.encoder, torch.eye(5).double())
    assert torch.equal(basis.decoder, torch.eye(5).double())
    assert_close(basis.importance, x.var(0, correction=0))


def test_neurons_keep_their_order_behind_the_isolated_ones():
    setup = isolating((1,))
    basis = bases_of("neuron", setup)["l0"]
    assert basis.encoder.argmax(0).tolist() == [4, 1, 0, 2, 3]
    assert torch.equal(basis.encoder.sum(0), torch.ones(5).double())


def isolating(isolated, constant_coordinate=None):
    """A network with isolated coordinates at its first node layer."""
    network = random_network(["tanh"], [4, 3])
    layers = [NodeLayer("l0", 5, isolated=isolated), network.node_layers[1]]
    inputs = normal(seeded(0), 40, 2, 4) @ normal(seeded(1), 4, 4) + 0.5
    if constant_coordinate is not None:
        inputs[..., constant_coordinate] = 3.0
    return Setup(Network(network.embed, network.sections, layers), inputs)


@pytest.mark.parametrize("method", ["pca", "lib"])
@pytest.mark.parametrize("isolated", [(1,), (2, 0)])
def test_isolated_coordinates_stay_features_of_their_own(method, isolated):
    setup = isolating(isolated)
    bases = bases_of(method, setup)
    basis, (x, f) = bases["l0"], features_of(setup, bases, "l0")
    others = basis.isolated
    assert others == 1 + len(isolated)
    centred = x - x.mean(0)
    for feature, coordinate in enumerate(isolated, 1):
        wanted = centred[:, coordinate]
        if method == "lib":
            wanted = wanted / wanted.std(correction=0) * basis.importance[feature].sqrt()
        assert_close(f[:, feature], wanted)
        assert float(basis.encoder[coordinate, others:].abs().max()) == 0
        assert float(basis.decoder[others:, coordinate].abs().max()) == 0
    assert_close(covariance(f)[others:, others:], basis.importance[others:].diag(), 1e-8)
    if method == "lib":
        gram = mean_jacobian_gram(setup, 0, basis.decoder, bases["l1"].encoder)
        assert_close(gram[others:, others:], torch.eye(len(basis) - others).double(), 1e-8)
        assert_close(gram.diagonal()[1:], torch.ones(len(basis) - 1).double(), 1e-8)


@pytest.mark.parametrize("method", ["pca", "lib"])
def test_an_isolated_coordinate_may_be_the_same_for_all_data(method):
    setup = isolating((1,), constant_coordinate=1)
    bases = bases_of(method, setup)
    x, f = features_of(setup, bases, "l0")
    assert bool(bases["l0"].encoder.isfinite().all())
    assert float(f[:, 1].abs().max()) < 1e-10
    assert_close((f @ bases["l0"].decoder)[:, 1], x[:, 1])


def test_a_layer_without_a_constant_keeps_its_mean():
    network = random_network(["linear"], [3, 4], rotated=False)
    layers = [network.node_layers[0], NodeLayer("l1", 4, constant=False)]
    setup = Setup(Network(network.embed, network.sections, layers), normal(seeded(0), 30, 1, 3) + 1)
    bases = bases_of("pca", setup)
    x, f = features_of(setup, bases, "l1")
    basis = bases["l1"]
    assert basis.isolated == 0
    assert_close(covariance(f), basis.importance.diag(), 1e-8)
    assert float(f.mean(0).abs().max()) > 0.1
    assert len(basis) == 3
    # Three inputs and a bias span four directions, one of which never changes.
    assert_close(covariance(f @ basis.decoder), covariance(x))


@pytest.mark.parametrize("method", ["pca", "lib"])
def test_directions_that_never_occur_are_dropped(method):
    setup = Setup(random_network(["linear", "tanh"], [2, 4, 5]), normal(seeded(0), 30, 1, 2))
    bases = bases_of(method, setup)
    assert [len(bases[name]) for name in ("l0", "l1")] == [3, 3]
    x, f = features_of(setup, bases, "l1")
    assert_close(f @ bases["l1"].decoder, x, 1e-8)


def test_lib_drops_directions_without_effect_and_pca_does_not():
    network = random_network(["linear", "linear"], [4, 4, 2])
    setup = Setup(network, normal(seeded(0), 30, 1, 4))
    bases = bases_of("lib", setup)
    assert [len(bases[name]) for name in ("l0", "l1", "l2")] == [3, 3, 3]
    assert [len(each) for each in bases_of("pca", setup).values()] == [5, 5, 3]
    x, f = features_of(setup, bases, "l0")
    assert_close(
        network.from_layer(0, (f @ bases["l0"].decoder).unsqueeze(1)), network(setup.inputs)
    )
    assert not torch.allclose(f @ bases["l0"].decoder, x)


@pytest.mark.parametrize("method", METHODS)
def test_batches_do_not_matter_and_runs_repeat(method):
    setup = Setup(random_network(["attention", "relu"], [3, 4, 3]), normal(seeded(0), 30, 3, 3))
    whole, again, parts = (bases_of(method, setup, batch_size=size) for size in (30, 30, 7))
    for name, basis in whole.items():
        assert torch.equal(again[name].encoder, basis.encoder)
        assert_close(parts[name].encoder, basis.encoder, 1e-7)
        assert_close(parts[name].importance, basis.importance, 1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_single_precision_data_give_double_precision_bases(method):
    setup = Setup(random_network(["tanh", "linear"], [3, 3, 3]), normal(seeded(0), 40, 2, 3))
    expected = bases_of(method, setup)
    network = setup.network.float()
    data = toy_data(network, setup.inputs.float(), dtype=torch.float32)
    truncation = Truncation.parse("rel:1e-5")
    bases = made(method, network, data, truncation)
    for name, basis in bases.items():
        assert basis.encoder.dtype == basis.importance.dtype == torch.float64
        importance = basis.importance, expected[name].importance
        if method == "sparse":
            # Steps of an optimiser drift apart, but a rotation keeps the sum.
            importance = tuple(each.sum() for each in importance)
        assert_close(*importance, 1e-4)
        assert basis.to(torch.float32).decoder.dtype == torch.float32


@given(seed=st.integers(0, 1000), size=st.integers(1, 6), rank=st.integers(1, 6))
@many
def test_eigenvectors_have_a_sign_and_an_order(seed, size, rank):
    rank = min(rank, size)
    factor = normal(seeded(seed), size, rank)
    values, vectors = eigenbasis(factor @ factor.T, Truncation(True, 1e-9), "gram")
    assert len(values) == vectors.shape[1] == rank
    assert list(values) == sorted(values, reverse=True)
    assert_close(vectors * values @ vectors.T, factor @ factor.T)
    assert bool((vectors.gather(0, vectors.abs().argmax(0, keepdim=True)) > 0).all())


@pytest.mark.parametrize(
    ("text", "kept"), [("rel:0.1", 2), ("abs:0.1", 4), ("rel:0", 4), ("abs:0", 4), ("abs:50", 0)]
)
def test_truncation(text, kept):
    values = torch.tensor([40.0, 6.0, 3.0, 0.5, 0.0, -1e-3], dtype=torch.float64)
    truncation = Truncation.parse(text)
    assert truncation.count(values) == kept
    assert str(truncation) == text
    assert truncation.count(values[:0]) == 0


@pytest.mark.parametrize(
    "text", ["", "rel", "rel:", "rel:small", "relative:1", "abs:-1", "abs:nan", "rel:inf", "1e-9"]
)
def test_truncation_that_cannot_be_read(text):
    with pytest.raises(UsageError, match="use rel:TOL or abs:TOL"):
        Truncation.parse(text)


def test_truncation_cuts_both_variance_and_importance():
    setup = Setup(random_network(["linear"], [4, 4]), normal(seeded(0), 200, 1, 4))
    everything, few = (bases_of("lib", setup, Truncation(True, tol))["l0"] for tol in (0, 0.5))
    assert len(few) < len(everything) == 5
    assert float(few.importance[1:].min()) > 0.5 * float(few.importance[1])


@given(setup=setups())
@many
def test_statistics_are_those_of_numpy(setup):
    data = toy_data(setup.network, setup.inputs, batch_size=13)
    statistics = node_statistics(setup.network, data)
    for layer, x in zip(
        setup.network.node_layers, setup.network.activations(setup.inputs), strict=True
    ):
        found = statistics[layer.name]
        assert (found.count, found.positions) == x.shape[:2]
        rows = x.flatten(0, 1).numpy()
        np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-10, atol=1e-12)
        expected = torch.from_numpy(np.atleast_2d(np.cov(rows.T, bias=True)))
        assert_close(found.covariance, expected)


def test_a_large_mean_does_not_drown_the_covariance():
    network = Network(AppendOne(), [Linear(torch.eye(3).double())], [*map(layer_of_three, "ab")])
    inputs = normal(seeded(0), 500, 1, 2) + 1e7
    statistics = node_statistics(network, toy_data(network, inputs, batch_size=50))
    expected = covariance(inputs.flatten(0, 1))
    assert_close(statistics["a"].covariance[:2, :2], expected, 1e-7)


def layer_of_three(name):
    return NodeLayer(name, 3)


@pytest.mark.parametrize("batch_size", [9, 30])
def test_nan_activations_name_their_node_layer(batch_size):
    def logarithm(x):
        return AppendOne()(x[..., :-1].log())

    sections = [Linear(torch.eye(3).double()), Function(logarithm, 3, 3).double()]
    network = Network(AppendOne(), sections, [*map(layer_of_three, "abc")])
    inputs = normal(seeded(0), 30, 1, 2).abs() + 0.1
    inputs[25, 0, 1] = -1
    with pytest.raises(NumericalError, match="'c'"):
        node_statistics(network, toy_data(network, inputs, batch_size=batch_size))


def test_an_infinite_slope_names_its_node_layer():
    section = Function(lambda x: x.sqrt(), 3, 3).double()
    network = Network(AppendOne(), [section], [*map(layer_of_three, "ab")])
    inputs = normal(seeded(0), 20, 1, 2).abs()
    inputs[3, 0, 0] = 0
    with pytest.raises(NumericalError, match="Jacobian Gram at node layer 'a'"):
        bases_of("lib", Setup(network, inputs))


def test_no_data_is_an_error():
    network = random_network(["tanh"], [3, 3])
    with pytest.raises(DataError, match="train split of 'toy' has no samples"):
        node_statistics(network, toy_data(network, torch.ones(0, 1, 3).double()))


@pytest.mark.parametrize("method", ["pca", "random", "lib", "global", "sparse"])
def test_node_layers_that_are_not_rotated_keep_their_neurons(method):
    """Not the last one alone."""
    network = random_network(["relu", "tanh", "linear"], [4, 5, 4, 3])
    first, _, *rest = network.node_layers
    layers = [first, NodeLayer("l1", 6, rotated=False), *rest]
    setup = Setup(Network(network.embed, network.sections, layers), normal(seeded(0), 30, 1, 4))
    basis = bases_of(method, setup)["l1"]
    assert not basis.rotated
    assert_close(basis.encoder.abs().sum(0), torch.ones(6).double())
    assert_close(basis.decoder @ basis.encoder, torch.eye(6).double())
