"""Batches that do not fit into memory: halved until they do, and each sample counted once."""

from __future__ import annotations

import logging

import pytest
import torch
from helpers.networks import random_network, toy_data
from helpers.numbers import assert_close, normal, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from libgraph.accumulate.exact import ExactSums
from libgraph.accumulate.halfway import Halfway, halfway
from libgraph.accumulate.kept_activations import KeptActivations
from libgraph.accumulate.sums import Numbered, accumulate
from libgraph.edges import interactions as of_interactions
from libgraph.edges.interactions import estimate_interactions
from libgraph.sections.quadrature import Quadrature

NETWORK = random_network(["linear"], [1, 2])

ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
]


def data_of(samples, batch_size):
    return toy_data(
        NETWORK, torch.arange(float(samples)).double().reshape(-1, 1, 1), batch_size=batch_size
    )


def fitting(most, seen, error=ERRORS[0]):
    """A measure that has room for so many samples."""

    def measure(piece):
        rows = piece.batch.inputs.flatten()
        seen.append(len(rows))
        if len(rows) > most:
            raise error
        at = piece.first + torch.arange(len(rows))
        return {"rows": rows.sum(), "count": torch.tensor(len(rows)), "at": at.sum()}

    return measure


@given(samples=st.integers(1, 40), size=st.integers(1, 40), most=st.integers(1, 40))
@settings(deadline=None, max_examples=30)
def test_every_sample_counts_once_however_little_fits(samples, size, most):
    seen: list[int] = []
    sums = accumulate(Numbered(data_of(samples, size)), fitting(most, seen))
    expected = accumulate(Numbered(data_of(samples, size)), fitting(samples, []))
    assert {name: float(value) for name, value in sums.items()} == {
        name: float(value) for name, value in expected.items()
    }
    assert sum(n for n in seen if n <= most) == samples


@pytest.mark.parametrize("error", ERRORS)
def test_it_is_said_once_and_remembered(error, caplog):
    data, seen = data_of(32, 16), []
    with caplog.at_level(logging.WARNING, "libgraph"):
        for stage in ("a", "a", "b"):
            accumulate(Numbered(data), fitting(5, seen, error), stage=stage)
    assert seen == [16, 8, *[4] * 8, *[4] * 8, 16, 8, *[4] * 8]
    (record,) = caplog.records
    assert "16 samples does not fit" in record.getMessage()
    assert "memory='…'" in record.getMessage()


def test_single_samples_that_do_not_fit_are_an_error():
    with pytest.raises(MemoryError):
        accumulate(Numbered(data_of(4, 4)), fitting(0, []))
    with pytest.raises(MemoryError):
        accumulate([torch.ones(3)], lambda x: (_ for _ in ()).throw(MemoryError()))


def test_other_errors_are_no_lack_of_memory():
    seen = []
    with pytest.raises(ValueError, match="ours"):
        accumulate(Numbered(data_of(4, 4)), fitting(1, seen, ValueError("ours")))
    assert seen == [4]


def test_a_batch_that_is_in_the_sums_in_part_is_never_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("libgraph.accumulate.halfway.EVERY", 0.0)
    monkeypatch.setattr("libgraph.accumulate.halfway.WORTH", 0.0)
    data = data_of(8, 4)

    def measure(piece, most=4):
        if len(piece.batch.inputs) > most or (most == 2 and piece[:2] == (1, 2)):
            raise MemoryError if most == 4 or piece.first == 0 else KeyboardInterrupt
        return {"rows": piece.batch.inputs.sum()}

    place = Halfway(tmp_path, "s", "d")
    with pytest.raises(KeyboardInterrupt), halfway(place):
        accumulate(Numbered(data), lambda piece: measure(piece, 2), stage="s")
    with halfway(Halfway(tmp_path, "s", "d")):
        sums = accumulate(Numbered(data), measure, stage="s")
    assert float(sums["rows"]) == sum(range(8))


def test_nothing_is_added_where_there_is_no_room_for_a_new_sum(monkeypatch):
    sums = ExactSums()
    sums.add({"a": torch.ones(2)})

    def exhausted(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros_like", exhausted)
        with pytest.raises(MemoryError):
            sums.add({"a": torch.ones(2), "b": torch.ones(2)})
    assert set(sums.total()) == {"a"}
    assert sums.total()["a"].tolist() == [1, 1]


def test_sums_are_the_same_in_parts(monkeypatch):
    values = [normal(seeded(i), 7, 5) * 10.0 ** (3 * i) for i in range(6)]
    whole, parts = ExactSums(), ExactSums()
    for value in values:
        whole.add({"x": value, "y": value[0, 0]})
    monkeypatch.setattr("libgraph.accumulate.exact.AT_ONCE", 4)
    for value in values:
        parts.add({"x": value, "y": value[0, 0]})
    assert all(torch.equal(parts.total()[name], whole.total()[name]) for name in ("x", "y"))


def test_activations_of_halves_are_computed_anew():
    network = random_network(["relu", "tanh", "linear"], [3, 4, 3, 2], rotated=False)
    data = toy_data(network, normal(seeded(0), 12, 2, 3), batch_size=6)
    activations = KeptActivations(network, data)
    expected = torch.cat([compute() for compute in activations.at(3)])
    assert activations.by_batch
    found = []

    def measure(compute):
        x = compute()
        if len(x) > 2:
            raise MemoryError
        found.append(x)
        return {"x": x.sum()}

    accumulate(activations.at(3), measure)
    assert_close(torch.cat(found), expected)
    assert not activations.by_batch


def halves_alone(monkeypatch, module, name):
    """Have a function of a module fail for more than three samples."""
    function = getattr(module, name)

    def limited(section, x, *rest):
        if len(x) > 3:
            raise MemoryError
        return function(section, x, *rest)

    monkeypatch.setattr(module, name, limited)


@pytest.mark.parametrize("signs", [0, 2])
def test_interactions_have_the_same_signs_in_halves(monkeypatch, signs):
    from libgraph.bases.method import Truncation
    from libgraph.bases.methods import METHODS
    from libgraph.bases.statistics import node_statistics
    from libgraph.progress import silent

    network = random_network(["attention", "tanh"], [3, 4, 2])
    data = toy_data(network, normal(seeded(0), 20, 5, 3), batch_size=8)
    bases = {
        "pca": METHODS["pca"](
            network, node_statistics(network, data), data, Truncation(True, 1e-9), silent
        )
    }
    arguments = network, bases, data, Quadrature.gradient(), signs
    expected = estimate_interactions(*arguments)
    halves_alone(monkeypatch, of_interactions, "measured")
    found = estimate_interactions(*arguments)
    for pair, edges in expected.edges["pca"].items():
        assert_close(found.edges["pca"][pair], edges, 1e-12)
