"""The sparse basis: its edges against the interactions, its rotations on planted networks."""

import logging
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.chance import seed_of
from helpers.commands import fails
from helpers.networks import Toy, random_network, toy_data
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import KINDS, AppendOne, random_section
from torch import nn

import libgraph as lg
from libgraph.analysis.rotations import rotated_networks
from libgraph.analysis.stages import AnalysisStages
from libgraph.backend.options import parse_options
from libgraph.bases.lib import lib
from libgraph.bases.method import Truncation
from libgraph.bases.pca import pca
from libgraph.bases.random_basis import random_rotation
from libgraph.bases.sparse import pair_edges as edges_module
from libgraph.bases.sparse.options import SparseOptions
from libgraph.bases.sparse.pair_edges import (
    BATCHES,
    CachedEdges,
    Features,
    LayerPair,
    StructuredEdges,
    _jacobians,
    cayley,
    objective,
    pair_edges,
)
from libgraph.bases.sparse.problem import Problem
from libgraph.bases.sparse.sparse import sparse, turned
from libgraph.bases.statistics import node_statistics
from libgraph.edges.interactions import interactions
from libgraph.errors import NumericalError, UsageError
from libgraph.network.basis import Basis
from libgraph.network.network import Network, NodeLayer
from libgraph.pipeline.options import AnalysisOptions
from libgraph.pipeline.workload import Workload
from libgraph.progress import silent
from libgraph.sections import Function, SkipMLP, autodiff
from libgraph.sections.chunks import ChunkSize
from libgraph.sections.quadrature import Quadrature

WHOLE = Truncation(True, 1e-10)
ALL = slice(None)
LAYERS = ["l0", "l1", "l2"]


def orthogonal(size, seed):
    return torch.as_tensor(random_rotation(size, np.random.default_rng(seed)))


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """A checkpoint every ten steps, so that interrupted runs are short."""
    monkeypatch.setattr("libgraph.bases.sparse.problem.EVERY", 10)


class Case:
    """A network with an isolated coordinate at l0 and, unless `rotated`, neurons at its end."""

    def __init__(self, kinds=("tanh", "attention"), sizes=(5, 4, 3), rotated=False, samples=40):
        network = random_network(list(kinds), list(sizes), rotated=rotated)
        first = NodeLayer("l0", sizes[0] + 1, isolated=(1,))
        layers = [first, *network.node_layers[1:]]
        self.network = Network(network.embed, network.sections, layers)
        self.inputs = normal(seeded(3), samples, 3, sizes[0])
        self.data = toy_data(self.network, self.inputs, batch_size=16)

    def statistics(self):
        return node_statistics(self.network, self.data)

    def lib(self):
        return lib(self.network, self.statistics(), self.data, WHOLE, silent)

    def sparse(self, progress=silent, data=None, start=None, **options):
        options = SparseOptions(**{"steps": 20, **options})
        data = data or self.data
        return sparse(self.network, self.statistics(), data, WHOLE, progress, options, start)

    def problem(self, **options):
        return Problem.of(self.network, self.lib(), self.data, SparseOptions(**options))


def same(some, others):
    return all(
        torch.equal(some[name].encoder, others[name].encoder)
        and torch.equal(some[name].decoder, others[name].decoder)
        for name in some
    )


# Edges


def both(section, x, source, target, batch=2):
    """The same edges in both ways."""
    if section.positionwise:
        x = x.reshape(-1, 1, x.shape[-1])
    with torch.no_grad():
        jacobians = _jacobians(section.rebase(encoder=target.encoder), x, source.decoder)
    return (
        CachedEdges(jacobians, x @ source.encoder, batch),
        StructuredEdges(section, x, source, target, batch),
    )


