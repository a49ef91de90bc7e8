"""What people ask for, at its edges: said twice, very large, and by the numbers of classes."""

import pytest
import torch

import libgraph as lg
from libgraph.errors import UsageError
from libgraph.interventions.changes import check_interventions
from libgraph.interventions.prompt import prompt_graph
from libgraph.interventions.steering import steer
from libgraph.runs.requests import intervention_of, read_request


@pytest.fixture(scope="module")
def addition():
    backend = lg.load_backend("modular-addition")
    run = lg.analyze(backend, ablate=False, beside=(), limit=100)
    return run, run.subject(limit=20)


@pytest.fixture(scope="module")
def characters():
    backend = lg.load_backend("lm", sequences=4, layers="0:1", n_ctx=5, cuts="blocks")
    run = lg.analyze(backend, ablate=False, beside=(), limit=4)
    return run, run.subject(limit=4)


def test_a_feature_and_its_module_go_to_the_mean_once(addition):
    run, subject = addition
    module = run.module(0)
    both = intervention_of(run, [module.members[0], "module:0"])
    check_interventions(subject, [both])
    changed = [(change.layer, feature) for change in both.changes for feature in change.features]
    assert len(changed) == len(set(changed)) == len(module.members)


@pytest.mark.parametrize("texts", [["ln2.0/1=2x", "ln2.0/1=2x"], ["ln2.0/1=1", "ln2.0/1=2"]])
def test_what_would_not_be_the_same_twice_is_refused(addition, texts):
    run, subject = addition
    with pytest.raises(UsageError, match=r"changes ln2\.0/1 twice"):
        check_interventions(subject, [intervention_of(run, texts)])


def test_values_are_finite_in_the_precision_of_the_run(addition):
    run, subject = addition
    check_interventions(subject, [intervention_of(run, ["ln2.0/1=1e300"])])
    with pytest.raises(UsageError, match="not finite"):
        check_interventions(subject, [intervention_of(run, ["ln2.0/1=1e999"])])


def test_a_mistake_names_words_as_people_write_them():
    with pytest.raises(UsageError, match="a number, or mean or position-mean or resample"):
        read_request("ln2.0/5=nan")


@pytest.mark.parametrize("temperature", [float("nan"), float("inf"), -1.0])
def test_temperatures_that_are_none_are_refused(characters, temperature):
    run, subject = characters
    nothing = intervention_of(run, ["module:0=1x"])
    inputs = subject.backend.inputs_of("To be")
    with pytest.raises(UsageError, match="temperature"):
        steer(subject, nothing, inputs, tokens=1, temperature=temperature)


def test_a_temperature_near_zero_takes_the_most_probable(characters):
    run, subject = characters
    nothing = intervention_of(run, ["module:0=1x"])
    inputs = subject.backend.inputs_of("To be")
    coldest, cold = (
        steer(subject, nothing, inputs, tokens=2, temperature=temperature)
        for temperature in (0.0, 1e-310)
    )
    assert cold.chosen == coldest.chosen


def test_outputs_are_called_by_the_numbers_of_their_classes(characters):
    _, subject = characters
    inputs = subject.backend.inputs_of("To be")
    graph = prompt_graph(subject, inputs, classes=[7, 3])
    assert graph.layers[-1].ids == ["outputs/7@0", "outputs/3@0"]
    with torch.no_grad():
        logits = subject.logits(subject.network(inputs))[0, -1, [7, 3]]
    torch.testing.assert_close(graph.layers[-1].values, logits)
