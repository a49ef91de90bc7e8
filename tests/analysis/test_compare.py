"""Bases compared from Python, as `libgraph compare` does."""

from __future__ import annotations

import json

import pytest
import torch

from libgraph.analysis.compare import compare_bases, comparison_options, names_of
from libgraph.errors import UsageError
from libgraph.pipeline.options import COMPARED
from libgraph.runs.saved_run import open_run
from libgraph_backends.modular_addition.backend import ModularAddition

QUICK = {"draws": 2, "seeds": 2, "ablate": False}


@pytest.fixture
def backend(weights) -> ModularAddition:
    return ModularAddition(weights=weights)


def test_bases_are_measured_in_one_analysis(backend, tmp_path):
    stages = []
    comparison = compare_bases(
        backend,
        ("pca", "lib"),
        out=tmp_path / "run",
        progress=lambda stage, *_: stages.append(stage),
        **QUICK,
    )
    (run,) = comparison.runs
    assert (run.basis, run.basis_names) == ("lib", ("lib", "pca"))
    assert [column.basis for column in comparison.columns] == ["pca", "lib"]
    figures = run.metrics.bases
    assert figures["lib"].modules.significance.draws == 2
    assert figures["pca"].modules.significance is None
    assert None not in (figures["lib"].modules.halves, figures["pca"].modules.halves)
    assert run.options.curves
    measures = {row.measure for row in comparison.rows}
    assert {"halves agree", "more than chance, p"} <= measures
    assert "modules, pca" in stages
    saved = open_run(tmp_path / "run")
    assert saved.metrics.text() == run.metrics.text()
    assert all(
        torch.equal(matrix, run.edges("pca")[pair]) for pair, matrix in saved.edges("pca").items()
    )


def test_the_table_is_that_of_the_command(run, model, backend, tmp_path):
    comparison = compare_bases(backend, "random, neuron", out=tmp_path / "run", **QUICK)
    assert comparison.runs[0].basis == "random"
    code, out, err = run("compare", "run")
    assert code == 0, err
    assert sorted(out.split()) == sorted(str(comparison).split())
    again = json.loads(run("compare", "run", "--json")[1])
    assert again["rows"][1]["values"] == comparison.as_dict()["rows"][1]["values"]


def test_nothing_is_written_unless_asked_for(backend, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    comparison = compare_bases(backend, ["neuron"], **(QUICK | {"draws": 0}))
    assert comparison.runs[0].directory is None
    assert comparison.as_dict()["columns"]["neuron"]["run"] is None
    assert list(tmp_path.iterdir()) == []


def test_options_of_the_analysis():
    assert comparison_options() == {
        "basis": "lib",
        "beside": ("neuron", "pca", "random", "global"),
        "draws": 19,
        "halves": True,
        "curves": True,
    }
    assert set(names_of(COMPARED)) == set(COMPARED)
    assert names_of("pca, dir/mine.safetensors,pca,") == ["pca", "mine"]


def test_mistakes(backend):
    for bases in ((), "", " , "):
        with pytest.raises(UsageError, match="no basis to compare: give some of neuron"):
            compare_bases(backend, bases)
    for name in ("basis", "beside"):
        with pytest.raises(UsageError, match=f"not set by {name}: name all of them in bases"):
            compare_bases(backend, **{name: "pca"})
    with pytest.raises(UsageError, match="Unknown basis 'nonesuch'"):
        compare_bases(backend, ("lib", "nonesuch"))
