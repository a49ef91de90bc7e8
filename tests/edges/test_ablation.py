"""Ablations against brute force: every output feature from a forward pass of its own."""

import math

import numpy as np
import pytest
import torch
from helpers.networks import Toy, ToyLoss, random_network
from helpers.numbers import normal, seeded
from helpers.sections import AppendOne
from hypothesis import given, settings
from hypothesis import strategies as st

from libgraph.accumulate import halfway as halfway_module
from libgraph.accumulate.halfway import Halfway, halfway
from libgraph.backend.data import Data
from libgraph.bases.method import Truncation
from libgraph.bases.methods import METHODS
from libgraph.bases.pca import pca
from libgraph.bases.statistics import node_statistics
from libgraph.edges import edge_ablation as ablation
from libgraph.edges.curves import area, required_features, sizes_to_try
from libgraph.edges.edge_ablation import ablate_edges, bisect
from libgraph.edges.interactions import interactions
from libgraph.edges.node_ablation import ablate_nodes
from libgraph.edges.score import Scoring, base_score
from libgraph.network.network import Network, NodeLayer
from libgraph.progress import silent
from libgraph.sections import Linear
from libgraph.sections.quadrature import Quadrature

CHAINS = [
    ["relu", "linear"],
    ["attention", "tanh", "linear"],
    ["mixing", "attention-last"],
    ["convolution-of-3", "linear"],
]
SIZES = [4, 3, 4, 3]
WHOLE = Truncation(True, 0.0)
NEVER = (-1e9,)
"""A tolerance that nothing meets, so that a bisection ends with all edges."""
each_chain = pytest.mark.parametrize("chain", CHAINS, ids="-".join)
each_score = pytest.mark.parametrize("backend_class", [Toy, ToyLoss])


class Case:
    """A network with bases, edges and a backend that scores it on noisy targets."""

    def __init__(
        self, chain, backend_class=ToyLoss, *, method="pca", truncation=WHOLE, seed=0, **network
    ):
        sizes = SIZES[: len(chain) + 1]
        self.network = random_network(chain, sizes, seed=seed, **({"rotated": False} | network))
        generator = seeded(seed)
        inputs = normal(generator, 40, 3, sizes[0])
        outputs = self.network(inputs)[:, -1]
        targets = (outputs + 0.2 * normal(generator, *outputs.shape)).argmax(-1)
        self.backend = backend_class(self.network, inputs, targets)
        data = self.data(100)
        statistics = node_statistics(self.network, data)
        self.bases = METHODS[method](self.network, statistics, data, truncation, silent)
        rule = Quadrature.gradient()
        self.edges = interactions(self.network, {"it": self.bases}, data, rule)["it"]

    def data(self, batch_size=16, **options):
        return Data(self.backend, "test", batch_size=batch_size, **options)

    def base_score(self):
        return base_score(self.network, self.backend, self.data())

    def score_from(self, index, x):
        outputs = self.network.from_layer(index, x)
        return float(self.backend.score(outputs, self.backend.targets).mean())

    def scoring(self, batch_size=16):
        return Scoring(self.network, self.backend, self.data(batch_size))

    def ablate_nodes(self, **options):
        return ablate_nodes(self.scoring(), self.bases, **options)

    def ablate_edges(self, tolerances=(0.01,), batch_size=16, **options):
        return ablate_edges(
            self.scoring(batch_size), self.bases, self.edges, tolerances=tolerances, **options
        )

    def brute_force(self, index, kept):
        """Score with the `kept` largest edges of a layer pair, one output feature at a time."""
        a, b, section = self.network.pairs[index]
        source, target, edges = self.bases[a.name], self.bases[b.name], self.edges[a.name, b.name]
        keep = self.kept_edges(index, kept)
        f = self.network.activations_at(index, self.backend.inputs) @ source.encoder
        outputs = [
            (section((f * keep[i]) @ source.decoder) @ target.encoder)[..., i]
            for i in range(len(edges))
        ]
        return self.score_from(index + 1, torch.stack(outputs, -1) @ target.decoder)

    def kept_edges(self, index, kept):
        a, b, _ = self.network.pairs[index]
        edges = self.edges[a.name, b.name]
        counted = [
            (-float(edges[i, j]), i, j)
            for i in range(edges.shape[0])
            for j in range(int(a.constant), edges.shape[1])
        ]
        keep = torch.zeros_like(edges)
        keep[:, : int(a.constant)] = 1
        for _, i, j in sorted(counted)[:kept]:
            keep[i, j] = 1
        return keep


