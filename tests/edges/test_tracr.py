"""Compiled programs, whose edges are known: they are computed, and their edges found."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from auroc import auroc, measure
from recovery import (
    Held,
    Setting,
    edges_by_cut,
    edges_by_interaction,
    edges_by_path,
    nodes_by_cut,
    truth,
)

import libgraph as lg
from libgraph.benchmark.compiled import PROGRAMS, Compiled, ProgramOptions, load, names
from libgraph.sections import autodiff
from libgraph.sections.quadrature import Quadrature
from libgraph.testing import check_backend

GRADIENT, EIGHT = Quadrature.gradient(), Quadrature.gauss_legendre(8)
COLDNESS = 100
"""What the compiler multiplies scores by; the beginning of the sequence has half of it."""


@pytest.fixture(scope="module")
def settings():
    return {name: Setting.of(name) for name in names()}


def test_fixtures_are_many_and_small():
    assert len(names()) >= 12
    assert sum(path.stat().st_size for path in PROGRAMS.iterdir()) < 2**20


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", names())
def test_networks_compute_their_programs(name, dtype):
    backend = load(name)
    network = backend.network().to(dtype)
    for batch in backend.batches("train", 1000):
        assert backend.score(network(batch.inputs), batch.targets).eq(1).all()


@pytest.mark.parametrize("name", ["frac_prevs", "pair_balance"])
def test_numbers_are_as_exact_as_attention_is_hard(name):
    backend = load(name)
    network = backend.network().double()
    for batch in backend.batches("train", 1000):
        found = (network(batch.inputs) @ backend.unembed.double())[:, 1:, 0]
        heads = [s for s in network.sections if isinstance(s, lg.sections.Attention)]
        width = max(s.query.shape[1] // s.heads for s in heads)
        # Positions that are not selected get e^-½·coldness/√width of one that is, in two heads.
        leak = 2 * batch.inputs.shape[1] * math.exp(-COLDNESS / 2 / width**0.5)
        assert (found - batch.targets).abs().max() <= leak + torch.finfo(torch.float32).eps


def test_the_backend_keeps_the_contract():
    check_backend(Compiled(ProgramOptions(program="shift")))


def test_unknown_programs_are_said():
    with pytest.raises(lg.UsageError, match=r"no compiled program 'sot'.*hist"):
        load("sot")
    with pytest.raises(lg.UsageError, match="no inputs of 9 tokens: take up to 5"):
        Compiled(ProgramOptions(program="hist", length=9)).samples("train")


def test_inputs_of_one_length():
    backend = Compiled(ProgramOptions(program="hist", length=4))
    (batch,) = backend.batches("train", 1000)
    assert batch.inputs.shape == (backend.samples("train"), 1 + 4)


def edges_in_weights(setting):
    """Edges that weights alone can carry: u is read where what it meets leads to v."""
    found = {}
    for index, source, target in setting.truth.edges:
        section = setting.network.sections[index]
        u, v = setting.variables[source], setting.variables[target]
        if isinstance(section, lg.sections.SkipMLP):
            found[index, source, target] = bool(
                (section.inner[u] != 0).any(0).logical_and((section.outer[:, v] != 0).any(1)).any()
            )
            continue
        carries = False
        factors = (section.query, section.key, section.value)
        split = (factor.unflatten(1, (section.heads, -1)).unbind(1) for factor in factors)
        outputs = section.output.unflatten(0, (section.heads, -1)).unbind(0)
        for query, key, value, output in zip(*split, outputs, strict=True):
            moved, scores = (value @ output)[:, v], query @ key.T
            asks = bool(scores[u].any() or scores[:, u].any()) and bool(moved.any())
            carries |= asks or bool(moved[u].any())
        found[index, source, target] = carries
    return found


@pytest.mark.parametrize("name", names())
def test_the_truth_is_in_the_weights(settings, name):
    assert edges_in_weights(settings[name]) == settings[name].truth.edges


def test_truth_of_a_small_program():
    found = truth(load("hist"))
    assert {edge for edge, is_true in found.edges.items() if is_true} == {
        (0, "tokens", "hist.width"),
        (1, "hist.width", "hist"),
    }
    assert {node for node, is_true in found.nodes.items() if not is_true} == {
        *((layer, "indices") for layer in range(3)),
        (1, "tokens"),
        (2, "tokens"),
        (2, "hist.width"),
    }
    assert not found.idle
    # Where everything is selected no token makes a difference.
    assert (0, "tokens", "length.width") in truth(load("length")).idle


@pytest.mark.parametrize("name", names())
def test_cuts_at_zero_find_all_edges_and_nodes(settings, name):
    setting = settings[name]
    if not all(setting.truth.edges.values()):
        assert auroc(edges_by_cut(setting, "zero"), setting.truth.edges) == 1
    assert auroc(nodes_by_cut(setting, "zero"), setting.truth.nodes) == 1


@pytest.mark.parametrize("name", ["count", "frac_prevs", "hist", "length"])
def test_paths_that_hold_the_constant_find_all_edges(settings, name):
    assert auroc(edges_by_path(settings[name], EIGHT), settings[name].truth.edges) == 1


def test_other_values_find_what_depends_on_values(settings):
    length = settings["length"]
    for how in ("mean", "shuffle"):
        scores = edges_by_cut(length, how)
        assert scores[0, "tokens", "length.width"] < 1e-12
        moving = {
            edge: length.truth.edges[edge] for edge in scores if edge not in length.truth.idle
        }
        assert auroc(scores, moving) == 1


def test_interactions_miss_steps_wherever_the_path_scales_the_constant(settings):
    hist, step = settings["hist"], (1, "hist.width", "hist")
    for quadrature in (GRADIENT, EIGHT):
        scores = edges_by_interaction(hist, quadrature)
        assert scores[step] < 1e-12 * max(scores.values())
    assert edges_by_path(hist, EIGHT)[step] > 0.01
    # An MLP of ReLUs with its biases in the constant has the same slopes all along its path.
    section, x = hist.network.sections[1], hist.activations[-1][1]
    eye = torch.eye(section.d_in, dtype=x.dtype)
    at_the_end, along = (section.interactions(x, x, eye, rule) for rule in (GRADIENT, EIGHT))
    torch.testing.assert_close(at_the_end, along, rtol=1e-12, atol=1e-12)
    held = autodiff.interactions(Held(section), x, x, eye, GRADIENT)
    torch.testing.assert_close(held[:, :-1], at_the_end[:, :-1], rtol=1e-12, atol=1e-12)


def test_figures_say_what_is_missed(settings):
    row = measure(settings["hist"], "edges")
    assert (row.true, row.candidates, row.idle) == (2, 5, 0)
    assert row.methods["gradient"].missed == ["1: hist.width -> hist"]
    assert row.methods["gradient"].auroc == 0.75
    assert row.methods["cut: zero"].missed == []


def test_auroc_counts_pairs():
    values = torch.tensor([0.0, 0, 0, 1, 1, 2, 3, 3, 3, 5]).tolist()
    for bits in itertools.product([False, True], repeat=len(values)):
        true = {(0, str(i)): bit for i, bit in enumerate(bits)}
        scores = {node: values[i] for i, node in enumerate(true)}
        wins = [
            (scores[a] > scores[b]) + (scores[a] == scores[b]) / 2
            for a, b in itertools.product(true, true)
            if true[a] and not true[b]
        ]
        found = auroc(scores, true)
        if wins:
            assert found == pytest.approx(sum(wins) / len(wins), abs=1e-12)
        else:
            assert math.isnan(found)
