"""Activations from the last node layer to the first: right at any budget, and kept within it."""

import pytest
import torch
from helpers.networks import random_network, toy_data
from helpers.numbers import normal, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from libgraph.accumulate.kept_activations import KeptActivations
from libgraph.accumulate.memory import BATCH_BYTES, batch_size, memory_budget
from libgraph.sections import Linear

LAYERS = 9
quick = settings(deadline=None, max_examples=25)


def network_of(layers=LAYERS):
    return random_network(["linear"] * (layers - 1), [2] * layers)


def bytes_of_a_layer(samples, positions=2):
    return samples * positions * 3 * 8


def runs_of(network, monkeypatch):
    """Counts how often each section runs."""
    runs = [0] * len(network.sections)
    place = {id(section): i for i, section in enumerate(network.sections)}
    forward = Linear.forward

    def counted(self, x):
        runs[place[id(self)]] += 1
        return forward(self, x)

    monkeypatch.setattr(Linear, "forward", counted)
    return runs


@given(
    fit=st.integers(0, 12),
    samples=st.integers(1, 7),
    batch=st.integers(1, 4),
    layers=st.integers(2, 9),
)
@quick
def test_activations_are_right_and_within_the_budget(fit, samples, batch, layers):
    network = network_of(layers)
    inputs = normal(seeded(samples), samples, 2, 2)
    batches = -(-samples // batch)
    memory = 2 * batches * fit * bytes_of_a_layer(min(batch, samples))
    activations = KeptActivations(
        network, toy_data(network, inputs, batch_size=batch, memory=memory)
    )
    expected = list(network.activations(inputs))
    for index in reversed(range(layers)):
        found = torch.cat([compute() for compute in activations.at(index)])
        assert torch.equal(found, expected[index]) or torch.allclose(found, expected[index])
        kept = [x for by_layer in activations.by_batch.values() for x in by_layer.values()]
        assert sum(x.numel() * x.element_size() for x in kept) <= memory / 2


@pytest.mark.parametrize(("fit", "most"), [(100, 1), (LAYERS, 1), (3, 3), (0, LAYERS)])
def test_the_more_is_kept_the_less_is_run_again(fit, most, monkeypatch):
    network = network_of()
    inputs = normal(seeded(0), 4, 2, 2)
    data = toy_data(network, inputs, memory=2 * fit * bytes_of_a_layer(4))
    runs = runs_of(network, monkeypatch)
    activations = KeptActivations(network, data)
    for index in reversed(range(LAYERS)):
        for compute in activations.at(index):
            compute()
    assert max(runs) <= most
    if fit == 0:
        assert runs == list(range(LAYERS - 1, 0, -1))


def test_nothing_is_computed_before_it_is_asked_for(monkeypatch):
    network = network_of()
    data = toy_data(network, normal(seeded(0), 4, 2, 2), batch_size=1)
    runs = runs_of(network, monkeypatch)
    passed = list(KeptActivations(network, data).at(3))
    assert len(passed) == 4
    assert sum(runs) == 0
    passed[1]()
    assert sum(runs) == 3


@pytest.mark.parametrize(
    ("positions", "memory", "expected"),
    [
        (1, 2**40, 1024),
        (BATCH_BYTES // 24 // 5, 2**40, 4),
        (BATCH_BYTES // 24 * 3, 2**40, 1),
        (1000, 16 * 24_000 * 9, 8),
        (1000, 1, 1),
    ],
)
def test_a_batch_is_a_power_of_two_that_fits(positions, memory, expected):
    network = network_of(2)
    assert batch_size(network, torch.zeros(1, positions, 2).double(), memory) == expected


def test_the_budget_is_some_of_what_is_free():
    assert 2**20 < memory_budget("cpu") < 2**50
