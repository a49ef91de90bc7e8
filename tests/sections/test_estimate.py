"""Estimates of interactions from random signs, against exact ones and against plain sums."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import partial
from importlib.metadata import EntryPoint
from itertools import product
from statistics import variance

import pytest
import torch
from helpers.commands import fails
from helpers.edges import assert_same_edges, every_basis
from helpers.jacobians import RULES, Shape, build, build_features, chunks_of, jacobians
from helpers.networks import Toy, random_network, toy_data
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import KINDS, random_section
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import libgraph as lg
from libgraph.backend.options import TypedOptions
from libgraph.backend.registry import ENTRY_POINTS
from libgraph.edges.interactions import _generators, draw_signs, estimate_interactions, interactions
from libgraph.errors import UsageError
from libgraph.runs.measures import standard_error
from libgraph.sections import Function, Parallel, Pooling, autodiff
from libgraph.sections.closed_form import SignedForm
from libgraph.sections.quadrature import Quadrature

EXACT = ["linear", "variance", "division", "positionwise", "chain", "pool"]
SIGNED = [kind for kind in KINDS if isinstance(random_section(kind, 2, 2), SignedForm)]
GRADIENT = Quadrature.gradient()

shapes = st.builds(
    Shape,
    seed=st.integers(0, 2**16),
    samples=st.integers(1, 3),
    positions=st.integers(1, 4),
    d_in=st.integers(1, 4),
    d_out=st.integers(1, 4),
    features=st.integers(1, 9),
    heads=st.integers(1, 4),
    width=st.integers(1, 3),
)
each_kind = pytest.mark.parametrize("kind", KINDS)
quick = settings(deadline=None, max_examples=20)
rules = st.sampled_from(RULES).map(Quadrature.parse)
chunks = st.sampled_from([1, 300, 2**26])


def all_signs(samples, positions):
    """Every choice of signs, the same for all samples."""
    signs = torch.tensor(list(product([-1.0, 1.0], repeat=positions)), dtype=torch.float64)
    return signs.unsqueeze(1).expand(-1, samples, -1)


def some_signs(section, x, draws, seed=0):
    return draw_signs(draws, section(x), seeded(seed))


def by_autodiff(section):
    return partial(autodiff.estimate, section)


def dense_sums(section, x, features, decoder, rule, signs):
    """Σ_t φ_rt R_tji as `[x][r]` matrices of shape (k, d_out), from Jacobians of one sample."""
    sums = []
    for index, (one, f) in enumerate(zip(x, features, strict=True)):
        path = [
            (weight, jacobians(section, point * one))
            for point, weight in zip(rule.points, rule.weights, strict=True)
        ]
        effects = [
            sum(
                weight * f[s].unsqueeze(1) * (decoder @ js[t][s])
                for weight, js in path
                for s in range(len(one))
            )
            for t in range(len(path[0][1]))
        ]
        sums.append(
            [sum(sign * effect for sign, effect in zip(signs[r, index], effects, strict=True))
             for r in range(len(signs))]
        )  # fmt: skip
    return sums


@each_kind
@given(shape=shapes, rule=rules, chunk=chunks)
@quick
def test_all_signs_together_give_the_exact_interactions(kind, shape, rule, chunk):
    section, x = build(kind, shape)
    features, decoder = build_features(shape)
    expected = section.interactions(x, features, decoder, rule)
    signs = all_signs(len(x), section(x).shape[1])
    with chunks_of(chunk):
        for estimate in (section.estimate, by_autodiff(section)):
            assert_close(estimate(x, features, decoder, rule, signs).total, expected)


@each_kind
def test_estimates_in_the_basis_of_the_next_node_layer(kind):
    shape = Shape(4, 2, 3, 3, 2, 9, 2, 2)
    section, x = build(kind, shape)
    rebased = section.rebase(encoder=normal(seeded(8), 2, 4))
    given_ = (x, *build_features(shape), GRADIENT)
    signs = all_signs(len(x), section(x).shape[1])
    expected = rebased.interactions(*given_)
    for estimate in (rebased.estimate, by_autodiff(rebased)):
        assert_close(estimate(*given_, signs).total, expected)


@each_kind
@given(shape=shapes, rule=rules, draws=st.integers(1, 4))
@quick
def test_signed_effects_are_sums_of_effects(kind, shape, rule, draws):
    section, x = build(kind, shape)
    features, decoder = build_features(shape)
    signs = some_signs(section, x, draws, shape.seed)
    found = section.signed_effects(x, rule, signs)(features, section.seen(decoder))
    expected = dense_sums(section, x, features, decoder, rule, signs)
    expected = torch.stack([torch.stack(by_draw) for by_draw in expected]).transpose(1, 2)
    assert_close(found, expected)


@each_kind
@given(shape=shapes, rule=rules, chunk=chunks, draws=st.integers(2, 4))
@quick
def test_totals_and_variances_are_those_of_the_draws(kind, shape, rule, chunk, draws):
    section, x = build(kind, shape)
    features, decoder = build_features(shape)
    signs = some_signs(section, x, draws, shape.seed)
    total = torch.zeros(shape.d_out, shape.features, dtype=torch.float64)
    spread = torch.zeros_like(total)
    for by_draw in dense_sums(section, x, features, decoder, rule, signs):
        for j in range(shape.features):
            for i in range(shape.d_out):
                squares = [float(effect[j, i]) ** 2 for effect in by_draw]
                total[i, j] += sum(squares) / draws
                spread[i, j] += variance(squares) / draws
    estimates = [by_autodiff(section)]
    if kind in SIGNED:
        estimates.append(section.estimate)
    with chunks_of(chunk):
        for estimate in estimates:
            found = estimate(x, features, decoder, rule, signs)
            assert_close(found.total, total)
            # Equal draws have a variance of rounding errors.
            assert_close(found.variance + total.square(), spread + total.square())


@pytest.mark.parametrize("kind", SIGNED)
def test_the_variance_is_unbiased(kind):
    """Over all pairs of draws its mean is the variance of their mean."""
    section, x = build(kind, Shape(1, 1, 3, 3, 2, 4, 2, 2))
    features, decoder = build_features(Shape(1, 1, 3, 3, 2, 4, 2, 2))
    each = all_signs(1, section(x).shape[1])
    found = [
        section.estimate(x, features, decoder, GRADIENT, torch.stack(pair))
        for pair in product(each, each)
    ]
    totals = torch.stack([one.total for one in found])
    assert_close(torch.stack([one.variance for one in found]).mean(0), totals.var(0, correction=0))


@pytest.mark.parametrize("kind", SIGNED)
def test_errors_are_of_the_size_that_is_reported(kind):
    shape = Shape(2, 300, 8, 3, 3, 5, 2, 2)
    section, x = build(kind, shape)
    features, decoder = build_features(shape)
    exact = section.interactions(x, features, decoder, GRADIENT)
    errors, squares = [], 0
    for seed in range(20):
        signs = some_signs(section, x, 4, seed)
        found = section.estimate(x, features, decoder, GRADIENT, signs)
        errors.append((found.total - exact) / found.variance.sqrt().clamp(min=1e-9 * exact.max()))
        squares += errors[-1].square().mean()
    if kind.endswith("last"):
        assert torch.stack(errors).abs().max() < 1e-2
        return
    assert 0.7 < (squares / 20).sqrt() < 1.3
    assert torch.stack(errors).mean(0).abs().max() < 4 / 20**0.5


@each_kind
def test_one_position_is_exact_whatever_the_signs(kind):
    shape = Shape(3, 4, 1, 3, 2, 5, 2, 2)
    section, x = build(kind, shape)
    features, decoder = build_features(shape)
    expected = section.interactions(x, features, decoder, GRADIENT)
    for estimate in (section.estimate, by_autodiff(section)):
        found = estimate(x, features, decoder, GRADIENT, some_signs(section, x, 3))
        assert_close(found.total, expected)
        assert float(found.variance.max()) <= 1e-24 * float(expected.max()) ** 2


@each_kind
def test_single_precision_sums_up_in_double(kind):
    shape = Shape(3, 3, 4, 3, 3, 5, 2, 2)
    section, x = build(kind, shape)
    features, decoder = build_features(shape)
    signs = some_signs(section, x, 3)
    estimates = [section.estimate, by_autodiff(section)]
    expected = [each(x, features, decoder, GRADIENT, signs) for each in estimates]
    section.float()
    singles = [each.float() for each in (x, features, decoder)]
    for estimate, double in zip(estimates, expected, strict=True):
        found = estimate(*singles, GRADIENT, signs.float())
        for sums, known in zip(found, double, strict=True):
            assert sums.dtype == torch.float64
            assert_close(sums, known, 1e-4)


@pytest.mark.parametrize(("kind", "features"), [*((kind, 9) for kind in EXACT), ("mixing", 4)])
def test_sections_that_gain_nothing_are_exact(kind, features, monkeypatch):
    monkeypatch.setattr(autodiff, "estimate", None)
    shape = Shape(3, 3, 4, 3, 2, features, 2, 2)
    if kind == "pool":
        section = Pooling(normal(seeded(0), 3, 4), normal(seeded(1), 3, 2))
        x = normal(seeded(2), 3, 4, 3)
    else:
        section, x = build(kind, shape)
    given_ = (x, *build_features(shape), GRADIENT)
    found = section.estimate(*given_, some_signs(section, x, 2))
    assert torch.equal(found.total, section.interactions(*given_))
    assert not found.variance.any()


@pytest.mark.parametrize(("features", "mode"), [(4, "exact"), (5, "signs")])
@pytest.mark.parametrize("parallel", [False, True])
def test_automatic_differentiation_takes_fewer_passes(features, mode, parallel, monkeypatch):
    """With 2 draws and 2 outputs: 4 passes against one a feature."""
    shape = Shape(0, 2, 6, 3, 2, features, 1, 1)
    section, x = build("mixing", shape)
    if parallel:
        section = Parallel([section, Function(section.function, 3, 2).double()])
    taken = []
    estimate = autodiff.estimate
    monkeypatch.setattr(
        autodiff, "estimate", lambda *given: taken.append("signs") or estimate(*given)
    )
    exact = type(section).interactions
    monkeypatch.setattr(
        type(section), "interactions", lambda *given: taken.append("exact") or exact(*given)
    )
    section.estimate(x, *build_features(shape), GRADIENT, some_signs(section, x, 2))
    assert taken == [mode]


@pytest.mark.parametrize("kind", ["gelu", "gated", "attention", "attention-rotary", "parallel"])
def test_small_chunks_take_samples_and_features_apart(kind, monkeypatch):
    shape = Shape(0, 3, 6, 3, 4, 5, 2, 2)
    section, x = build(kind, shape)
    sizes = []
    signed = type(section).signed_effects

    def spy(self, x, quadrature, signs):
        effects = signed(self, x, quadrature, signs)
        return lambda features, seen: sizes.append(tuple(features.shape)) or effects(features, seen)

    monkeypatch.setattr(type(section), "signed_effects", spy)
    with chunks_of(1):
        section.estimate(x, *build_features(shape), GRADIENT, some_signs(section, x, 2))
    assert sizes == [(1, 6, 1)] * 3 * 5


@pytest.mark.parametrize("kind", SIGNED)
def test_chunks_are_of_the_size_that_is_said(kind, monkeypatch):
    """No tensor that a chunk of features makes is much larger than the chunk."""
    shape = Shape(0, 2, 16, 7, 9, 64, 3, 8)
    section, x = build(kind, shape)
    arguments = (x, *build_features(shape), GRADIENT, some_signs(section, x, 4))
    size = 8 * 1024

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            # Views of one another, such as expanded tensors, hold no memory of their own.
            if isinstance(result, torch.Tensor) and result.is_contiguous():
                self.elements = max(self.elements, result.numel())
            return result

    with chunks_of(size), Largest() as largest:
        section.estimate(*arguments)
    assert largest.elements * 8 <= 2 * size


def setup(kinds=("attention", "tanh", "linear"), samples=12, positions=5):
    sizes = [3, 4, 3, 4][: len(kinds) + 1]
    network = random_network(list(kinds), sizes, seed=0, rotated=False)
    return network, normal(seeded(0), samples, positions, sizes[0])


def test_estimates_of_a_network_are_near_its_interactions():
    network, inputs = setup(samples=200)
    data = toy_data(network, inputs, batch_size=64)
    bases = every_basis(network, data)
    exact = interactions(network, bases, data, GRADIENT)
    many = [estimate_interactions(network, bases, data, GRADIENT, 4, seed) for seed in range(20)]
    for found in many:
        assert found.edges.keys() == found.errors.keys() == exact.keys()
    for name, by_pair in exact.items():
        for pair, edges in by_pair.items():
            missed = torch.stack([found.edges[name][pair] - edges for found in many])
            reported = torch.stack([found.errors[name][pair] for found in many])
            if pair == ("l2", "l3"):
                assert not missed.any()
                assert not reported.any()
            else:
                assert 0.5 < float(missed.norm() / reported.norm()) < 2
                assert float(reported.norm()) < 0.1 * 20**0.5 * float(edges.norm())


def test_no_more_positions_than_draws_is_exact():
    network, inputs = setup(["attention", "attention-last"])
    data = toy_data(network, inputs)
    bases = every_basis(network, data)
    exact = interactions(network, bases, data, GRADIENT)
    enough = estimate_interactions(network, bases, data, GRADIENT, 5)
    for name in bases:
        assert_same_edges(enough.edges[name], exact[name], 0)
        assert not any(error.any() for error in enough.errors[name].values())
    fewer = estimate_interactions(network, bases, data, GRADIENT, 4)
    assert {pair: bool(e.any()) for pair, e in fewer.errors["pca"].items()} == {
        ("l0", "l1"): True,
        ("l1", "l2"): False,
    }


def test_no_signs_are_exact_and_have_no_errors():
    network, inputs = setup()
    data = toy_data(network, inputs)
    bases = every_basis(network, data)
    found = estimate_interactions(network, bases, data, GRADIENT, 0)
    assert found.errors == {}
    for name, by_pair in interactions(network, bases, data, GRADIENT).items():
        assert_same_edges(found.edges[name], by_pair, 0)


def test_the_seed_decides():
    network, inputs = setup(["tanh"])
    data = toy_data(network, inputs)
    bases = {"pca": every_basis(network, data)["pca"]}

    def edges(seed):
        found = estimate_interactions(network, bases, data, GRADIENT, 2, seed)
        return found.edges["pca"]["l0", "l1"]

    assert torch.equal(edges(3), edges(3))
    assert not torch.equal(edges(3), edges(4))


@given(batch_size=st.integers(1, 30))
@settings(deadline=None, max_examples=10)
def test_batches_do_not_matter(batch_size):
    network, inputs = setup()
    whole = toy_data(network, inputs)
    bases = every_basis(network, whole)
    parts = toy_data(network, inputs, batch_size=batch_size)
    found, expected = (
        estimate_interactions(network, bases, data, GRADIENT, 3) for data in (parts, whole)
    )
    for name in bases:
        assert_same_edges(found.edges[name], expected.edges[name])
        assert_same_edges(found.errors[name], expected.errors[name], 1e-7)


def test_ranks_and_layer_pairs_draw_signs_of_their_own(monkeypatch):
    like = torch.zeros(40, 5, 1)

    def signs(seed):
        return [draw_signs(3, like, each) for each in _generators(2, seed)]

    drawn = signs(0) + signs(1)
    monkeypatch.setattr("libgraph.edges.interactions.ranks", lambda: (1, 2))
    drawn += signs(0)
    for i, one in enumerate(drawn):
        assert one.shape == (3, 40, 5)
        assert set(one.unique().tolist()) == {-1.0, 1.0}
        for other in drawn[:i]:
            assert 0.4 < float((one == other).float().mean()) < 0.6


def test_the_relative_error_leaves_isolated_features_out():
    def basis(isolated):
        return lg.Basis(torch.eye(3), torch.eye(3), torch.ones(3), isolated=isolated)

    bases = {"a": basis(1), "b": basis(0)}
    edges = torch.tensor([[9.0, 3, 0], [9, 0, 4], [9, 0, 0]])
    errors = torch.tensor([[7.0, 0.3, 0], [7, 0.4, 0], [7, 0, 0]])
    pair = ("a", "b")
    assert standard_error(bases, {pair: edges}, {pair: errors}) == {"a->b": pytest.approx(0.1)}
    assert standard_error(bases, {pair: 0 * edges}, {pair: errors}) == {"a->b": None}
    assert standard_error(bases, {pair: edges}, {}) == {}


# The pipeline and the command


class Positions(Toy):
    """A backend with more positions than the bundled model's sections give: one is too few."""

    name = "positions"

    def __init__(self, options=None) -> None:
        super().__init__(*setup(samples=30))
        self.options = options or TypedOptions()

    def network(self):
        return deepcopy(self._network)


