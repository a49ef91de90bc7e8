"""The benchmark: what it plants is there, and its scores are those of their definitions."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.numbers import assert_close, normal, seeded

from libgraph.bases.neuron import neuron_basis
from libgraph.benchmark.benchmark import _bench as bench_of
from libgraph.benchmark.benchmark import benchmark, measured
from libgraph.benchmark.contenders import APART
from libgraph.benchmark.frequencies import _purity, _within
from libgraph.benchmark.known import Known
from libgraph.benchmark.options import BenchmarkOptions
from libgraph.benchmark.planted import Design, chance_of_edges, planted, spread_directions
from libgraph.benchmark.scores import area_under_curve, average_precision, length_ratios, match
from libgraph.benchmark.toy_models import ToyModel, toy_model
from libgraph.benchmark.variables import compiled, shares
from libgraph.errors import UsageError
from libgraph.graph.features import FeatureLabel
from libgraph.network.basis import Basis
from libgraph.network.dictionary import Dictionary, Threshold
from libgraph_cli.main import cli


def called(*words):
    done = CliRunner().invoke(cli, words)
    return done.exit_code, done.stdout, done.output


SMALL = Design(features=6, dimensions=4, modules=2, layers=2, samples=200, seed=3)


def truth_as_basis(known, name, threshold):
    """What is planted, as a dictionary: each feature read back, less nothing of its size."""
    written = known.features[name]
    count, size = written.shape
    encoder = torch.zeros(size + 1, count + 2).double()
    decoder = encoder.T.clone()
    encoder[-1, 0] = decoder[0, -1] = 1
    section = dict(zip(known.features, known.network.sections, strict=True))[name]
    encoder[:size, 2:] = section.inner[:size]
    decoder[2:, :size] = written
    gate = Threshold(torch.full((count,), threshold).double())
    return Dictionary(encoder, decoder, torch.ones(count + 2).double(), 2, gate=gate)


def test_planted_interactions_are_found_in_what_was_planted():
    known = planted(SMALL)
    bench = bench_of(known, BenchmarkOptions(), 0)
    bases = dict(bench.lib) | {
        name: truth_as_basis(known, name, SMALL.threshold) for name in known.features
    }
    scores = measured(bench, bases)
    assert scores["MCC"] == {"x0": pytest.approx(1), "x1": pytest.approx(1)}
    # Features that are near each other read something of each other: it is not 1.
    assert scores["edge precision"][""] > 2 * chance_of_edges(known)
    for edges in known.edges.values():
        assert edges.sum() == SMALL.features * SMALL.targets
        modules = np.array(known.modules)
        assert not edges[modules[:, None] != modules].any()


def test_sections_read_features_and_write_their_targets():
    known = planted(SMALL)
    one = torch.zeros(1, 1, 4).double() + known.features["x0"][2]
    x, y, out = known.network.activations(one)
    targets = known.edges["x0", "x1"][:, 2].astype(float)
    # Others read something of it too, but no more than the threshold takes where they are apart.
    read = (x @ known.network.sections[0].inner).relu()[0, 0]
    assert float(read[2]) == pytest.approx(1 - SMALL.threshold)
    assert_close(
        y[0, 0, :-1],
        sum(
            read[i] * known.edges["x0", "x1"][j, i] * known.features["x1"][j]
            for i in range(6)
            for j in range(6)
        ),
    )
    assert targets.sum() == 2
    assert out.shape == (1, 1, 6)


def test_directions_are_spread_apart():
    vectors = spread_directions(6, 3, seeded(0))
    cosines = vectors @ vectors.T - torch.eye(6).double()
    # The six diagonals of the icosahedron have 1/√5, and nothing has less.
    assert float(cosines.abs().max()) < 0.6
    assert_close(vectors.norm(dim=1), torch.ones(6).double())


def test_random_weights_have_the_same_inputs():
    known, random = planted(SMALL), planted(Design(**{**SMALL.__dict__, "learned": False}))
    assert torch.equal(known.inputs, random.inputs)
    assert not torch.allclose(known.network(known.inputs), random.network(random.inputs))


def test_average_precision_is_that_of_every_order_of_ties():
    rng = np.random.default_rng(0)
    scores, truth = rng.random(30), rng.random(30) < 0.3
    order = np.argsort(-scores)
    hits = truth[order]
    expected = (np.cumsum(hits) / (1 + np.arange(30)))[hits].mean()
    assert average_precision(scores, truth) == pytest.approx(expected)
    assert average_precision(np.zeros(30), truth) == pytest.approx(truth.mean())


def test_matches_are_one_to_one_and_lengths_those_that_come_out():
    features = normal(seeded(0), 3, 4)
    decoder = torch.cat([torch.zeros(1, 4).double(), -2 * features[[2, 0]]])
    encoder = torch.linalg.pinv(decoder) * 0.5
    basis = Basis(encoder, decoder, torch.ones(3).double(), 1)
    found = match(features, basis, 4)
    assert found.cosines[[0, 2]] == pytest.approx([1, 1])
    assert (found.cosines[1], found.places[1]) == (0, -1)
    assert found.places[[0, 2]].tolist() == [2, 1]
    assert length_ratios(features, basis, 4)[[0, 2]] == pytest.approx([0.5, 0.5])


def test_toy_models_give_back_what_goes_in():
    known = toy_model(ToyModel(3, 2, identity=True, batch=256, steps=300, samples=500))
    assert isinstance(known, Known)
    _, first, second, out = known.network.activations(known.inputs)
    assert_close(first, second)
    weights = known.features["hidden"]
    assert_close(first[0, 0, :-1], known.inputs[0, 0] @ weights)
    error = (out - known.inputs).square().mean() / known.inputs.square().mean()
    assert float(error) < 0.4


def test_the_command_measures_and_repeats():
    words = ("benchmark", "--problems", "planted", "--bases", "pca,topk-lib,jacobian",
             "--features", "6", "--dimensions", "4", "--samples", "300", "--steps", "3",
             "--seeds", "2", "-q")  # fmt: skip
    code, out, err = called(*words)
    assert code == 0, err
    assert "planted: MCC" in out
    first, second = (json.loads(called(*words, "--json")[1]) for _ in range(2))
    assert first["scores"] == second["scores"]
    chosen = [s for s in first["scores"] if (s["basis"], s["measure"]) == ("pca", "MCC")]
    assert [len(s["values"]) for s in chosen] == [2, 2, 2]
    # Four directions cannot be six: two features are left with nothing.
    assert all(max(s["values"]) <= 4 / 6 for s in chosen)


def test_features_that_share_no_dimension_are_orthogonal_before_the_change_of_basis():
    known = planted(Design(features=5, dimensions=5, modules=1, layers=2, samples=2000, seed=1))
    assert known.name == "separate"
    # Each reads itself alone.
    read = known.features["x0"] @ known.network.sections[0].inner[:5]
    assert_close(read, torch.eye(5).double(), 1e-12)
    found = benchmark(problems="separate", bases="pca", features=6, samples=300, seeds=1)
    assert {score.problem for score in found.scores} == {"separate"}


def test_purity_and_interactions_within_a_concept():
    labels = [
        FeatureLabel("a", {"a": 0.6, "b": 0.2, "position": 0.2}),
        FeatureLabel("b", {"b": 0.5}),
        FeatureLabel("nothing"),
    ]
    basis = Basis(torch.eye(4), torch.eye(4), torch.tensor([9.0, 2.0, 1.0, 1.0]), 1)
    assert _purity(labels, basis) == pytest.approx((2 * 0.75 + 0.5) / 4)
    nothing = Basis(torch.eye(4), torch.eye(4), torch.zeros(4), 1)
    assert np.isnan(_purity(labels, nothing))
    edges = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    # Features without a concept have none in common.
    assert _within(edges, labels, labels) == pytest.approx((1 + 5) / 45)


def test_frequencies_of_modular_addition():
    found = benchmark(problems="frequencies", bases="pca,lib", seeds=1)
    scores = {(score.basis, score.measure, score.where): score.mean for score in found.scores}
    layers = ("ln1.0", "ln2.0", "unembed")
    for name in layers:
        assert 0.5 < scores["lib", "purity", name] <= 1
    assert 0 < scores["lib", "interactions within", "ln1.0->ln2.0"] <= 1


@pytest.mark.parametrize(
    ("option", "message"),
    [({"bases": "mine"}, "no basis 'mine'"), ({"problems": ","}, "needs a problem")],
)
def test_what_the_benchmark_does_not_have(option, message):
    with pytest.raises(UsageError, match=message):
        benchmark(**option)


def test_area_under_the_curve_is_the_chance_of_the_right_order():
    rng = np.random.default_rng(1)
    scores, truth = rng.integers(5, size=40).astype(float), rng.random(40) < 0.4
    pairs = scores[truth][:, None] - scores[~truth]
    expected = (pairs > 0).mean() + (pairs == 0).mean() / 2
    assert area_under_curve(scores, truth) == pytest.approx(expected)
    assert np.isnan(area_under_curve(scores, np.ones(40, bool)))


def test_programs_read_what_they_read_in_the_basis_of_their_variables():
    """There the shares are 0 and 1, and scores those of docs/tracr.md."""
    for name, auroc in (("hist", 0.75), ("pair_balance", 1.0), ("frac_prevs", 1.0)):
        known = compiled(name)
        bench = bench_of(known, BenchmarkOptions(), 0)
        layers = known.network.node_layers
        bases = {layer.name: neuron_basis(layer, bench.statistics[layer.name]) for layer in layers}
        share = shares(known.program, bases["output"])
        assert_close(share[:, 1:].sum(0), (share[:, 1:] > 0).any(0).double())
        assert float(share[:, 0].sum()) == 0
        scores = measured(bench, bases)
        assert scores["edge AUROC"] == {name: pytest.approx(auroc)}


def test_features_of_several_variables_are_shared_out():
    program = compiled("hist").program
    size = len(program.order) + 1
    decoder = torch.zeros(2, size).double()
    decoder[0, -1] = 1
    decoder[1, program.variables["hist.width"]] = 3
    decoder[1, program.variables["tokens"][:2]] = 2
    basis = Basis(decoder.T.clone(), decoder, torch.ones(2).double(), 1)
    found = dict(zip(program.variables, shares(program, basis)[:, 1].tolist(), strict=True))
    assert found == pytest.approx({"hist": 0, "hist.width": 9 / 17, "indices": 0, "tokens": 8 / 17})


def test_every_basis_is_measured_on_programs(monkeypatch):
    monkeypatch.setattr("libgraph.benchmark.benchmark.PROGRAMS", ("frac_prevs",))
    found = benchmark(problems="tracr", bases="lib,topk-raw", steps=2, seeds=1)
    assert {(score.basis, score.measure, score.where) for score in found.scores} == {
        (basis, measure, "frac_prevs")
        for basis in ("lib", "topk-raw")
        for measure in ("edge AUROC", "edge precision")
    }
    assert all(0 <= score.mean <= 1 for score in found.scores)


@pytest.mark.parametrize("name", ["topk-lib", "edges"])
def test_of_several_starts_the_one_that_misses_least_is_kept(name):
    """By node layer, or all together where interactions tie them."""
    known, options = planted(SMALL), BenchmarkOptions(steps=8, active=2, restarts=4, samples=200)
    bench = bench_of(known, options, 5)
    alone = [
        dataclasses.replace(
            bench, options=options.model_copy(update={"restarts": 1}), seed=5 + APART * number
        ).bases(name)
        for number in range(4)
    ]
    missed = np.array([[bench.missed(layer, each[layer]) for layer in known.features]
                       for each in alone])  # fmt: skip
    found = [bench.missed(layer, bench.bases(name)[layer]) for layer in known.features]
    expected = missed.min(0) if name == "topk-lib" else missed[missed.sum(1).argmin()]
    assert found == pytest.approx(list(expected), rel=1e-9)
    assert (missed.argmin(0) > 0).any()