@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("kind", [*KINDS, "convolution-of-3"])
def test_edges_are_the_interactions_of_turned_bases(kind, rotated):
    case = Case((kind,), (5, 4), rotated, samples=12)
    (a, b, section), bases = case.network.pairs[0], case.lib()
    source, target = (Features.of(bases[each.name], 3, torch.float64) for each in (a, b))
    q = {a.name: orthogonal(3, 1)}
    if rotated:
        q[b.name] = orthogonal(len(target), 2)
    turn = q.get(b.name, torch.eye(len(target)).double())
    root = target.scale(q.get(b.name)).sqrt()
    assert_close(root.square(), (turn.T @ target.importance.diag() @ turn).diagonal())
    it = {
        a.name: Basis(source.encoder @ q["l0"], q["l0"].T @ source.decoder, root, 0),
        b.name: Basis(target.encoder @ turn * root, target.decoder, root, 0),
    }
    data = toy_data(case.network, case.inputs)
    expected = interactions(case.network, {"it": it}, data, Quadrature.gradient())["it"]
    for way in both(section, case.network.embed(case.inputs), source, target, 5):
        pair = LayerPair(a.name, b.name, way, target)
        assert_close(pair.edges(q, ALL), expected["l0", "l1"], 1e-9)
        assert_close(pair.on_all(q), expected["l0", "l1"], 1e-9)


@pytest.mark.parametrize("kind", [*KINDS, "convolution-of-3"])
def test_gradients_of_edges(kind):
    section, x = random_section(kind, 3, 3), normal(seeded(1), 2, 3, 3)
    source, target = (
        Features(normal(seeded(i), 3, 2), normal(seeded(i + 1), 2, 3), torch.ones(2).double())
        for i in (2, 4)
    )
    turns = [orthogonal(2, seed).requires_grad_() for seed in (1, 2)]
    results = []
    for way in both(section, x, source, target):
        assert torch.autograd.gradcheck(lambda q, r, way=way: way(ALL, q, r), turns)
        chosen = torch.tensor([1, 0])
        loss = objective(way(chosen, *turns), 2.0, 0.3)
        results.append(torch.stack(torch.autograd.grad(loss, turns)))
    assert_close(*results)


def test_samples_are_chosen_and_averaged():
    section, x = random_section("attention", 3, 3), normal(seeded(1), 6, 2, 3)
    plain = Features(torch.eye(3).double(), torch.eye(3).double(), torch.ones(3).double())
    some = torch.tensor([4, 1])
    for way in both(section, x, plain, plain):
        eye = torch.eye(3).double()
        expected = autodiff.interactions(section, x[some], x[some], eye, Quadrature.gradient())
        assert_close(way(some, None, None), expected / 4)


def test_chunks_do_not_matter_and_hold_no_more_than_they_may(monkeypatch):
    section, x = random_section("attention", 3, 3), normal(seeded(1), 6, 4, 3)
    plain = Features(torch.eye(3).double(), torch.eye(3).double(), torch.ones(3).double())
    way = StructuredEdges(section, x, plain, plain, 6)
    sizes = []
    inner = StructuredEdges._squares
    monkeypatch.setattr(
        StructuredEdges,
        "_squares",
        lambda self, x, *others: (sizes.append(len(x)), inner(self, x, *others))[1],
    )
    results = []
    for most in (2**23, 2 * section.elements_per_effect(4) * 3 * 8):
        monkeypatch.setattr("libgraph.sections.chunks.CLOSED_FORMS", ChunkSize(most, most))
        q = orthogonal(3, 1).requires_grad_()
        total = way(ALL, q, q)
        assert sizes == ([6] if most == 2**23 else [2, 2, 2])
        total.square().sum().backward()
        # The way back computes every chunk again.
        assert len(sizes) == 2 * len(set(range(0, 6, sizes[0])))
        sizes.clear()
        results.append(torch.stack([total.detach(), q.grad]))
    assert_close(*results)


def chosen_edges(kind="tanh", samples=100, positions=1, memory=10**9, k=4, batch=10):
    section, x = random_section(kind, 4, 4), normal(seeded(1), samples, positions, 4)
    each = Features(normal(seeded(2), 4, k), normal(seeded(3), k, 4), torch.ones(k).double())
    return pair_edges(section, x, each, each, batch=batch, memory=memory, generator=seeded(0))


