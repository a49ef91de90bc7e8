"""What `--dry-run` says, where every measurement is made to take a second, or that of edges two."""

import dataclasses
import re

import pytest
import torch

import libgraph as lg
from libgraph.accumulate.memory import LARGEST_BATCH
from libgraph.analysis import analysis as analysis_module
from libgraph.analysis import plan as planning
from libgraph.analysis.announcement import announcement
from libgraph.analysis.rotations import DRAWN_SAMPLES
from libgraph.analysis.stages import (
    BISECTION_PASSES,
    CURVE_PASSES,
    NODE_TRIALS,
    SCATTERED_PASSES,
    TRIALS,
)
from libgraph.bases.learned.options import CODING_ROUNDS
from libgraph.bases.sparse.options import BATCH, EVERY, SAMPLES
from libgraph.sections import Function, SkipMLP

PAIRS = 5


def ablated(masked, trials):
    """Seconds of one basis with so many passes under masks, and trials of edges."""
    behind = PAIRS * (PAIRS - 1) / 2
    # Thirteen coordinates are no, one, … or thirteen features.
    nodes = min(NODE_TRIALS, 14) * (PAIRS + behind + PAIRS)
    return masked * PAIRS + trials * (behind + PAIRS) + nodes


@pytest.fixture
def plan(monkeypatch):
    def second(compute):
        compute()
        return 2.0 if getattr(compute, "func", None) is planning.measured else 1.0

    monkeypatch.setattr(planning, "_seconds", second)
    monkeypatch.setattr(planning, "ONCE", float("inf"))
    monkeypatch.setattr(planning, "LITTLE", float("inf"))
    backend = lg.load_backend("mlp", seed=0)
    samples = {split: backend.samples(split) for split in ("train", "test")}
    assert len(backend.network().sections) == PAIRS

    def planned(**options):
        return planning.plan(backend, **options), samples

    return planned


def test_passes_over_all_samples(plan):
    found, samples = plan(basis="lib", beside=("pca",))
    train, test = (samples[split] / LARGEST_BATCH for split in ("train", "test"))
    assert found.samples == samples
    assert found.seconds["statistics"] == pytest.approx(train)
    assert found.seconds["bases"] == pytest.approx(train * (1 + PAIRS))
    assert found.seconds["interactions"] == pytest.approx(2 * train * 2 * PAIRS)
    # Every trial runs what is behind its pair, of nodes the section too, and is scored.
    assert found.seconds["ablation"] == pytest.approx(2 * test * ablated(BISECTION_PASSES, TRIALS))
    assert set(found.seconds) == {"statistics", "bases", "interactions", "ablation", "writing"}


def test_bases_that_are_nothing_to_the_network_need_most_edges(plan):
    found, samples = plan(basis="lib", beside=("neuron", "random"))
    one, other = (ablated(passes, TRIALS) for passes in (BISECTION_PASSES, SCATTERED_PASSES))
    test = samples["test"] / LARGEST_BATCH
    assert found.seconds["ablation"] == pytest.approx(test * (one + 2 * other))


@pytest.mark.parametrize(
    ("basis", "passes"), [("pca", 1), ("lib", 1 + PAIRS), ("global", 2), ("random", 1)]
)
def test_bases_cost_what_they_need(plan, basis, passes):
    found, samples = plan(basis=basis, beside=(), ablate=False)
    assert found.seconds["bases"] == pytest.approx(passes * samples["train"] / LARGEST_BATCH)
    assert found.seconds["ablation"] == 0


# Four batches are evaluated on every fiftieth step.
STEP = 1 + SAMPLES / BATCH / EVERY


def test_sparse_basis_costs_lib_and_its_steps(plan):
    lib, _ = plan(basis="lib", beside=(), ablate=False)
    found, _ = plan(basis="sparse", beside=(), ablate=False, sparse_steps=30, sparse_starts=2)
    assert found.seconds["bases"] == pytest.approx(lib.seconds["bases"] + 60 * STEP)
    assert found.memory > lib.memory
    # More features than the samples looked at have are no mistake yet.
    many, _ = plan(basis="sparse", beside=(), ablate=False, sparse_features=10_000)
    assert many.seconds["bases"] == pytest.approx(lib.seconds["bases"] + 800 * STEP)


