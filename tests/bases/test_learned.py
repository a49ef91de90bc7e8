"""Learned dictionaries: their parts against plain computations, and what they find again."""

import json

import pytest
import torch
from helpers.dictionaries import random_dictionary
from helpers.networks import random_network, toy_data
from helpers.numbers import assert_close, normal, seeded
from safetensors.torch import load_file

from libgraph.bases.learned.beginning import coded_directions, pursuit
from libgraph.bases.learned.coordinates import coordinates
from libgraph.bases.learned.learned import learned
from libgraph.bases.learned.options import DictionaryOptions
from libgraph.bases.learned.problem import Problem
from libgraph.bases.learned.saelens import write_saelens
from libgraph.bases.lib import lib
from libgraph.bases.method import Truncation
from libgraph.bases.methods import METHODS
from libgraph.bases.statistics import node_statistics
from libgraph.dictionaries import saelens
from libgraph.edges.interactions import interactions
from libgraph.errors import UsageError
from libgraph.network.dictionary import Dictionary
from libgraph.network.network import NodeLayer
from libgraph.progress import silent
from libgraph.sections.quadrature import Quadrature

WHOLE = Truncation(True, 1e-10)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Few rounds, and a checkpoint every five steps."""
    monkeypatch.setattr("libgraph.bases.learned.beginning.CODING_ROUNDS", 3)
    monkeypatch.setattr("libgraph.bases.learned.problem.EVERY", 5)


class Case:
    def __init__(self, kinds=("tanh", "attention"), rotated=False):
        self.network = random_network(list(kinds), [5, 4, 3], rotated=rotated)
        self.inputs = normal(seeded(3), 40, 3, 5)
        self.data = toy_data(self.network, self.inputs, batch_size=16)
        self.statistics = node_statistics(self.network, self.data)
        self.lib = lib(self.network, self.statistics, self.data, WHOLE, silent)

    def problem(self, **options):
        options = DictionaryOptions(**{"latents": 2, "active": 2, **options})
        places = coordinates(self.network, self.statistics, self.lib, options.metric, WHOLE)
        return Problem.of(self.network, places, self.lib, self.data, options)

    def learned(self, progress=silent, **options):
        options = DictionaryOptions(
            **{"latents": 2, "active": 2, "steps": 10, "interactions": 1e-3, **options}
        )
        return learned(self.network, self.statistics, self.data, WHOLE, progress, options, self.lib)


def same(some, others):
    return all(torch.equal(some[name].encoder, others[name].encoder) for name in some)


@pytest.mark.parametrize("kinds", [("tanh", "attention"), ("attention", "relu")])
@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("metric", ["lib", "raw"])
def test_edges_are_the_interactions_of_the_dictionaries(kinds, rotated, metric):
    case = Case(kinds, rotated)
    problem = case.problem(interactions=1.0, metric=metric)
    parameters = problem.start()
    bases = dict(case.lib)
    for name, place in problem.places.items():
        weights = problem.learner(parameters, name).weights()
        # As they are, not sorted.
        fixed = -torch.arange(problem.count(name)).double()
        bases[name] = place.dictionary(weights, 2, fixed)
    expected = interactions(case.network, {"d": bases}, case.data, Quadrature.gradient())["d"]
    every = torch.arange(len(case.inputs))
    for pair in problem.pairs:
        before = problem._latents(parameters, pair.source, every)
        after = None
        if pair.target in problem.samples:
            after = problem._latents(parameters, pair.target, every)
        found = pair.edges.squares(problem.samples[pair.source].x, before, after)
        edges = expected[pair.source, pair.target][:, bases[pair.source].isolated :]
        if after is not None:
            edges = edges[bases[pair.target].isolated :]
        wanted = edges.flatten()[edges.flatten() > 0].sort().values
        found = found[found > 0].double().sort().values
        assert len(found) == len(wanted)
        assert_close(found, wanted, 1e-4 * float(wanted.max()))


def test_gradients_are_jacobians_times_normal_vectors():
    """Their Gram is that of Jacobians: in LIB's coordinates, and whole, the identity."""
    case = Case(("tanh", "tanh"), rotated=True)
    case.inputs = normal(seeded(4), 4000, 3, 5)
    case.data = toy_data(case.network, case.inputs, batch_size=1000)
    case.statistics = node_statistics(case.network, case.data)
    case.lib = lib(case.network, case.statistics, case.data, WHOLE, silent)
    gradients = case.problem().samples["l0"].gradients.flatten(0, 2)
    gram = gradients.T @ gradients / len(gradients) * gradients.shape[1]
    # 48 000 products of entries of about 1.
    assert_close(gram, torch.eye(len(gram)), 0.1)


