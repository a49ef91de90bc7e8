"""A run that is gone on with goes by the memory budget that it was begun with."""

from __future__ import annotations

import json
import logging

import pytest
from safetensors.torch import load_file

from libgraph.accumulate import memory
from libgraph.analysis.analysis import analyze
from libgraph.backend.registry import load_backend
from libgraph.degeneracy.behaviour import behaviour
from libgraph.degeneracy.measure import measure_degeneracy

FEW = {"blocks": 2, "width": 3, "layers": 2, "samples": 60}

SAMPLE = 8 * 7
"""Bytes of a sample in the widest node layer."""


@pytest.fixture
def free(monkeypatch):
    """Have so many samples of a batch fit into half of what is free."""

    def of(samples):
        monkeypatch.setattr(memory, "available_memory", lambda: 2 * 16 * SAMPLE * samples)

    return of


def analyzed(path, **more):
    analyze(load_backend("mlp", **FEW), out=path, beside=(), ablate=False, **more)


def interrupted(path, stage, at):
    """Analyse until a stage has come so far."""

    def progress(name, done, total, note=""):
        if name == stage and done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyzed(path, progress=progress)


def batch_size(path):
    return json.loads((path / "run.json").read_text())["batch_size"]


@pytest.mark.parametrize("then", [9, 400])
def test_an_interrupted_run_goes_on_with_other_free_memory(then, free, tmp_path):
    free(16)
    analyzed(tmp_path / "whole")
    interrupted(tmp_path / "run", "interactions", 1)
    before = (tmp_path / "run.partial" / "bases.safetensors").stat().st_mtime_ns
    free(then)
    analyzed(tmp_path / "run")
    assert batch_size(tmp_path / "whole") == batch_size(tmp_path / "run") == 16
    assert (tmp_path / "run" / "bases.safetensors").stat().st_mtime_ns == before
    for name in ("bases.safetensors", "edges.safetensors"):
        one, other = (load_file(tmp_path / run / name) for run in ("whole", "run"))
        assert all(one[key].numpy().tobytes() == other[key].numpy().tobytes() for key in one)
    # So does who analyses again.
    analyzed(tmp_path / "run", force=True)
    assert batch_size(tmp_path / "run") == 16
    analyzed(tmp_path / "other")
    assert batch_size(tmp_path / "other") != 16


def test_where_it_cannot_be_had_any_more_batches_are_smaller(free, tmp_path, caplog):
    free(16)
    interrupted(tmp_path / "run", "interactions", 1)
    free(4)
    with caplog.at_level(logging.WARNING):
        analyzed(tmp_path / "run")
    assert batch_size(tmp_path / "run") == 4
    assert "Less memory is free" in caplog.text


def test_probes_go_on_side_by_side_as_they_were(free, tmp_path, monkeypatch):
    monkeypatch.setattr(behaviour, "MOST_EXACT", 3)
    monkeypatch.setattr(behaviour.behaviour_spectrum, "__kwdefaults__", {
        **behaviour.behaviour_spectrum.__kwdefaults__, "most_exact": 3
    })  # fmt: skip
    few = {"samples": 20, "probes": 3, "steps": 4, "draws": 2}

    def measured(path, stop=None):
        def progress(stage, done, total, note=""):
            if stage == behaviour.STAGE and done == stop:
                raise KeyboardInterrupt

        measure_degeneracy(load_backend("mlp", **FEW), out=path, progress=progress, **few)

    def found(path):
        return json.loads((path / "degeneracy.json").read_text())["behaviour"]

    free(16)
    measured(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "run", stop=2)
    free(4000)
    measured(tmp_path / "run")
    assert found(tmp_path / "whole") == found(tmp_path / "run")
    measured(tmp_path / "other")


def test_memory_that_is_given_takes_its_place(free, tmp_path):
    """The record does not say what an earlier run went by."""
    free(16)
    analyzed(tmp_path / "run")
    analyzed(tmp_path / "run", force=True, memory=2 * 2**30)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["options"]["memory"] == 2 * 2**30
    assert "memory_budget" not in record
    free(4)
    analyzed(tmp_path / "run", force=True)
    assert batch_size(tmp_path / "run") == 4