@given(data=st.data(), total=st.integers(1, 400))
@settings(deadline=None, max_examples=100)
def test_bisection_finds_what_a_full_scan_finds(data, total):
    available = data.draw(st.integers(1, total))
    threshold = data.draw(st.integers(1, total + 1))

    def sufficient(kept):
        return min(kept, available) >= threshold

    scan = [kept for kept in range(1, available + 1) if sufficient(kept)]
    assert bisect(sufficient, total, available) == (scan[0] if scan else None)


def midpoints(total, threshold):
    tried = []
    bisect(lambda kept: tried.append(kept) or kept >= threshold, total, total)
    return tried


def test_bisection_follows_the_published_midpoints():
    assert midpoints(16641, 0)[:4] == [8321, 4161, 2081, 1041]
    assert midpoints(16641, 133)[:8] == [8321, 4161, 2081, 1041, 521, 261, 131, 196]
    assert midpoints(16641, 16642)[:3] == [8321, 12481, 14561]
    assert len(midpoints(16641, 133)) <= math.ceil(math.log2(16641)) + 1


@given(total=st.integers(1, 10**6), threshold=st.integers(0, 10**6))
@settings(deadline=None, max_examples=25)
def test_bisection_needs_logarithmically_many_trials(total, threshold):
    tried = midpoints(total, threshold)
    assert len(tried) <= total.bit_length() + 1
    assert len(set(tried)) == len(tried)


def test_the_ends_of_bisection():
    assert bisect(lambda kept: False, 100, 60) is None
    assert bisect(lambda kept: True, 100, 60) == 1
    assert bisect(lambda kept: True, 100, 0) == 0