def test_a_gradient_passes_where_latents_read_it_and_nothing_of_each_other():
    problem = Case().problem()
    parameters = problem.start()
    learner = problem.learner(parameters, "l0")
    u = problem.samples["l0"].u.flatten(0, 1)[:7]
    latents = learner.latents(u)
    gradients = torch.randn(7, 2, u.shape[1], generator=seeded(1))
    for row in range(7):
        open_ones = latents.places[row][latents.values[row] > 0]
        passed = sum(
            torch.outer(gradients[row] @ learner.decoder[i], learner.encoder[:, i])
            for i in open_ones
        )
        assert_close(learner.unread(gradients, latents)[row], gradients[row] - passed, 1e-5)


@pytest.mark.parametrize("metric", ["lib", "whitened", "raw"])
def test_a_dictionary_of_activations_is_that_of_coordinates(metric):
    problem = Case().problem(metric=metric)
    parameters = problem.start()
    for name, place in problem.places.items():
        samples = problem.samples[name]
        learner = problem.learner(parameters, name)
        fixed = -torch.arange(problem.count(name)).double()
        dictionary = place.dictionary(learner.weights(), 2, fixed)
        u = samples.u.flatten(0, 1)
        latents = learner.latents(u)
        z = torch.zeros_like(latents.pre).scatter(1, latents.places, latents.values)
        x = samples.x.flatten(0, 1)
        assert_close(dictionary.latents(x)[:, dictionary.isolated :].float(), z, 1e-4)
        error = dictionary.error(x) @ place.into
        assert_close(error.float(), learner.error(u, latents).detach(), 1e-4)


def test_runs_repeat_and_are_taken_up_again(tmp_path):
    case = Case()
    whole = case.learned()
    assert same(whole, case.learned())

    def stop(stage, done, total, note=""):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        case.learned(stop, directory=tmp_path)
    assert (tmp_path / "dictionary.safetensors").is_file()
    seen = []
    again = case.learned(lambda stage, done, *rest: seen.append(done), directory=tmp_path)
    assert seen[0] == 6
    assert same(whole, again)
    assert not (tmp_path / "dictionary.safetensors").exists()
    other = case.learned(seed=1)
    assert not same(whole, other)


def test_latents_are_sorted_and_decoders_have_the_length_of_their_coordinates():
    case = Case()
    bases = case.learned()
    assert not isinstance(bases["l2"], Dictionary)
    for name in ("l0", "l1"):
        dictionary = bases[name]
        importance = dictionary.importance[dictionary.isolated :]
        assert bool((importance[:-1] >= importance[1:]).all())
        steps = dictionary.decoder[dictionary.isolated :] @ case.lib[name].encoder
        lengths = steps[:, case.lib[name].isolated :].norm(dim=1)
        assert_close(lengths, lengths[:1].expand(len(lengths)), 1e-5)