def test_jacobians_are_kept_within_memory():
    one = 4 * 5 * 8
    for memory, count in ((10**9, 100), (70 * one, 70), (41 * one + 7, 41)):
        kept = chosen_edges(memory=memory)
        assert isinstance(kept, CachedEdges)
        assert (kept.count, kept.batch) == (count, 10)
        assert kept.jacobians.nbytes + kept.features.nbytes <= memory
    structured = chosen_edges(memory=39 * one)
    assert isinstance(structured, StructuredEdges)
    assert structured.x.nbytes <= 39 * one
    # All samples fit, if they are fewer than the batches that are asked for.
    assert isinstance(chosen_edges(samples=15, memory=15 * one), CachedEdges)
    assert chosen_edges(samples=15, memory=15 * one).batch == 10
    assert chosen_edges(samples=5).batch == 5


def test_many_positions_are_not_kept_as_jacobians():
    assert isinstance(chosen_edges("attention", positions=2), CachedEdges)
    assert isinstance(chosen_edges("attention", positions=3), StructuredEdges)
    assert isinstance(chosen_edges("attention-last", positions=4), CachedEdges)
    assert isinstance(chosen_edges("tanh", positions=50), CachedEdges)


def test_no_more_samples_than_batches():
    many = chosen_edges(samples=50, positions=20)
    assert many.count == BATCHES * 10
    assert len(many.features.unique(dim=0)) == many.count
    mixing = chosen_edges("attention", samples=150, positions=5)
    assert (mixing.batch, mixing.count) == (8, 8 * BATCHES)


def test_the_objective_counts_edges():
    edges = torch.tensor([[4.0, 0.0], [1.0, 0.0]]).double()
    assert_close(objective(edges, 4.0, 0.5), torch.tensor(1.5).double(), 1e-5)
    assert_close(objective(edges, 4.0, 1e-9), torch.tensor(4.0).double(), 1e-6)
    assert_close(objective(edges, 5.0, 1.0), torch.tensor(1.0).double())


def test_cayley_gives_every_small_rotation():
    angles = normal(seeded(0), 4, 4)
    q = cayley(angles)
    assert_close(q @ q.T, torch.eye(4).double())
    assert torch.equal(cayley(torch.zeros(4, 4)), torch.eye(4))
    assert_close(cayley(1e-6 * angles), torch.linalg.matrix_exp(1e-6 * (angles - angles.T)), 1e-11)


# Bases


@pytest.mark.parametrize("k", [2, 3, 4])
def test_turned_features(k):
    case = Case(("tanh", "gelu"), (5, 4, 3))
    basis, following = case.lib()["l0"], case.lib()["l1"]
    q = orthogonal(k, 1)
    found = turned(basis, q)
    # The constant, the isolated coordinate and what lies beyond the first K.
    other = [0, 1, *range(2 + k, len(basis))]
    some = slice(2, 2 + k)
    for part in ("encoder", "decoder", "importance"):
        ours, theirs = (getattr(each, part) for each in (found, basis))
        at = (ALL, other) if part == "encoder" else other
        assert torch.equal(ours[at], theirs[at])
    assert_close(found.decoder @ found.encoder, torch.eye(len(found)).double())
    for part in (some, slice(None)):
        assert_close(
            found.encoder[:, part] @ found.decoder[part],
            basis.encoder[:, part] @ basis.decoder[part],
        )
    f = (case.network.embed(case.inputs) @ found.encoder).flatten(0, 1)[:, some]
    assert_close(f.T.cov(correction=0), found.importance[some].diag(), 1e-9)
    assert (found.importance[some].diff() <= 0).all()
    section = case.network.sections[0].rebase(encoder=following.encoder)
    x = case.network.embed(case.inputs)
    gram = autodiff.jacobian_gram(section, x) / x[..., 0].numel()
    one = found.importance[some].sqrt().unsqueeze(1) * found.decoder[some]
    assert_close((one @ gram @ one.T).diagonal(), found.importance[some], 1e-9)
    # Column by column it is the rotation, but for signs and order.
    turn = (basis.decoder[some] * basis.importance[some].sqrt().unsqueeze(1)) @ (
        found.encoder[:, some] / found.importance[some].sqrt()
    )
    overlap = (q.T @ turn).abs()
    assert_close(overlap.sort(0).values[-1], torch.ones(k).double())
    assert (turn.gather(0, turn.abs().argmax(0, keepdim=True)) > 0).all()


