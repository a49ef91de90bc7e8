"""Runs side by side from Python: in memory and read back, which say the same."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import libgraph as lg
from libgraph.comparison.side_by_side import compare_run, compare_runs
from libgraph.errors import UsageError
from libgraph.runs.computed_run import ComputedRun
from libgraph.runs.saved_run import open_run
from libgraph_backends.modular_addition.backend import ModularAddition


@pytest.fixture(scope="module")
def computed(weights, tmp_path_factory) -> ComputedRun:
    out = tmp_path_factory.mktemp("side") / "run"
    return lg.analyze(ModularAddition(weights=weights), out=out, seeds=2, ablate=False)


@pytest.fixture(scope="module")
def unwritten(weights) -> ComputedRun:
    return lg.analyze(ModularAddition(weights=weights), seeds=2, basis="pca", beside=())


def test_a_run_in_memory_and_its_directory_say_the_same(computed):
    tables = [
        compare_run(run) for run in (computed, open_run(computed.directory), computed.directory)
    ]
    assert [column.heading for column in tables[0].columns] == ["lib", "pca"]
    assert len({str(table) for table in tables}) == 1
    assert tables[0].as_dict() == tables[1].as_dict() == tables[2].as_dict()
    assert str(tables[0]).startswith("modular-addition: bases side by side\nmeasure")
    assert repr(tables[0]) == ("<Comparison of modular-addition: bases side by side: lib, pca>")
    json.dumps(tables[0].as_dict(), allow_nan=False)
    assert tables[0].runs == (computed,)


def test_bases_in_the_order_asked_for(computed):
    assert [column.basis for column in compare_run(computed, ["pca", "lib"]).columns] == [
        "pca", "lib"
    ]  # fmt: skip
    with pytest.raises(UsageError, match="no basis 'ica': choose one of lib, pca"):
        compare_run(computed, ["ica"])


def test_a_single_run_is_compared_in_all_its_bases_or_one(computed):
    assert str(compare_runs([computed])) == str(compare_run(computed))
    (column,) = compare_runs([computed], basis="pca").columns
    assert column.basis == "pca"


def test_runs_with_and_without_a_directory(computed, unwritten):
    comparison = compare_runs([computed, unwritten])
    assert [column.heading for column in comparison.columns] == [
        "run lib", "modular-addition 2 pca"
    ]  # fmt: skip
    columns = comparison.as_dict()["columns"]
    assert columns["run lib"]["run"] == str(computed.directory)
    assert columns["modular-addition 2 pca"]["run"] is None
    assert comparison.title == "modular-addition: runs side by side"
    shared = compare_runs([computed, unwritten], basis="pca")
    assert shared.title == "modular-addition: runs side by side, pca basis"
    assert [column.heading for column in shared.columns] == ["run", "modular-addition 2"]
    values = {(row.measure, row.where): row.values for row in shared.rows}
    assert values["test accuracy", "total"] == {
        "run": computed.metrics.score.test, "modular-addition 2": unwritten.metrics.score.test
    }  # fmt: skip


def test_a_run_is_given_once(computed, unwritten):
    for runs in (
        [computed, computed],
        [computed, computed.directory],
        [unwritten, unwritten],
    ):
        with pytest.raises(UsageError, match="given twice: name each run once"):
            compare_runs(runs)
    again = replace(unwritten)
    assert len(compare_runs([unwritten, again]).columns) == 2
    with pytest.raises(UsageError, match="no run to compare"):
        compare_runs([])