def test_other_tools_get_the_same_latents(tmp_path):
    case = Case()
    bases = case.learned()
    METHODS["dictionary"].writes(case.network, bases, tmp_path)
    folder = tmp_path / "dictionaries" / "l0"
    config = json.loads((folder / "cfg.json").read_text())
    weights = load_file(folder / "sae_weights.safetensors")
    x = case.network.embed(case.inputs).flatten(0, 1)
    h = x[:, :-1].float()
    pre = h @ weights["W_enc"] + weights["b_enc"]
    kept = pre.topk(config["k"], dim=1)
    z = torch.zeros_like(pre).scatter(1, kept.indices, kept.values.relu())
    dictionary = bases["l0"]
    alive = len(dictionary) - dictionary.isolated
    assert_close(z[:, :alive], dictionary.latents(x)[:, dictionary.isolated :].float(), 1e-4)
    assert alive + dictionary.dead == 10
    error = h - (z @ weights["W_dec"] + weights["b_dec"])
    assert_close(error, dictionary.error(x)[:, :-1].float(), 1e-4)
    assert (config["d_in"], config["d_sae"]) == (5, 10)
    assert config["metadata"]["hook_name"] == "l0"
    (read,) = saelens.read(folder)
    assert torch.equal(read.encoder.float(), weights["W_enc"])
    assert (read.hook, read.gate.k) == ("l0", 2)


def test_dead_latents_are_counted_and_go_on_competing(tmp_path):
    """What other tools read chooses among all latents, as the basis does."""
    whole = random_dictionary(5, 9, 1, k=3)
    chosen = torch.tensor([6, 0, 4, 8])
    part = whole.of(chosen, torch.ones(4).double())
    assert part.dead == 5
    place = write_saelens(tmp_path, NodeLayer("l", 5, isolated=()), part)
    (read,) = saelens.read(place)
    x = torch.cat([normal(seeded(2), 40, 4), torch.ones(40, 1).double()], dim=1)
    z = read.gate.active(x[:, :-1] @ read.encoder + read.bias, x)
    assert torch.equal(z[:, :4], part.latents(x)[:, part.isolated :] != 0)
    assert float(z[:, 4:].double().mean()) > 0
    assert not bool(read.decoder[4:].any())


def test_directions_are_found_of_which_few_make_each_row():
    truth = torch.nn.functional.normalize(torch.randn(8, 6, generator=seeded(0)), dim=1)
    which = torch.rand(3000, 8, generator=seeded(1)).topk(2, dim=1).indices
    parts = torch.randn(3000, 2, 1, generator=seeded(2))
    rows = (parts * truth[which]).sum(1)
    places, found, left = pursuit(rows, truth, 2)
    assert_close((found.unsqueeze(2) * truth[places]).sum(1) + left, rows, 1e-4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("libgraph.bases.learned.beginning.CODING_ROUNDS", 40)
        directions = coded_directions(rows, 8, 2, seeded(3))
    assert float((truth @ directions.T).abs().amax(1).min()) > 0.99


def test_dead_latents_learn_the_error():
    problem = Case().problem(gradients=0)
    parameters = problem.start()
    parameters["l0/encoder"][:, 0] = 0
    parameters["l0/bias"][0] = -0.1
    parameters["l0/quiet"][0] = 1000
    for key, value in parameters.items():
        value.requires_grad_(not key.endswith("quiet"))
    # It is not active, but there is something positive among the dead after a push.
    with torch.no_grad():
        parameters["l0/bias"][0] = 1e-3
        problem.samples["l0"].u.mul_(10)
    problem.loss(parameters, 0).backward()
    assert float(parameters["l0/decoder"].grad[0].abs().max()) > 0


def test_interactions_push_through_encoders_and_decoders():
    problem = Case(rotated=True).problem(interactions=1.0)
    parameters = problem.start()
    for key, value in parameters.items():
        value.requires_grad_(not key.endswith("quiet"))
    every = {name: torch.arange(40) for name in problem.samples}
    before = problem.few(parameters, every)
    before.backward()
    for name in ("l0/decoder", "l1/encoder"):
        gradient = parameters[name].grad
        assert float(gradient.abs().max()) > 0
        moved = {key: value.detach().clone() for key, value in parameters.items()}
        moved[name] -= 1e-4 * gradient / gradient.norm()
        with torch.no_grad():
            assert float(problem.few(moved, every)) < float(before)


@pytest.mark.parametrize(
    "wrong", [{"latents": 0}, {"active": 0}, {"gradients": -1}, {"power": 2}, {"metric": "mine"}]
)
def test_options_out_of_range(wrong):
    with pytest.raises(UsageError, match="learned dictionaries"):
        DictionaryOptions(**wrong)