def test_without_steps_it_is_lib():
    case = Case()
    start, found = case.lib(), case.sparse(steps=0)
    assert found.keys() == start.keys()
    for name, basis in start.items():
        assert_close(found[name].encoder, basis.encoder, 1e-14)
        assert_close(found[name].decoder, basis.decoder, 1e-14)
        assert_close(found[name].importance, basis.importance, 1e-14)


def test_only_the_leading_features_turn_and_the_output_does_not():
    case = Case()
    start, found = case.lib(), case.sparse(features=2)
    assert torch.equal(found["l2"].encoder, start["l2"].encoder)
    for name in ("l0", "l1"):
        isolated = start[name].isolated
        change = (found[name].encoder - start[name].encoder).abs().amax(0) > 1e-6
        assert change.nonzero().flatten().tolist() == [isolated, isolated + 1]


def test_principal_components_are_the_second_start():
    case = Case()
    problem, principal = (
        case.problem(),
        pca(case.network, case.statistics(), case.data, WHOLE, silent),
    )
    rotation = problem.start(1)["l0"]
    basis = principal["l0"]
    spans = problem.features["l0"].encoder @ rotation
    # LIB keeps as many directions as PCA at this layer, so that both span the same.
    unit = basis.encoder[:, 2:] / basis.importance[2:].sqrt()
    assert_close(spans.abs(), unit.abs(), 1e-8)


def test_other_starts_are_random():
    problem = Case().problem(seed=1)
    starts = [problem.start(number)["l1"] for number in (0, 2, 3)]
    assert torch.equal(starts[0], torch.eye(len(starts[0])).double())
    for q in starts:
        assert_close(q @ q.T, starts[0])
    assert not torch.allclose(starts[1], starts[2])
    assert torch.equal(starts[1], Case().problem(seed=1).start(2)["l1"])
    assert not torch.allclose(starts[1], Case().problem(seed=2).start(2)["l1"])


# Minimisation


def planted(width=4):
    """Chains of single features, exactly independent, that LIB cannot tell from each other."""
    grid = torch.cartesian_prod(*[torch.tensor([-1.5, -0.5, 0.5, 1.5])] * width).double()
    turns = [orthogonal(width, seed) for seed in range(3)]
    sections = []
    for before, after in pairwise(turns):
        skip = torch.zeros(width + 1, width + 1).double()
        skip[-1, -1] = 1
        inner, outer = nn.functional.pad(before.T, (0, 0, 0, 1)), nn.functional.pad(after, (0, 1))
        sections.append(SkipMLP(skip, inner, outer, torch.tanh))
    layers = [NodeLayer(name, width + 1) for name in LAYERS]
    return Toy(Network(AppendOne(), sections, layers), (grid @ turns[0]).unsqueeze(1))


def to_planted(features):
    """Rotations from features of variance 1 to the planted ones."""
    backend, answer = planted(), {}
    activations = backend.network().activations(backend.inputs)
    for seed, (name, x) in enumerate(zip(LAYERS, activations, strict=True)):
        single, found = x[:, 0, :-1] @ orthogonal(4, seed).T, x[:, 0] @ features[name].encoder
        single, found = (each - each.mean(0) for each in (single, found))
        answer[name] = found.T @ (single / single.std(0, correction=0)) / len(x)
        assert_close(answer[name] @ answer[name].T, torch.eye(4).double())
    return answer


@pytest.fixture(scope="module")
def planted_problem():
    """What is minimised for planted features, and the rotations to these."""
    backend = planted()
    network = backend.network()
    data = toy_data(network, backend.inputs)
    start = lib(network, node_statistics(network, data), data, WHOLE, silent)
    problem = Problem.of(network, start, data, SparseOptions(steps=300))
    return problem, to_planted(problem.features)


def near(rotations, angle, *seed):
    """Rotations by so much at most in any plane, beside these."""
    turned = {}
    for name, q in rotations.items():
        skew = normal(seeded(seed_of(name, *seed)), len(q), len(q))
        skew = skew - skew.T
        turned[name] = q @ torch.matrix_exp(skew * angle / torch.linalg.matrix_norm(skew, 2))
    return turned


def count(edges, share):
    """Of each layer pair, those above a share of the largest."""
    return [int((each > share * each.max()).sum()) for each in edges]