@pytest.mark.parametrize("gradients", [0, 1])
def test_dictionaries_cost_lib_their_beginning_and_their_steps(plan, monkeypatch, gradients):
    """A round of coding is measured as a second more, at one node layer, and never all of them."""
    lib, _ = plan(basis="lib", beside=(), ablate=False)
    begun = []

    def second(compute):
        compute()
        if getattr(getattr(compute, "func", None), "__name__", "") != "start_of":
            return 1.0
        begun.append((compute.func.__self__, *compute.args))
        return 1.0 + compute.args[1]

    monkeypatch.setattr(planning, "_seconds", second)
    how = {"dictionary_steps": 30, "dictionary_gradients": gradients}
    found, _ = plan(basis="dictionary", beside=(), ablate=False, **how)
    assert [rounds for _, _, rounds in begun] == [0, 1][: 1 + gradients]
    problem, largest, _ = begun[0]
    operations = {
        name: problem.count(name) ** 2 * place.size for name, place in problem.places.items()
    }
    assert operations[largest] == max(operations.values())
    start = (1 + gradients * CODING_ROUNDS) * sum(operations.values()) / operations[largest]
    assert found.seconds["bases"] == pytest.approx(lib.seconds["bases"] + start + 30)


def test_what_is_asked_for_beside(plan):
    found, samples = plan(basis="lib", beside=("pca",), curves=True, halves=True, draws=4)
    train, test = (samples[split] / LARGEST_BATCH for split in ("train", "test"))
    trials = ablated(BISECTION_PASSES + CURVE_PASSES, 2 * TRIALS)
    assert found.seconds["ablation"] == pytest.approx(2 * test * trials)
    assert found.seconds["halves"] == pytest.approx(2 * train * 2 * PAIRS)
    drawn = DRAWN_SAMPLES / LARGEST_BATCH
    assert found.seconds["significance"] == pytest.approx(5 * drawn * (2 + 3 * PAIRS))


def test_checks_are_exact_where_edges_are_estimated(plan):
    found, samples = plan(basis="lib", beside=(), halves=True, draws=4, signs=2, ablate=False)
    train, drawn = samples["train"] / LARGEST_BATCH, DRAWN_SAMPLES / LARGEST_BATCH
    assert found.seconds["interactions"] == pytest.approx(train * 2 * PAIRS)
    assert found.seconds["halves"] == pytest.approx(train * PAIRS)
    assert found.seconds["significance"] == pytest.approx(5 * drawn * (2 + 2 * PAIRS))


def test_draws_of_a_sparse_basis_turn_each_network(plan):
    found, _ = plan(basis="sparse", beside=(), draws=4, sparse_steps=30)
    drawn = DRAWN_SAMPLES / LARGEST_BATCH
    assert found.seconds["significance"] == pytest.approx(5 * (drawn * (2 + 3 * PAIRS) + 30 * STEP))


def test_bases_from_a_split_of_their_own(plan, monkeypatch):
    kind = type(lg.load_backend("mlp"))
    monkeypatch.setattr(kind, "bases_split", "bases")
    monkeypatch.setattr(kind, "samples", lambda self, split: {"bases": 9000}.get(split, 3000))
    found, _ = plan(basis="lib", beside=(), ablate=False)
    assert found.samples == {"train": 3000, "test": 3000, "bases": 9000}
    assert found.seconds["statistics"] == pytest.approx(9000 / LARGEST_BATCH)
    assert found.seconds["interactions"] == pytest.approx(3000 / LARGEST_BATCH * 2 * PAIRS)


def test_gradients_are_left_as_they_were(plan):
    import torch

    assert torch.is_grad_enabled()
    plan(basis="sparse", beside=("global",))
    assert torch.is_grad_enabled()


def test_a_long_run_says_so_before_it_starts(caplog, monkeypatch):
    monkeypatch.setattr(analysis_module, "LOOK_AHEAD", 0.0)
    monkeypatch.setattr("libgraph.analysis.announcement.LONG", 0.0)
    told = Listener()
    backend = lg.load_backend("mlp", seed=0)
    lg.analyze(backend, basis="lib", beside=(), limit=100, progress=told)
    (message,) = caplog.messages
    assert re.match(r"This is going to take about \d+ s, ", message)
    assert "limit=2 takes fewer samples" in message
    # Bases, interactions, ablations and examples are to come, then one less with every stage.
    assert len(told.expected) == 4
    assert min(told.expected[:3]) > 0


def test_a_short_run_says_nothing(caplog, monkeypatch):
    monkeypatch.setattr(analysis_module, "LOOK_AHEAD", float("inf"))
    told = Listener()
    lg.analyze(lg.load_backend("mlp", seed=0), limit=20, ablate=False, progress=told)
    assert not caplog.messages
    assert not told.expected


