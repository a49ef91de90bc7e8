"""Degeneracy by module, against dense blocks of the Hessian and networks with planted modules."""

import itertools
import json
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from helpers.chance import FALSE_ALARM, deviations
from helpers.networks import random_network, toy_data
from helpers.numbers import assert_close, normal, seeded
from scipy.linalg import hadamard
from scipy.special import fdtri
from torch.func import functional_call, hessian

from libgraph.bases.method import Truncation
from libgraph.bases.methods import METHODS
from libgraph.bases.statistics import node_statistics
from libgraph.degeneracy.behaviour.behaviour import behaviour_hessian, behaviour_spectrum
from libgraph.degeneracy.modules.additivity import BlockCounts, ModuleAdditivity
from libgraph.degeneracy.modules.block_curvature import block_curvature
from libgraph.degeneracy.modules.by_module import Counting, module_additivity, module_strengths
from libgraph.degeneracy.modules.feature_weights import parameter_modules
from libgraph.degeneracy.weights.weights import moved, weights_of
from libgraph.edges.interactions import interactions
from libgraph.errors import NumericalError, TooLarge, UsageError
from libgraph.graph.features import LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.partition import Partition
from libgraph.modules.communities import find_communities
from libgraph.network.network import Network, NodeLayer
from libgraph.progress import silent
from libgraph.sections import Parallel, SkipMLP
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import Rebased

NETWORKS = {
    "linear": (["linear", "linear"], [3, 3, 2], 1),
    "tanh": (["tanh", "gelu"], [3, 4, 2], 1),
    "gated": (["gated", "linear"], [3, 3, 2], 1),
    "attention": (["attention", "tanh"], [3, 3, 2], 3),
    "convolution": (["convolution-of-3", "linear"], [3, 3, 2], 3),
    "parallel": (["parallel", "tanh"], [3, 2, 2], 3),
    "chain": (["chain", "linear"], [3, 3, 2], 1),
}
EPSILONS = [10.0**i for i in range(-6, 3, 2)]


EYE = torch.eye(5).double()


class AsIs(torch.nn.Module):
    def forward(self, x):
        return x


def additivity(network, data, bases, graph, *, epsilons, **options):
    return module_additivity(network, data, bases, graph, epsilons, Counting(**options))


def partition_of(membership):
    membership = {name: np.array(each) for name, each in membership.items()}
    return Partition(membership, 1.0, 0.0, 0.0, 1.0, 0, 1)


def bases_of(network, inputs, method="lib"):
    data = toy_data(network, inputs)
    truncation = Truncation(True, 1e-9)
    return METHODS[method](network, node_statistics(network, data), data, truncation, silent)


def graph_of(network, bases, inputs):
    layers = [
        LayerFeatures(name, each.importance.numpy(), each.isolated, each.rotated)
        for name, each in bases.items()
    ]
    data = toy_data(network, inputs)
    edges = interactions(network, {"it": bases}, data, Quadrature.gradient())["it"]
    return InteractionGraph(tuple(layers), {pair: e.numpy() for pair, e in edges.items()})


def in_two(graph, seed=0):
    """The graph with its features in two modules at random, isolated ones in none."""
    rng = np.random.default_rng(seed)
    membership = {}
    for layer in graph.layers:
        membership[layer.name] = rng.integers(0, 2, layer.size)
        membership[layer.name][: layer.isolated] = -1
    return graph.with_partition(partition_of(membership))


def case_of(name, method="lib", samples=12, **options):
    kinds, sizes, positions = NETWORKS[name]
    network = random_network(kinds, sizes, seed=1, **options)
    inputs = normal(seeded(3), samples, positions, sizes[0])
    bases = bases_of(network, inputs, method)
    return network, inputs, bases, in_two(graph_of(network, bases, inputs))


@pytest.fixture(params=NETWORKS)
def case(request):
    return case_of(request.param)


def changes(parts, flat):
    sizes = [len(each.modules) for each in parts]
    return {
        each.weight: each.moved(own.reshape(each.shape))
        for each, own in zip(parts, flat.split(sizes), strict=True)
    }