def test_planted_features_have_fewest_interactions(planted_problem):
    problem, answer = planted_problem
    least = problem.value(answer)
    assert count([pair.on_all(answer) for pair in problem.pairs], 1e-3) == [4, 4]
    for angle in (1e-3, 1e-2, 0.1, 0.3, 1.0):
        for number in range(20):
            assert problem.value(near(answer, angle, number)) > least
    for number in range(10):
        assert problem.value(problem.start(number)) > 2 * least


def test_planted_features_are_found_from_nearby(planted_problem, tmp_path, monkeypatch):
    """What is minimised has a cusp there, so that steps come near without an end."""
    problem, answer = planted_problem
    least = problem.value(answer)
    start = near(answer, 0.3)
    monkeypatch.setattr(Problem, "start", lambda self, number: start)
    value, rotations = problem.minimise(0, tmp_path, silent)
    assert value - least < 0.1 * (problem.value(start) - least)
    assert count([pair.on_all(rotations) for pair in problem.pairs], 1e-3) == [4, 4]


def analysis_of_planted(starts):
    """Edges and modules, with LIB beside the sparse basis."""
    run = lg.analyze(
        planted(),
        basis="sparse",
        beside=("lib",),
        ablate=False,
        sparse_steps=300,
        sparse_starts=starts,
        score_dtype="float64",
    )
    edges = {name: [e[1:, 1:] for e in run.edges(name).values()] for name in ("sparse", "lib")}
    assert count(edges["sparse"], 1e-3) == [4, 4]
    assert min(count(edges["lib"], 1e-6)) > 8
    # Every module is a chain: one feature of each node layer, and those that interact.
    membership = run.graph().partition.membership
    modules = {name: np.asarray(of)[-4:] for name, of in membership.items()}
    assert all(sorted(of) == sorted(modules["l0"]) for of in modules.values())
    assert len(set(modules["l0"])) == 4
    for (source, target), edges in run.edges("sparse").items():
        strongest = edges[1:, 1:].argmax(0).numpy()
        assert (modules[source] == modules[target][strongest]).all()


def test_chains_of_planted_features_are_modules(monkeypatch):
    """From LIB, and from near the planted features.

    LIB cannot tell them from each other, so that rounding decides where steps lead to from there.
    """
    inner = Problem.start
    monkeypatch.setattr(
        Problem,
        "start",
        lambda self, number: near(to_planted(self.features), 0.3) if number else inner(self, 0),
    )
    analysis_of_planted(2)


@pytest.mark.slow
def test_planted_features_are_found():
    """About half the starts lead there: that none of 31 does has a chance of 1e-9 or so."""
    analysis_of_planted(32)