@pytest.fixture
def run_positions(run, monkeypatch, tmp_path):
    entry = EntryPoint("positions", "test_estimate:Positions", ENTRY_POINTS)
    monkeypatch.setattr("libgraph.backend.registry.entry_points", lambda group: [entry])
    return lambda *given: run("analyze", "positions", "--out", tmp_path / "run", *given)


@pytest.mark.parametrize("signs", [1, -1])
def test_too_few_signs_are_refused(analyze, tmp_path, signs):
    fails(analyze("--signs", signs), 2, f"from {signs} random signs", "at least 2")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="at least 2"):
        lg.AnalysisOptions(signs=signs)


def test_the_command_saves_and_shows_errors(run_positions, tmp_path):
    code, out, err = run_positions("--signs", 2)
    assert code == 0, err
    tensors = load_file(tmp_path / "run" / "edges.safetensors")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["signs"] == 2
    found = []
    for name in ("lib", "pca"):
        relative = metrics["bases"][name]["standard_error"]
        assert relative.keys() == metrics["bases"][name]["sparsity"].keys()
        assert [bool(value) for value in relative.values()] == [True, True, False]
        for pair, value in relative.items():
            edges, errors = (tensors[f"{name}/{pair}{end}"] for end in ("", "/error"))
            # The last node layer has no constant.
            inner = slice(0 if pair.endswith("l3") else 1, None), slice(1, None)
            assert value == pytest.approx(float(errors[inner].norm() / edges[inner].norm()))
            found += [value] if value else []
    shown = f"standard error {min(found):.1%} to {max(found):.1%}."
    assert f"Interactions estimated from 2 random signs; {shown}" in out