def dense(network, inputs, parts):
    """The Hessian in coordinates of features, by differentiating the loss twice."""
    outputs = network(inputs)

    def loss(flat):
        found = functional_call(network, moved(changes(parts, flat)), (inputs,))
        return (found - outputs).square().sum() / len(inputs)

    total = sum(len(each.modules) for each in parts)
    return hessian(loss)(torch.zeros(total).double()).detach()


def counts(matrix, chosen, epsilons=EPSILONS):
    values = torch.linalg.eigvalsh(matrix[chosen][:, chosen]).clamp(min=0)
    return torch.stack([(values / (values + epsilon)).sum() for epsilon in epsilons])


def count_error(part, largest, rows):
    """By how much rounding errors may change the counts of a part, for each ε.

    They are as good as random, so that sums of so many products, and what is done to a matrix with
    so many entries along a side, change an eigenvalue by about √(that) · eps of the largest one. A
    count λ/(λ + ε) changes by that over ε at most; all but as many as there are rows are zero.
    """
    eps = torch.finfo(torch.float64).eps
    each = 2 * math.sqrt(rows + part.parameters) * eps * largest
    return min(part.parameters, rows) * each / torch.tensor(EPSILONS).double()


def assert_counts(found, matrix, chosen, rows):
    """Equal up to what rounding makes of zeros beside the largest eigenvalue."""
    error = count_error(found, float(torch.linalg.eigvalsh(matrix).max()), rows)
    expected = counts(matrix, chosen)
    assert bool(((found.effective - expected).abs() <= 1e-9 * expected + 2 * error).all())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("samples", [2, 12])
def test_against_dense_blocks(name, samples):
    """From JJᵀ where samples are few, from H where they are many."""
    network, inputs, _, _ = case_of(name, samples=samples)
    _, _, bases, graph = case_of(name)
    parts = parameter_modules(network, bases, graph)
    expected = dense(network, inputs, parts)
    modules = torch.cat([each.modules for each in parts])
    outputs = network(inputs).numel()
    rows = 2000 if samples == 12 else outputs
    assert (len(modules) <= rows) == (samples == 12)
    data = toy_data(network, inputs, batch_size=5)
    found = additivity(network, data, bases, graph, epsilons=EPSILONS, draws=2, rows=rows)
    assert (found.samples, found.rows, found.exact) == (samples, outputs, True)
    kinds = [*found.modules, found.together, found.unassigned, found.whole]
    chosen = [modules == 0, modules == 1, modules >= 0, modules < 0, modules >= -1]
    for part, own in zip(kinds, chosen, strict=True):
        assert part.parameters == int(own.sum())
        assert_counts(part, expected, own, found.rows)
    values = torch.linalg.eigvalsh(expected)
    error = 2 * count_error(found.whole, float(values.max()), found.rows)
    assert bool((found.sum + error >= found.together.effective).all())
    everything = found.together.effective + found.unassigned.effective
    assert bool((everything + error >= found.whole.effective).all())
    assert found.whole.rank == int((values > 1e-10 * values.max()).sum())
    assert found.whole.rank + found.whole.free == len(modules)


def test_complete_orthogonal_bases_change_nothing():
    network, inputs, bases, graph = case_of("attention", method="neuron")
    data = toy_data(network, inputs)
    found = additivity(network, data, bases, graph, epsilons=EPSILONS, draws=2)
    spectrum = behaviour_spectrum(network, data)
    assert found.whole.parameters == spectrum.parameters
    assert found.whole.rank == spectrum.rank
    ratios = spectrum.values[:, None] / (spectrum.values[:, None] + torch.tensor(EPSILONS).double())
    assert_close(found.whole.effective, ratios.sum(0), 1e-8)