@pytest.mark.parametrize("power", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_objective_never_ends_above_its_start(tmp_path, number, power):
    for steps in (0, 1, 40):
        problem = Case().problem(steps=steps, power=power)
        value, rotations = problem.minimise(number, tmp_path, silent)
        start = problem.value(problem.start(number))
        assert value <= start
        assert value == problem.value(rotations)
        if steps == 40 and power < 1:
            assert value < 0.99 * start


def test_steps_that_only_do_harm_are_not_taken(tmp_path, monkeypatch):
    problem = Case().problem(steps=2)
    monkeypatch.setattr("libgraph.bases.sparse.problem.LEARNING_RATE", 10.0)
    start = problem.start(0)
    value, rotations = problem.minimise(0, tmp_path, silent)
    assert value == problem.value(start)
    assert all(torch.equal(rotations[name], start[name]) for name in start)


def test_the_best_start_is_taken(monkeypatch):
    values, inner, ends = [3.0, 2.0, 0.5, 1.0], Problem.minimise, []

    def minimise(self, number, *others):
        ends.append(inner(self, number, *others)[1])
        return values[number], ends[-1]

    monkeypatch.setattr(Problem, "minimise", minimise)
    start, found = Case().lib(), Case().sparse(steps=3, starts=4)
    assert len(ends) == 4
    assert same({name: turned(start[name], q) for name, q in ends[2].items()}, found)


def test_runs_repeat_and_seeds_differ():
    first = Case().sparse(starts=3, seed=1)
    assert same(first, Case().sparse(starts=3, seed=1))
    # Few samples are one batch, whose order the seed decides: what differs are random starts.
    assert not same(first, Case().sparse(starts=3, seed=2))


def test_batches_of_the_data_do_not_matter():
    case = Case()
    start = case.lib()
    problems = [
        Problem.of(
            case.network,
            start,
            toy_data(case.network, case.inputs, batch_size=size),
            SparseOptions(),
        )
        for size in (7, 40)
    ]
    for one, other in zip(*(problem.pairs for problem in problems), strict=True):
        assert one.total == pytest.approx(other.total, rel=1e-12)
        assert (one.between.count, one.between.batch) == (other.between.count, other.between.batch)
    bases = [
        case.sparse(
            data=toy_data(case.network, case.inputs, batch_size=size), start=start, steps=10
        )
        for size in (7, 40)
    ]
    for name in start:
        assert_close(bases[0][name].encoder, bases[1][name].encoder, 1e-6)


def test_gradients_may_be_off_and_stay_out_of_the_users_modules():
    inner = nn.Linear(4, 4, bias=False).double()
    sections = [
        Function(lambda x: x.cumsum(1).tanh(), 4, 4),
        Function(inner, 4, 4, True),
        Function(inner, 4, 4),
    ]
    layers = [NodeLayer(f"l{i}", 4, constant=False) for i in range(4)]
    network = Network(nn.Identity(), [s.double() for s in sections], layers)
    data = toy_data(network, normal(seeded(0), 30, 3, 4))
    with torch.no_grad():
        graph, _ = rotated_networks(network, data, "sparse", options={"sparse_steps": 3})
    assert len(graph.layers) == 4
    assert inner.weight.grad is None
    assert inner.weight.requires_grad


def test_single_precision():
    case = Case()
    network, inputs = case.network.float(), case.inputs.float()
    data = toy_data(network, inputs, dtype=torch.float32)
    statistics = node_statistics(network, data)
    options = SparseOptions(steps=20, starts=3)
    found = sparse(network, statistics, data, Truncation(True, 1e-5), silent, options)
    for basis in found.values():
        assert basis.encoder.dtype == torch.float64
        assert_close(basis.decoder @ basis.encoder, torch.eye(len(basis)).double(), 1e-10)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_on_a_gpu():
    case = Case()
    data = toy_data(case.network, case.inputs, device="cuda")
    network = case.network.cuda()
    statistics = node_statistics(network, data)
    options = SparseOptions(steps=5, starts=3)
    found = sparse(network, statistics, data, WHOLE, silent, options)
    assert {basis.encoder.device.type for basis in found.values()} == {"cuda"}


# Interruption


class Stop:
    """Progress that ends a run at a step, as Ctrl-C does, and remembers what was told."""

    def __init__(self, step=None, stage="sparse basis"):
        self.step, self.stage, self.told = step, stage, []

    def __call__(self, stage, done, total, note=""):
        self.told.append((stage, done))
        if stage == self.stage and done == self.step:
            raise KeyboardInterrupt


def test_a_start_that_is_taken_up_again_ends_the_same(tmp_path):
    options = {"steps": 24, "starts": 2, "features": 3}
    stop = Stop(14, "sparse basis, start 2 of 2")
    with pytest.raises(KeyboardInterrupt):
        Case().sparse(stop, directory=tmp_path, **options)
    assert {path.name for path in tmp_path.iterdir()} == {
        "sparse-0.safetensors",
        "sparse-1.safetensors",
    }
    again = Stop()
    resumed = Case().sparse(again, directory=tmp_path, **options)
    steps = [(stage, done) for stage, done in again.told if stage.startswith("sparse")]
    assert steps == [("sparse basis, start 2 of 2", step) for step in range(11, 25)]
    assert same(resumed, Case().sparse(**options))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", [{"power": 0.3}, {"features": 2}, {"seed": 1}, {"steps": 23}])
def test_a_checkpoint_of_other_options_is_not_taken_up(tmp_path, change):
    with pytest.raises(KeyboardInterrupt):
        Case().sparse(Stop(14), directory=tmp_path, steps=24)
    again = Stop()
    Case().sparse(again, directory=tmp_path, **{"steps": 24, **change})
    assert ("sparse basis", 1) in again.told


def few(out=None, progress=silent, force=False, **options):
    options = {
        "basis": "sparse",
        "beside": ("lib",),
        "ablate": False,
        "sparse_steps": 24,
        "seeds": 1,
        "score_dtype": "float64",
        **options,
    }
    case = Case()
    backend = Toy(case.network, case.inputs)
    return lg.analyze(backend, out=out, force=force, progress=progress, **options)


def test_an_analysis_is_taken_up_again(tmp_path):
    out, partial = tmp_path / "run", tmp_path / "run.partial"
    with pytest.raises(KeyboardInterrupt):
        few(out, Stop(14))
    assert (partial / "sparse-0.safetensors").is_file()
    again = Stop()
    run = few(out, again)
    assert [done for stage, done in again.told if stage == "sparse basis"] == [*range(11, 25)]
    assert not list(tmp_path.glob("run*/sparse-*"))
    assert same(run.bases("sparse"), few().bases("sparse"))


def test_what_an_interrupted_run_left_goes_with_the_run_that_follows(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        few(out, Stop(14))
    few(out, basis="pca")
    assert not list(tmp_path.glob("run*/*sparse-*"))


def test_an_interruption_before_the_first_checkpoint_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        few(tmp_path / "run", Stop(9))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("beside", [("lib",), ("pca",), ("pca", "lib")])
def test_lib_is_computed_once(beside):
    told = Stop()
    found = few(progress=told, beside=beside)
    assert told.told.count(("basis at l0", 0)) == 1
    assert list(found.basis_names) == ["sparse", *beside]


def test_force_reuses_the_stage_until_a_sparse_option_changes(tmp_path):
    few(tmp_path / "run")
    told = Stop()
    few(tmp_path / "run", told, force=True)
    assert "sparse basis" not in dict(told.told)
    few(tmp_path / "run", told, force=True, sparse_power=0.3)
    assert "sparse basis" in dict(told.told)


def test_hashes_depend_on_sparse_options_where_there_is_a_sparse_basis():
    case = Case()
    backend = Toy(case.network, case.inputs)

    def hashed(basis, **options):
        parsed = parse_options(AnalysisOptions, {"basis": basis, **options}, "the analysis")
        workload = Workload(backend, parsed)
        stages = AnalysisStages.of(parsed, workload.network)
        return stages.bases.hash(parsed, workload.facts())

    changes = {
        "sparse_features": 2,
        "sparse_power": 0.3,
        "sparse_steps": 5,
        "sparse_starts": 2,
        "seed": 3,
        "memory": 2**30,
    }
    for name, value in changes.items():
        assert hashed("sparse", **{name: value}) != hashed("sparse")
        assert hashed("lib", **{name: value}) == hashed("lib")
    # Every option of it is among them.
    assert {n for n in AnalysisOptions.model_fields if n.startswith("sparse_")} <= set(changes)
    assert hashed("sparse", seeds=3, resolution=2.0) == hashed("sparse")


# What goes wrong


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"features": 1}, "features' of the sparse basis: .* at least 2, not 1"),
        ({"power": 0.0}, "power' of the sparse basis: it has to be above 0, not 0.0"),
        ({"power": -1.0}, "power' .* has to be above 0"),
        ({"power": 1.5}, "power' .* has to be at most 1, not 1.5"),
        ({"power": float("nan")}, "power"),
        ({"steps": -1}, "steps' .* at least 0, not -1"),
        ({"starts": 0}, "starts' .* at least 1, not 0"),
    ],
)
def test_options_out_of_range(options, parts):
    with pytest.raises(UsageError, match=parts):
        SparseOptions(**options)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("power", "0"), ("power", "-0.5"), ("power", "1.5"), ("power", "nan"),
        ("features", "1"), ("steps", "-1"), ("starts", "0"),
    ],
)  # fmt: skip
def test_options_out_of_range_on_the_command_line(analyze, option, value):
    result = analyze("--basis", "sparse", f"--sparse-{option}", value)
    fails(result, 2, option)