@given(features=st.integers(1, 400), points=st.integers(2, 40))
@settings(deadline=None, max_examples=25)
def test_sizes_go_from_all_features_to_none(features, points):
    numbers = sizes_to_try(features, points)
    assert numbers == sorted(set(numbers), reverse=True)
    assert (numbers[0], numbers[-1]) == (features, 0)
    assert set(range(min(points // 2, features))) <= set(numbers)
    assert len(numbers) <= points + points // 2 + 2


def test_of_a_layer_without_features_none_are_kept():
    assert sizes_to_try(0, 24) == [0]


@each_score
@each_chain
def test_node_ablation_is_projection_on_the_first_features(chain, backend_class):
    case = Case(chain, backend_class)
    curves = case.ablate_nodes()
    rotated = [layer.name for layer in case.network.node_layers if layer.rotated]
    assert list(curves) == rotated
    for index, name in enumerate(rotated):
        basis = case.bases[name]
        x = case.network.activations_at(index, case.backend.inputs)
        assert set(curves[name]) == set(range(len(basis) + 1))
        for kept, score in curves[name].items():
            ablated = x @ basis.encoder[:, :kept] @ basis.decoder[:kept]
            assert score == pytest.approx(case.score_from(index, ablated))


@each_chain
def test_the_ends_of_node_ablation(chain):
    case = Case(chain)
    curves = case.ablate_nodes()
    for index, curve in enumerate(curves.values()):
        x = case.network.activations_at(index, case.backend.inputs)
        mean = x.mean((0, 1)).expand_as(x)
        assert curve[max(curve)] == pytest.approx(case.base_score(), rel=1e-12)
        assert curve[0] == pytest.approx(case.score_from(index, torch.zeros_like(x)))
        assert curve[1] == pytest.approx(case.score_from(index, mean))
        assert abs(curve[0] - curve[max(curve)]) > 1e-3


def test_few_points_of_node_ablation():
    curves = Case(CHAINS[0]).ablate_nodes(points=2)
    assert [set(curve) for curve in curves.values()] == [{5, 1, 0}, {4, 1, 0}]


@pytest.mark.parametrize("method", ["neuron", "pca", "lib"])
@each_score
@each_chain
def test_edge_ablation_is_brute_force(chain, backend_class, method):
    case = Case(chain, backend_class, method=method, truncation=Truncation(True, 1e-9))
    results = case.ablate_edges(tolerances=(0.02, 0.3))
    assert list(results) == [(a.name, b.name) for a, b, _ in case.network.pairs]
    for index, (pair, result) in enumerate(results.items()):
        out_features, in_features = case.edges[pair].shape
        assert result.available == out_features * (in_features - 1)
        assert len(result.score) >= 3
        for kept, score in result.score.items():
            assert score == pytest.approx(case.brute_force(index, kept), rel=1e-9)


@each_score
@each_chain
def test_required_is_where_the_score_first_suffices(chain, backend_class):
    tolerances = (0.05, 0.5, 0.01)
    case = Case(chain, backend_class)
    base, sign = case.base_score(), 1 if backend_class is Toy else -1
    for (a, b, _), (pair, result) in zip(
        case.network.pairs, case.ablate_edges(tolerances).items(), strict=True
    ):
        assert list(result.required) == list(tolerances)
        for tolerance, found in result.required.items():

            def sufficient(kept, tolerance=tolerance, result=result):
                return sign * result.score[min(kept, result.available)] >= sign * base - tolerance

            assert found == bisect(sufficient, a.size * b.size, result.available)
            assert found is not None
        counted = case.edges[pair][:, 1:].flatten()
        largest = counted.sort(descending=True).values
        assert result.epsilon == pytest.approx(float(largest[result.required[0.05] - 1]))


@each_chain
def test_all_edges_of_an_untruncated_basis_are_the_whole_model(chain):
    case = Case(chain)
    for result in case.ablate_edges(tolerances=NEVER).values():
        assert result.score[result.available] == pytest.approx(case.base_score(), rel=1e-9)


@each_score
def test_what_makes_the_score_better_suffices(backend_class):
    """Targets that the network gets most wrong: any ablation helps, so one edge will do."""
    case = Case(["linear"], backend_class)
    case.backend.targets = case.network(case.backend.inputs)[:, -1].argmin(-1)
    (result,) = case.ablate_edges(tolerances=(0.0,)).values()
    assert result.required[0.0] == 1


def test_required_is_none_where_all_edges_do_not_suffice():
    case = Case(CHAINS[0], truncation=Truncation(True, 0.9))
    assert len(case.bases["l1"]) < 4
    results = case.ablate_edges(tolerances=(1e-6, 1e6))
    for result in results.values():
        assert result.required[1e-6] is None
        assert result.required[1e6] == 1
        assert result.epsilon is None


@pytest.mark.parametrize("reuse", [0, 200, 2**30])
@each_chain
def test_reusing_outputs_changes_nothing(chain, reuse, monkeypatch):
    monkeypatch.setattr(ablation, "REUSE_BYTES", 0)
    fresh = Case(chain, method="lib").ablate_edges(tolerances=(0.02, 0.2))
    monkeypatch.setattr(ablation, "REUSE_BYTES", reuse)
    reused = Case(chain, method="lib").ablate_edges(tolerances=(0.02, 0.2))
    for pair, result in fresh.items():
        assert reused[pair].required == result.required
        assert reused[pair].epsilon == result.epsilon
        assert reused[pair].score == pytest.approx(dict(result.score), rel=1e-12)


class Stopping(ToyLoss):
    """A backend that counts batches, and is interrupted before one of them."""

    stop, scored = None, 0

    def score(self, outputs, targets):
        if self.scored == self.stop:
            raise KeyboardInterrupt
        self.scored += 1
        return super().score(outputs, targets)


@pytest.mark.parametrize("reuse", [0, 2**30])
@pytest.mark.parametrize("stop", [2, 9, 17, 29, 38, 50])
def test_an_ablation_goes_on_within_a_layer_pair_to_the_same_bits(
    stop, reuse, tmp_path, monkeypatch
):
    monkeypatch.setattr(ablation, "REUSE_BYTES", reuse)
    monkeypatch.setattr(halfway_module, "EVERY", 0.0)
    monkeypatch.setattr(halfway_module, "WORTH", 0.0)

    def ablated(stop=None, place=None):
        case = Case(CHAINS[1], Stopping, method="lib")
        case.backend.stop = stop
        with halfway(place):
            try:
                return case.ablate_edges((0.02, 0.2), batch_size=16), case.backend.scored
            except KeyboardInterrupt:
                return None, case.backend.scored

    # Which outputs are computed together decides their last bits, here more than those.
    for cls in {type(section) for section in Case(CHAINS[1]).network.sections}:

        def masked(self, x, keep, exact=cls.masked):
            return exact(self, x, keep) * (1 + 1e-3 * keep.shape[1])

        monkeypatch.setattr(cls, "masked", masked)

    expected, all_batches = ablated()
    assert all_batches > 50
    none, before = ablated(stop, Halfway(tmp_path, "ablation", "abc"))
    assert (none, before) == (None, stop)
    found, after = ablated(None, Halfway(tmp_path, "ablation", "abc"))
    assert before + after == all_batches
    assert found == expected


def outputs_computed(case, monkeypatch):
    """How many outputs every masked pass is asked for, as they come."""
    computed = []
    cls = type(case.network.sections[0])
    masked = cls.masked
    monkeypatch.setattr(
        cls, "masked", lambda self, x, keep: computed.append(self.d_out) or masked(self, x, keep)
    )
    return computed


def test_outputs_whose_inputs_stay_are_not_computed_again(monkeypatch):
    case = Case(["attention-full"], method="neuron")
    computed = outputs_computed(case, monkeypatch)
    (result,) = case.ablate_edges(batch_size=100).values()
    assert computed[0] == 3
    assert sum(computed) < 3 * len(result.score)


@pytest.mark.parametrize(("memory", "kept"), [(None, True), (2**30, True), (2**13, False)])
def test_nothing_is_kept_that_a_budget_has_no_room_for(memory, kept, monkeypatch):
    case = Case(["attention-full"], method="neuron")
    computed = outputs_computed(case, monkeypatch)
    scoring = Scoring(case.network, case.backend, case.data(100, memory=memory))
    (result,) = ablate_edges(scoring, case.bases, case.edges, tolerances=(0.01,)).values()
    assert (sum(computed) < 3 * len(result.score)) == kept


@pytest.mark.parametrize("batch_size", [1, 7, 40, 100])
def test_batches_do_not_matter(batch_size):
    case = Case(CHAINS[1], method="lib")
    whole, parts = case.ablate_edges(), case.ablate_edges(batch_size=batch_size)
    for pair, result in whole.items():
        assert parts[pair].required == result.required
        assert parts[pair].score == pytest.approx(dict(result.score))


def test_edges_from_isolated_coordinates_other_than_the_constant_count():
    case = Case(["relu", "linear"])
    isolated = [NodeLayer("l0", 5, isolated=(1,)), *case.network.node_layers[1:]]
    case.network = Network(case.network.embed, case.network.sections, isolated)
    result = case.ablate_edges()["l0", "l1"]
    assert result.available == 4 * 4


def test_a_layer_without_a_constant_has_all_its_edges_counted():
    case = Case(["linear", "linear"])
    layers = [NodeLayer("l0", 5, constant=False), *case.network.node_layers[1:]]
    case.network = Network(case.network.embed, case.network.sections, layers)
    data = case.data()
    statistics = node_statistics(case.network, data)
    case.bases = METHODS["pca"](case.network, statistics, data, WHOLE, silent)
    rule = Quadrature.gradient()
    case.edges = interactions(case.network, {"it": case.bases}, data, rule)["it"]
    result = case.ablate_edges()["l0", "l1"]
    assert result.available == case.edges["l0", "l1"].numel()
    for kept, score in result.score.items():
        assert score == pytest.approx(case.brute_force(0, kept))


def test_the_base_score_is_the_mean_over_samples():
    case = Case(CHAINS[0])
    expected = case.score_from(0, case.network.embed(case.backend.inputs))
    for batch_size in (1, 7, 100):
        data = case.data(batch_size)
        assert base_score(case.network, case.backend, data) == pytest.approx(expected)


def test_progress_ends_no_further_than_expected():
    case, told = Case(CHAINS[0]), []
    case.ablate_edges(stage="ablation of edges", progress=lambda *event: told.append(event))
    stages, done, totals = zip(*told, strict=True)
    assert set(stages) == {"ablation of edges"}
    assert len(set(totals)) == 1
    assert list(done) == sorted(done)
    assert done[0] == 0
    assert done[-1] <= totals[0]


class Squares(Toy):
    """Scored by squared error, which only falls as more features are kept by a linear network."""

    score_name = "squared error"
    higher_is_better = False

    def score(self, outputs, targets):
        return (outputs - targets).square().sum((1, 2))


@pytest.mark.parametrize("points", [2, 3, 7])
@pytest.mark.parametrize("tolerance", [0.01, 0.5, 3.0])
def test_the_features_required_are_exact_however_coarse_the_curve_begins(points, tolerance):
    layers = [NodeLayer("l0", 41), NodeLayer("l1", 41, constant=False, rotated=False)]
    network = Network(AppendOne(), [Linear(torch.eye(41).double())], layers)
    inputs = normal(seeded(0), 300, 1, 40) * torch.linspace(1, 0.1, 40).double()
    backend = Squares(network, inputs, network(inputs))
    data = Data(backend, "train")
    bases = pca(network, node_statistics(network, data), data, Truncation.parse("abs:0"), silent)
    scoring = Scoring(network, backend, data)
    coarse = ablate_nodes(scoring, bases, tolerances=(tolerance,), points=points)
    every = ablate_nodes(scoring, bases, points=200)
    assert len(every["l0"]) == 42
    assert len(coarse["l0"]) < 25
    found, wanted = (
        required_features(curves["l0"], 0.0, tolerance, higher_is_better=False)
        for curves in (coarse, every)
    )
    assert found == wanted


@given(
    scores=st.lists(st.floats(0, 1), min_size=2, max_size=6),
    most=st.integers(8, 50),
)
def test_the_area_is_the_mean_over_the_logarithm(scores, most):
    curve = {0: 0.5} | {2**i: score for i, score in enumerate(scores) if 2**i <= most}
    kept = [k for k in curve if k]
    grid, logs = np.linspace(0, math.log(most), 20_001), np.log(kept)
    values = np.interp(grid, logs, [curve[k] for k in kept])
    expected = (values.sum() - (values[0] + values[-1]) / 2) / 20_000
    assert area(curve, most) == pytest.approx(expected, abs=1e-3)


def test_areas_that_are_none():
    assert area({0: 1.0}, 5) is None
    assert area({0: 1.0, 1: 1.0}, 1) is None


def test_curves_have_all_powers_of_two():
    case = Case(CHAINS[0], method="lib")
    found = case.ablate_edges(tolerances=(0.1,), curves=True)
    plain = case.ablate_edges(tolerances=(0.1,))
    for pair, result in found.items():
        powers = {2**i for i in range(result.available.bit_length())}
        assert powers | {result.available} <= set(result.score)
        assert (result.required, result.epsilon) == (plain[pair].required, plain[pair].epsilon)