def test_what_makes_a_run_smaller():
    hours = announcement({"bases": 60, "ablation lib": 70_000, "ablation pca": 73_940}, 4000)
    assert hours == (
        "This is going to take about 40 hours, 100% of it for ablation. To make it smaller: "
        "limit=8 takes fewer samples, or ablate=False leaves ablations out."
    )
    assert "signs=16" in announcement({"interactions": 700.0}, 1000)
    assert announcement({"bases": 599.0}, 1000) is None
    # As few as can be: there is nothing to advise.
    assert "limit" not in announcement({"ablation": 7000.0}, 2)
    assert announcement({"bases": 7000.0}, 2).endswith("100% of it for bases.")


class Listener:
    """Progress that wants to know how long the rest takes."""

    def __init__(self):
        self.expected = []

    def __call__(self, stage, done, total, note=""):
        pass

    def expect(self, seconds):
        self.expected.append(seconds)


def test_sections_of_one_form_and_size_are_measured_once(monkeypatch):
    def seconds(section, x, y):
        measured.append(section)
        return (float(len(measured)),)

    wide, again = (SkipMLP(torch.eye(3), torch.eye(3), torch.eye(3)) for _ in range(2))
    other = SkipMLP(torch.eye(3), torch.eye(3), torch.eye(3), torch.tanh)
    larger = SkipMLP(torch.eye(3), torch.ones(3, 5), torch.ones(5, 3))
    functions = [Function(function, 3, 3) for function in (torch.sin, torch.cos)]
    sections = [wide, other, again, larger, *functions, wide]
    layers = [lg.NodeLayer(f"{number}", 3) for number in range(len(sections) + 1)]
    network, measured = lg.Network(lambda x: x, sections, layers), []
    once = lambda _, measure, *given: measure(*given)  # noqa: E731
    monkeypatch.setattr(planning.FewSamples, "_warm_seconds", once)
    few = planning.FewSamples(*[None] * len(dataclasses.fields(planning.FewSamples)))
    activations = [torch.ones(2, 1, 3)] * len(layers)
    found = few._of_sections(seconds, network, activations)
    assert measured == [wide, other, larger, *functions]
    assert [each for (each,) in found] == [1, 2, 1, 3, 4, 5, 1]


@pytest.mark.parametrize(
    ("one", "again", "all_of_them"), [(1, 1, 8), (1, 0.01, 3), (0.1, 9, 3), (5, 1, 40)]
)
def test_one_sample_stands_for_all_where_it_takes_long(one, again, all_of_them):
    """Also warm: the first time is that of libraries which get ready."""
    times = {1: [one, again], 8: [3]}

    def measure(section, x, y):
        return (times[len(x)].pop(0),)

    x = torch.zeros(8, 1, 2)
    assert planning.FewSamples._warm_seconds(None, measure, None, x, x) == (all_of_them,)


@pytest.mark.parametrize(("few", "expected"), [(0.9, 5.0), (1.1, 2.2)])
def test_a_whole_batch_is_measured_where_that_is_quick(few, expected, monkeypatch):
    monkeypatch.setattr(planning, "PROBE", 4)
    times = {1: 0.01, 4: few, 8: 5.0}
    x = torch.zeros(8, 1, 2)
    found = planning.FewSamples._warm_seconds(
        None, lambda section, x, y: (times[len(x)],), None, x, x
    )
    assert found == pytest.approx((expected,))


@pytest.mark.parametrize("count", [3, 8, 80])
def test_many_features_take_what_a_line_through_few_says(count, monkeypatch):
    """Three seconds for all and a quarter for each; noise makes them neither cheaper nor dearer."""
    monkeypatch.setattr(planning, "_seconds", lambda cost: cost)
    assert planning._seconds_of(count, 8, lambda d: 3 + d / 4) == pytest.approx(3 + count / 4)
    assert planning._seconds_of(80, 8, lambda d: 9 - d) == 1
    assert planning._seconds_of(80, 8, lambda d: max(0, d - 4)) == pytest.approx(40)


def test_functions_of_one_name_are_two_forms():
    def section(activation):
        return SkipMLP(torch.ones(4, 4), torch.ones(4, 4), torch.ones(4, 4), activation)

    one, other, alike = (
        planning._form(section(f)) for f in (lambda x: x, lambda x: x.exp(), torch.relu)
    )
    assert len({one, other, alike}) == 3
    assert planning._form(section(torch.relu)) == alike