def test_an_exact_run_has_no_errors(run_positions, tmp_path):
    code, out, err = run_positions()
    assert code == 0, err
    assert "signs" not in out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["signs"] == 0
    assert metrics["bases"]["lib"]["standard_error"] == {}
    assert not [n for n in load_file(tmp_path / "run" / "edges.safetensors") if "error" in n]


def test_where_signs_gain_nothing_that_is_said(analyze):
    """The sections of the bundled model give one position."""
    code, out, err = analyze("--signs", 2, "--no-ablation")
    assert code == 0, err
    assert "Interactions are exact: 2 random signs would not be faster." in out


def test_a_dry_run_measures_what_the_run_would_do(run_positions, monkeypatch):
    taken = []
    estimate = SignedForm.estimate
    monkeypatch.setattr(
        SignedForm, "estimate", lambda *given: taken.append(given[-1].shape) or estimate(*given)
    )
    assert run_positions("--signs", 3, "--dry-run")[0] == 0
    assert set(taken) == {(3, 30, 5)}
    taken.clear()
    assert run_positions("--dry-run")[0] == 0
    assert not taken


def test_errors_are_read_back_and_the_seed_counts_with_signs_alone(tmp_path):
    def analyse(**options):
        found = lg.analyze(Positions(), out=tmp_path / "run", force=True, **options)
        stages = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
        return found, {name: stage["hash"] for name, stage in stages.items()}

    def changed(before, after):
        return {name for name in after if before[name] != after[name]}

    depends = {"interactions", "ablation lib", "ablation pca"}
    exact, hashes = analyse(seed=1)
    assert exact.errors() == {}
    assert changed(hashes, analyse(seed=2)[1]) == set()
    first, signed = analyse(seed=2, signs=2)
    assert changed(hashes, signed) == depends
    again, unchanged = analyse(seed=2, signs=2, resolution=2.0)
    assert changed(signed, unchanged) == set()
    assert first.errors("lib")["l0", "l1"].any()
    for name in ("lib", "pca"):
        for pair, error in first.errors(name).items():
            assert torch.equal(error, again.errors(name)[pair])
            assert torch.equal(first.edges(name)[pair], again.edges(name)[pair])
    other, hashes = analyse(seed=3, signs=2)
    assert changed(signed, hashes) == depends
    assert not torch.equal(first.edges("lib")["l0", "l1"], other.edges("lib")["l0", "l1"])
    assert changed(hashes, analyse(seed=3, signs=3)[1]) == depends