def test_more_features_than_there_are(analyze):
    with pytest.raises(UsageError, match="cannot turn 5 features: kept are 4 at l0, 4 at l1"):
        Case().sparse(features=5)
    fails(analyze("--basis", "sparse", "--sparse-features", "500"), 2, "500 features", "kept are")
    assert not Path("run.partial").exists()


def test_interactions_that_stop_being_finite(tmp_path, monkeypatch):
    inner, calls = CachedEdges.__call__, []

    def breaking(self, *arguments):
        calls.append(1)
        found = inner(self, *arguments)
        return found / 0 if torch.is_grad_enabled() and len(calls) > 60 else found

    monkeypatch.setattr(edges_module.CachedEdges, "__call__", breaking)
    with pytest.raises(NumericalError) as error:
        few(tmp_path / "run", sparse_steps=10_000)
    kept = tmp_path / "run.partial" / "sparse-0.safetensors"
    assert kept.is_file()
    assert f"The last good rotation is in '{kept}'." in str(error.value)
    assert "l0->l1" in str(error.value)
    calls.clear()
    with pytest.raises(NumericalError, match="l0->l1") as error:
        Case().sparse(steps=10_000)
    assert "kept" not in str(error.value)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 1, 4)])
def test_a_network_in_which_nothing_turns_keeps_lib(sizes, caplog):
    network = random_network(["tanh", "gelu"], list(sizes), rotated=False)
    data = toy_data(network, normal(seeded(0), 30, 1, sizes[0]))
    statistics = node_statistics(network, data)
    with caplog.at_level(logging.WARNING, "libgraph"):
        found = sparse(network, statistics, data, WHOLE, silent)
    assert "no node layer has two features" in caplog.text
    assert same(found, lib(network, statistics, data, WHOLE, silent))


