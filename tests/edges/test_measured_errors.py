"""Scripts that measure errors of dictionaries and edges needed: in loops, and from runs."""

import json

import pytest
import torch
from click.testing import CliRunner
from helpers.dictionaries import random_dictionary
from helpers.networks import Toy, random_network, toy_data
from helpers.numbers import normal, seeded
from helpers.scripts import script
from torch.func import jacrev

import libgraph as lg
from libgraph.bases.lib import lib
from libgraph.bases.method import Truncation
from libgraph.bases.statistics import node_statistics
from libgraph.edges.edge_ablation import ablate_edges
from libgraph.edges.score import Scoring
from libgraph.progress import silent

errors, characters = script("errors"), script("characters")


def problem(kind):
    network = random_network([kind, "linear"], [3, 4, 3])
    data = toy_data(network, normal(seeded(1), 12, 3, 3), batch_size=5)
    stats = node_statistics(network, data)
    in_lib = lib(network, stats, data, Truncation.parse("rel:1e-10"), silent)
    bases = {**in_lib, "l0": random_dictionary(4, 7, 2, k=3)}
    return network, data, bases, in_lib


@pytest.mark.parametrize("kind", ["tanh", "attention"])
def test_errors_are_followed_through_dense_jacobians(kind):
    network, data, bases, in_lib = problem(kind)
    (found,) = errors.effects(network, bases, in_lib, data).values()
    section, basis = network.sections[0], bases["l0"]
    into = in_lib["l0"].encoder[:, in_lib["l0"].isolated :]
    predicted = first = whole = 0.0
    us = []
    for x in network.embed(data.backend.inputs):
        error = torch.stack([row - basis.latents(row) @ basis.decoder for row in x])
        jacobian = jacrev(lambda x: section(x[None])[0])(x)
        moved = torch.einsum("tosi,si->to", jacobian, error) @ in_lib["l1"].encoder
        changed = (section(x[None])[0] - section((x - error)[None])[0]) @ in_lib["l1"].encoder
        predicted += float((error @ into).square().sum())
        first += float(moved.square().sum())
        whole += float(changed.square().sum())
        us.append(x @ into)
    u = torch.cat(us)
    variance = float((u - u.mean(0)).square().sum())
    assert found.missed == pytest.approx(predicted / variance)
    assert found.first_order == pytest.approx(first / predicted)
    assert found.whole == pytest.approx(whole / predicted)


def test_through_a_linear_section_everything_is_as_predicted():
    """Its Jacobian is its mean, which is the identity from LIB's features to LIB's."""
    network, data, bases, in_lib = problem("linear")
    (found,) = errors.effects(network, bases, in_lib, data).values()
    assert found.missed > 0.01
    for ratio in (found.independent, found.first_order, found.whole):
        assert ratio == pytest.approx(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("errors") / "run"
    return lg.analyze(
        lg.load_backend("mlp", samples=60), basis="dictionary", beside=["lib"], out=out,
        dictionary_steps=5, ablate=False, seeds=1,
    )  # fmt: skip


def test_both_scripts_take_runs(run, tmp_path):
    done = CliRunner().invoke(
        errors.main, [str(run.directory), "--samples", "20", "--json", str(tmp_path / "e.json")]
    )
    assert done.exit_code == 0, done.output
    (found,) = json.loads((tmp_path / "e.json").read_text()).values()
    assert [*found] == [f"{a} → {b}" for a, b in run.pairs]
    assert "geometric mean" in done.output
    words = [str(run.directory), "--rows", "20", "--json", str(tmp_path / "n.json")]
    done = CliRunner().invoke(characters.main, words)
    assert done.exit_code == 0, done.output
    (found,) = json.loads((tmp_path / "n.json").read_text()).values()
    assert [*found] == [*run.basis_names]
    assert len(found["lib"]) == len(run.pairs)


def test_edges_needed_are_those_of_ablation(run):
    subject = run.subject("lib", split="test", limit=20)
    scoring = Scoring(subject.network, subject.backend, subject.data)
    expected = ablate_edges(scoring, subject.bases, run.edges("lib"), tolerances=[0.05])
    found = {each.pair: each for each in characters.needed(run, "lib", 20, 0.05)}
    assert {name: each.needed for name, each in found.items()} == {
        f"{a} → {b}": each.required[0.05] for (a, b), each in expected.items()
    }
    (chosen,) = characters.needed(run, "lib", 20, 0.05, "input")
    assert chosen == found[chosen.pair]


def test_of_layer_pairs_that_are_asked_about():
    network = random_network(["tanh", "tanh"], [3, 4, 3])
    backend = Toy(network, normal(seeded(1), 12, 3, 3))
    made = lg.analyze(backend, basis="lib", ablate=False, seeds=1, dtype="float64")
    scoring = Scoring(network, backend, toy_data(network, backend.inputs))
    whole = ablate_edges(scoring, made.bases(), made.edges(), tolerances=[0.1])
    pair = [*whole][1]
    part = ablate_edges(scoring, made.bases(), made.edges(), tolerances=[0.1], only=[pair])
    assert part == {pair: whole[pair]}