def test_moving_one_feature(case):
    """What one entry does to outputs, by finite differences and by what features say it does."""
    network, inputs, bases, graph = case
    data = toy_data(network, inputs)
    matrix = behaviour_hessian(network, data, weights_of(network))
    parts = parameter_modules(network, bases, graph)
    sizes = [w.weight.shape[0] * w.weight.shape[1] for w in parts]
    generator, start = seeded(5), 0
    for each, size in zip(parts, sizes, strict=True):
        entry = int(torch.randint(len(each.modules), (1,), generator=generator))
        unit = torch.zeros(len(each.modules)).double()
        unit[entry] = 1
        change = each.moved(unit.reshape(each.shape))
        assert change.shape == each.weight.shape
        assert float(change.norm()) == pytest.approx(1)
        step = 1e-6
        before, after = (
            functional_call(network, each.weight.moved(sign * step * change), (inputs,))
            for sign in (-1, 1)
        )
        slope = ((after - before) / (2 * step)).square().sum() * 2 / len(inputs)
        block = matrix[start : start + size, start : start + size]
        flat = change.flatten()
        assert float(flat @ block @ flat) == pytest.approx(float(slope), rel=1e-5, abs=1e-8)
        assert_close(each.changed(flat[None] @ block)[0, entry], flat @ block @ flat)
        start += size