def test_a_node_layer_without_features_stays_so():
    network = random_network(["linear", "tanh", "linear"], [4, 4, 4, 3])
    # A step has no slope, so that nothing before it matters, and yet its output varies.
    step = SkipMLP(
        *(getattr(network.sections[1], n) for n in ("skip", "inner", "outer")), torch.sign
    )
    step.skip[:4] = 0
    sections = [network.sections[0], step, network.sections[2]]
    network = Network(AppendOne(), sections, network.node_layers)
    data = toy_data(network, normal(seeded(0), 30, 1, 4))
    statistics = node_statistics(network, data)
    found = sparse(network, statistics, data, WHOLE, silent, SparseOptions(steps=3))
    assert [len(basis) for basis in found.values()] == [1, 1, 4, 4]


@pytest.mark.parametrize(("none", "left"), [("l1", ["l0", "l1"]), ("l0", ["l1"])])
def test_interactions_that_cancel_are_left_out(monkeypatch, none, left):
    case = Case()
    start = case.lib()
    inner = LayerPair.on_all
    monkeypatch.setattr(
        LayerPair,
        "on_all",
        lambda self, q: inner(self, q) * (1e-30 if self.source == none else 1),
    )
    problem = Problem.of(case.network, start, case.data, SparseOptions())
    assert none not in [pair.source for pair in problem.pairs]
    assert len(problem.pairs) == 1
    assert list(problem.features) == left
    monkeypatch.setattr(LayerPair, "on_all", lambda self, q: 0 * inner(self, q))
    assert not Problem.of(case.network, start, case.data, SparseOptions()).pairs
    assert same(case.sparse(start=start), start)


# Several processes


@pytest.mark.parametrize("number", [0, 1])
def test_all_ranks_have_the_rotations_of_the_first(monkeypatch, number):
    """The first one descends, and the others take what it comes to."""
    case = Case()
    start, alone = case.lib(), case.sparse(steps=5)

    def shared(compute):
        return dict.fromkeys(("l0", "l1"), torch.eye(4).double()) if number else compute()

    monkeypatch.setattr("libgraph.accumulate.ranks.shared", shared)
    steps = []
    monkeypatch.setattr(Problem, "loss", lambda *a, of=Problem.loss: (steps.append(1), of(*a))[1])
    found = case.sparse(steps=5)
    assert len(steps) == (5 if number == 0 else 0)
    expected = alone if number == 0 else start
    for name in ("l0", "l1"):
        assert torch.allclose(found[name].encoder, expected[name].encoder)
    assert not torch.allclose(alone["l0"].encoder, start["l0"].encoder)