def feature_of(part, entry):
    columns = part.shape[1]
    return int(part.features[entry // columns if part.by_input else entry % columns])


@pytest.mark.parametrize("name", ["tanh", "gated", "attention", "linear", "convolution"])
def test_an_entry_is_of_one_feature(name):
    """A reader's entry sees its own feature alone; a writer's moves its own feature alone."""
    network, inputs, bases, graph = case_of(name, samples=40)
    x = dict(zip(bases, network.activations(inputs), strict=True))
    for part in parameter_modules(network, bases, graph):
        assert part.layer == part.weight.pair[0 if part.by_input else 1]
        assert part.by_input == (part.weight.factor != "outer" and part.weight.factor != "output")
        basis = bases[part.layer]
        for entry in (0, len(part.modules) // 2, len(part.modules) - 1):
            feature = feature_of(part, entry)
            unit = torch.zeros(len(part.modules)).double()
            unit[entry] = 1
            assert int(part.modules[entry]) == graph.membership(part.layer)[feature]
            change = part.moved(unit.reshape(part.shape))
            whole = part.weight.module.factor(part.weight.factor) * 0
            whole[part.weight.rows.unsqueeze(1), part.weight.columns] = change
            if not part.by_input:
                written = whole @ basis.encoder
                other = torch.arange(len(basis)) != feature
                assert float(written[:, other].abs().max()) < 1e-9 * float(written.abs().max())
            elif name != "convolution":
                product = (x[part.layer] @ whole).flatten(0, 1)
                f = (x[part.layer] @ basis.encoder).flatten(0, 1)[:, feature]
                column = product[:, product.abs().sum(0).argmax()]
                assert float(column.norm()) > 0
                assert_close(column * f.norm(), f * column.norm() * (column @ f).sign(), 1e-8)


def test_offsets_of_a_convolution_have_the_same_features():
    network, _, bases, graph = case_of("convolution", method="neuron")
    (part, *_) = parameter_modules(network, bases, graph)
    rows = part.weight.rows
    assert len(rows) == len(part.features)
    # Neurons stand behind the constant among the features; offsets have 4 coordinates each.
    order = bases["l0"].encoder.argmax(0)
    coordinates = rows[part.directions.abs().argmax(1)]
    assert torch.equal(order[part.features], coordinates % 4)
    assert len(coordinates.unique()) == len(rows) > 4
    assert_close(part.directions.abs().sum(1), torch.ones(len(rows)).double())


def layers_of(network, inputs):
    bases = bases_of(network, inputs, "neuron")
    parts = parameter_modules(network, bases, in_two(graph_of(network, bases, inputs)))
    return {part.weight.name.split(maxsplit=1)[1]: part for part in parts}


def test_branches_and_ends_of_chains_see_node_layers():
    network, inputs, _, _ = case_of("chain")
    found = layers_of(network, inputs)
    inside = {"parts.0.inner": "l0", "parts.0.outer": None}
    inside |= {"parts.2.inner": None, "parts.2.gate": None, "parts.2.outer": "l1"}
    assert {name: found[name].layer for name in inside} == inside
    middle = found["parts.2.inner"]
    assert middle.shape == middle.weight.shape
    assert bool((middle.modules == -1).all())
    network, inputs = side_by_side(apart=True)
    network.sections[1].branches[0] = Rebased(network.sections[1].branches[0], *[EYE, EYE])
    found = layers_of(network, inputs)
    assert found["branches.0.inner.inner"].layer is None
    assert found["branches.0.inner.outer"].layer is None
    layers = [NodeLayer(f"l{i}", 5, constant=False) for i in range(2)]
    found = layers_of(Network(AsIs(), network.sections[:1], layers), inputs)
    inside = {"branches.0.inner": "l0", "branches.0.outer": "l1", "branches.1.inner": "l0"}
    assert {name: found[name].layer for name in inside} == inside


def side_by_side(apart, seed=0, kinds=2):
    """Two networks of two MLP sections with 2 and 3 coordinates, in one.

    `apart`, as branches that each read their own coordinates; otherwise as one matrix with zeros.
    """
    generator, sections = seeded(seed), []
    first, second = slice(0, 2), slice(2, 5)
    for _ in range(kinds):
        factors = []
        for own, width in ((first, 3), (second, 4)):
            size = own.stop - own.start
            skip, inner, outer = (torch.zeros(5, n).double() for n in (5, width, width))
            skip[own, own] = normal(generator, size, size)
            inner[own] = normal(generator, size, width)
            outer[own] = normal(generator, size, width)
            factors.append((skip, inner, outer.T))
        if apart:
            sections.append(Parallel([SkipMLP(*each, torch.tanh) for each in factors]))
        else:
            (s, a, b), (t, c, d) = factors
            sections.append(SkipMLP(s + t, torch.cat([a, c], 1), torch.cat([b, d]), torch.tanh))
    layers = [NodeLayer(f"l{i}", 5, constant=False) for i in range(kinds + 1)]
    inputs = normal(generator, 15, 1, 5)
    return Network(AsIs(), sections, layers), inputs


PLANTED = {f"l{i}": [0, 0, 1, 1, 1] for i in range(3)}


@pytest.mark.parametrize("rows", [2000, 75])
def test_modules_that_do_not_interact_add_up(rows):
    network, inputs = side_by_side(apart=True)
    bases = bases_of(network, inputs, "neuron")
    graph = graph_of(network, bases, inputs).with_partition(partition_of(PLANTED))
    data = toy_data(network, inputs, batch_size=16)
    parts = parameter_modules(network, bases, graph)
    # The last column of the first network's writer is zero, which is how a constant looks.
    assert {part.shape for part in parts} == {(2, 3), (3, 4), (4, 5)}
    found = additivity(network, data, bases, graph, epsilons=EPSILONS, draws=4, rows=rows)
    assert found.exact
    assert found.unassigned.parameters == 0
    assert_close(found.sum, found.whole.effective, 1e-9)
    assert_close(found.together.effective, found.whole.effective, 0)
    assert found.ranks_add_up
    assert found.whole.rank == sum(part.rank for part in found.modules)
    assert found.whole.rank < found.whole.parameters
    middle = found.random[:, 1:4]
    assert bool((middle > found.whole.effective[1:4] * (1 + 1e-3)).all())
    assert float(found.ratio[1:4].abs().max()) < 1e-6
    assert_close(found.random_mean, found.random.mean(0))
    assert_close(found.random_std, found.random.std(0))


def test_zeros_between_modules_are_parameters_too():
    """The same networks in one matrix: what could join them interacts, but less than at random."""
    network, inputs = side_by_side(apart=False)
    bases = bases_of(network, inputs, "neuron")
    graph = graph_of(network, bases, inputs).with_partition(partition_of(PLANTED))
    data = toy_data(network, inputs)
    found = additivity(network, data, bases, graph, epsilons=[1e-2, 1e-1], draws=8)
    assert bool((found.sum > found.together.effective).all())
    assert bool((found.ratio > 0).all() & (found.ratio < 1).all())


def test_numbers_of_modules_do_not_matter():
    network, inputs, bases, graph = case_of("tanh")
    data = toy_data(network, inputs)
    other = {
        name: np.where(each >= 0, 1 - each, each)
        for name, each in graph.partition.membership.items()
    }
    first, second = (
        additivity(network, data, bases, each, epsilons=EPSILONS, draws=3)
        for each in (graph, graph.with_partition(partition_of(other)))
    )
    assert_close(first.sum, second.sum)
    assert_close(first.random, second.random)
    assert_close(first.modules[0].effective, second.modules[1].effective)
    strengths = module_strengths(graph), module_strengths(graph.with_partition(partition_of(other)))
    np.testing.assert_allclose(strengths[0], strengths[1][::-1, ::-1])


def test_random_partitions_keep_sizes():
    network, inputs, bases, graph = case_of("tanh")
    data = toy_data(network, inputs)
    # All features of a layer in one module: nothing to exchange.
    layered = {
        name: np.where(each >= 0, number % 2, each)
        for number, (name, each) in enumerate(graph.partition.membership.items())
    }
    graph = graph.with_partition(partition_of(layered))
    found = additivity(network, data, bases, graph, epsilons=EPSILONS, draws=3)
    assert_close(found.random, found.sum.expand(3, -1))
    one = {name: np.where(each >= 0, 0, each) for name, each in layered.items()}
    graph = graph.with_partition(partition_of(one))
    found = additivity(network, data, bases, graph, epsilons=EPSILONS, draws=2)
    assert_close(found.sum, found.together.effective)
    assert bool(found.ratio.isnan().all())
    assert found.ranks_add_up


def test_random_partitions_are_some_that_keep_sizes():
    """Every drawn sum is that of one of all partitions with these sizes."""
    network, inputs, bases, graph = case_of("tanh")
    parts = parameter_modules(network, bases, graph)
    expected = dense(network, inputs, parts)
    own = graph.partition.membership
    layers = [sorted(set(itertools.permutations(own[name][1:].tolist()))) for name in own]
    sums = []
    for given in itertools.product(*layers):
        membership = {name: np.array([-1, *each]) for name, each in zip(own, given, strict=True)}
        modules = torch.cat([part.modules_under(membership) for part in parts])
        sums.append(sum(counts(expected, modules == number, [1.0]) for number in range(2)))
    data = toy_data(network, inputs)
    found = additivity(network, data, bases, graph, epsilons=[1.0], draws=12)
    distance = (found.random - torch.stack(sums).T).abs().min(1)
    assert float(distance.values.max()) < 1e-8
    assert len(set(distance.indices.tolist())) > 2


@cache
def attention_of_six_samples():
    network, inputs, bases, graph = case_of("attention", method="neuron", samples=6)
    return network, toy_data(network, inputs, batch_size=4), bases, graph


def of_signs(rows, seed=0):
    """tr H, and that of one module, from signed sums of outputs; and what it is from all outputs.

    It is what is left of tr H (H + ε)⁻¹ at large ε, times ε.
    """
    large = 1e9
    options = {"epsilons": [large], "draws": 2, "rows": rows, "seed": seed}
    found = additivity(*attention_of_six_samples(), **options)
    return found, torch.cat([found.whole.effective, found.modules[0].effective]) * large


def test_signs_keep_the_expectation(monkeypatch):
    """Nine columns of signs that are orthogonal: the mean over its rows of φφᵀ is exactly 1."""
    found, exact = of_signs(6 * 9)
    assert found.exact
    signs = torch.from_numpy(hadamard(16))[:, :9]
    traces = []
    for row in signs:
        monkeypatch.setattr(
            "torch.randint", lambda high, shape, row=row, **_: ((row + 1) // 2).expand(shape)
        )
        found, trace = of_signs(6)
        assert (found.samples, found.rows, found.exact) == (6, 6, False)
        traces.append(trace)
    # Next to the large ε what is missing is a share of λ/ε.
    assert_close(torch.stack(traces).mean(0), exact, 1e-5)


@pytest.mark.slow
def test_traces_under_random_signs():
    _, exact = of_signs(6 * 9)
    seeds = 200
    few = torch.stack([of_signs(6, seed)[1] for seed in range(seeds)])
    error = few.std(0) / seeds**0.5
    assert bool(((few.mean(0) - exact).abs() < deviations(2, seeds - 1) * error).all())
    assert bool((error < 0.1 * exact).all())
    # Eight draws scatter by √8 less, up to what two estimates of a variance differ by.
    more = torch.stack([of_signs(48, seed)[1] for seed in range(seeds, 2 * seeds)])
    ratio = math.sqrt(fdtri(seeds - 1, seeds - 1, 1 - FALSE_ALARM / 2))
    assert bool((more.std(0) < ratio / 8**0.5 * few.std(0)).all())


@pytest.mark.parametrize("rows", [1, 5, 6, 11, 12, 53])
def test_as_many_signed_sums_as_rows_allow(rows):
    found, _ = of_signs(rows)
    samples = min(6, rows)
    assert (found.samples, found.rows, found.exact) == (samples, rows // samples * samples, False)


@pytest.mark.parametrize("memory", [9_000, 20_000, 50_000])
def test_a_jacobian_and_its_blocks_take_a_third_of_the_budget(memory, monkeypatch):
    monkeypatch.setattr("libgraph.degeneracy.modules.block_curvature.LEAST_ROWS", 1)
    network, inputs, bases, graph = case_of("convolution", method="neuron", samples=60)
    weights = parameter_modules(network, bases, graph)
    data = toy_data(network, inputs, batch_size=8, memory=memory)
    found = block_curvature(
        network, data, weights, rows=50, seed=0, stage="x", progress=lambda *_: None
    )
    widths = [piece.shape[1] for piece in found.jacobian]

    def taken(rows):
        return 8 * rows * (sum(widths) + max(widths) + 3 * rows)

    assert found.rows < 50
    assert taken(found.rows) <= memory // 3 < taken(found.rows + 1)


def test_signed_rows_converge_and_do_not_depend_on_batches(monkeypatch):
    network, inputs, bases, graph = case_of("convolution", method="neuron", samples=8)
    monkeypatch.setattr("libgraph.degeneracy.modules.block_curvature.LEAST_ROWS", 1)
    options = {"epsilons": [*EPSILONS, 1e5], "draws": 2, "rows": 30, "seed": 4}
    whole, parts = (
        additivity(network, toy_data(network, inputs, batch_size=size), bases, graph, **options)
        for size in (8, 3)
    )
    assert (whole.samples, whole.rows) == (8, 24)
    assert_close(parts.whole.effective, whole.whole.effective)
    assert_close(parts.random, whole.random)
    few = additivity(
        network, toy_data(network, inputs, batch_size=3), bases, graph, **options | {"rows": 5}
    )
    assert (few.samples, few.rows, few.exact) == (5, 5, False)
    assert few.whole.rank <= 5
    assert bool(few.ratio[:2].isnan().all())
    assert few.figures("pca", np.zeros((2, 2))).ratio[0] is None
    told = few.together.effective <= 2.5
    assert bool(told.any())
    assert torch.equal(few.ratio.isfinite(), told)


def test_dictionary():
    network, inputs, bases, graph = case_of("tanh")
    found = additivity(network, toy_data(network, inputs), bases, graph, epsilons=EPSILONS, draws=2)
    figures = found.figures("pca", module_strengths(graph))
    kept = json.loads(json.dumps(figures.as_dict(), allow_nan=False))
    assert kept["basis"] == "pca"
    assert kept["sum"] == found.sum.tolist()
    assert kept["together"]["rank"] == found.together.rank
    assert [each["parameters"] for each in kept["modules"]] == [p.parameters for p in found.modules]


def test_communities_of_a_network():
    network, inputs, bases, graph = case_of("gated", samples=30, rotated=False)
    graph = graph.with_partition(find_communities(graph, 1.0, 0, 2))
    found = additivity(network, toy_data(network, inputs), bases, graph, epsilons=EPSILONS, draws=2)
    size = graph.partition.size
    assert len(found.modules) == size
    assert module_strengths(graph).shape == (size, size)
    assert bool((found.sum >= found.together.effective * (1 - 1e-9)).all())
    assert found.unassigned.parameters > 0


def small_graph(epsilon=()):
    layers = [LayerFeatures(name, np.ones(3)) for name in "abc"]
    first = np.array([[9.0, 9, 9], [9, 2, 3], [9, 0, 4]])
    second = np.array([[9.0, 9, 9], [9, 5, 0], [9, 7, 1]])
    edges = {("a", "b"): first, ("b", "c"): second}
    modules = {"a": [-1, 0, 1], "b": [-1, 0, 1], "c": [-1, 0, 2]}
    graph = InteractionGraph(tuple(layers), edges, dict(epsilon))
    return graph.with_partition(partition_of(modules))


def test_strengths():
    graph = small_graph()
    # Within 0: 2 + 5; 0 and 1: 3 + 0; within 1: 4; 0 and 2: 7; 1 and 2: 1.
    expected = np.array([[7.0, 3, 7], [3, 4, 1], [7, 1, 0]])
    with np.errstate(divide="ignore"):
        logs = np.log10(expected)
    np.testing.assert_allclose(module_strengths(graph), logs)
    np.testing.assert_allclose(module_strengths(graph, 0.1), logs + 1)
    known = small_graph({("a", "b"): 0.1, ("b", "c"): 10.0})
    np.testing.assert_allclose(module_strengths(known), logs - np.log10(5.05))
    # The smallest positive strength is 0 where no ε is known.
    scaled = InteractionGraph(
        graph.layers, {pair: 3 * e for pair, e in graph.edges.items()}, {}, graph.partition
    )
    np.testing.assert_allclose(module_strengths(scaled), logs)
    nothing = InteractionGraph(
        graph.layers, {pair: 0 * e for pair, e in graph.edges.items()}, {}, graph.partition
    )
    assert bool((module_strengths(nothing) == -np.inf).all())


def test_mistakes(monkeypatch):
    network, inputs, bases, graph = case_of("linear", samples=60)
    data = toy_data(network, inputs)

    def call(bases=bases, graph=graph, **options):
        return additivity(
            network, data, bases, graph, **{"epsilons": EPSILONS, "draws": 2, **options}
        )

    with pytest.raises(UsageError, match="at least 2 draws"):
        call(draws=1)
    with pytest.raises(UsageError, match="at least 2 draws"):
        call(rows=0)
    for epsilons in ([], [0.0], [1.0, float("inf")]):
        with pytest.raises(UsageError, match="positive"):
            call(epsilons=epsilons)
    with pytest.raises(UsageError, match="no modules yet"):
        call(graph=graph.with_partition(None))
    with pytest.raises(UsageError, match="no basis of node layer 'l1'"):
        call(bases={"l0": bases["l0"], "l2": bases["l2"]})
    with pytest.raises(UsageError, match="features, the graph"):
        call(bases=bases_of(network, inputs, "pca") | {"l1": bases["l2"]})
    other = bases_of(random_network(["linear"], [2, 2]), normal(seeded(0), 30, 1, 2))["l0"]
    layers = [LayerFeatures("l0", np.ones(len(other))), *graph.layers[1:]]
    with pytest.raises(UsageError, match="is for 3 coordinates, the network has 4"):
        call(
            bases=bases | {"l0": other},
            graph=InteractionGraph(tuple(layers), {}, {}, partition_of({"l0": [0] * len(other)})),
        )
    monkeypatch.setattr("libgraph.degeneracy.modules.block_curvature.JACOBIAN_BYTES", 8 * 15 * 10)
    with pytest.raises(TooLarge, match="leave room for"):
        call(rows=11)
    with pytest.raises(UsageError, match="ε of interactions is 0"):
        module_strengths(graph, 0.0)
    with pytest.raises(UsageError, match="no modules yet"):
        module_strengths(graph.with_partition(None))
    network.sections[1].matrix[0, 0] = torch.nan
    with pytest.raises(NumericalError, match="NaN"):
        call()


def test_modules_that_are_whole_node_layers_have_no_ratio():
    """Features of one layer that change places change nothing there."""
    found = ModuleAdditivity(
        epsilons=torch.tensor([1.0]),
        modules=(BlockCounts(4, 4, torch.tensor([2.0])), BlockCounts(4, 4, torch.tensor([1.0]))),
        together=BlockCounts(8, 8, torch.tensor([2.5])),
        unassigned=BlockCounts(0, 0, torch.tensor([0.0])),
        whole=BlockCounts(8, 8, torch.tensor([2.5])),
        random=torch.tensor([[3.0], [3.0]]),
        samples=10,
        rows=10,
        exact=True,
    )
    assert bool(found.ratio.isnan().all())
    other = replace(found, random=torch.tensor([[3.5], [3.5]]))
    assert float(other.ratio) == pytest.approx(0.5)
