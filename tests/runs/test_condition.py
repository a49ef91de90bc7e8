"""What is said of the condition of a run: whole, damaged, interrupted, of an earlier version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers.commands import fails

import libgraph as lg
from libgraph.errors import UsageError
from libgraph.files.manifest import COMMITTED, STAGED
from libgraph.runs.condition import run_condition
from libgraph_backends.modular_addition.backend import ModularAddition


@pytest.fixture(scope="module")
def written(weights, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("condition") / "run"
    lg.analyze(ModularAddition(weights=weights), out=out)
    return out


@pytest.fixture
def path(written, tmp_path) -> Path:
    return shutil.copytree(written, tmp_path / "run")


def test_a_run_that_is_whole(path, run):
    condition = run_condition(path)
    assert condition.well
    assert {file.name for file in condition.files} == {file.name for file in path.iterdir()}
    assert {file.state for file in condition.files} == {"whole"}
    assert not condition.left
    code, out, _ = run("doctor", path)
    assert code == 0
    assert "is whole" in " ".join(out.split())


@pytest.mark.parametrize("name", ["run.json", "edges.safetensors", "graph.png"])
@pytest.mark.parametrize("missing", [True, False])
def test_what_is_damaged_is_named_with_what_helps(path, run, analyze, name, missing):
    file = path / name
    before = {each.name: each.read_bytes() for each in path.iterdir()}
    if missing and name != "run.json":
        file.unlink()
    else:
        file.write_bytes(before[name][:-1] + b"\\")
    condition = run_condition(path)
    assert [each.name for each in condition.damaged] == [name]
    fails(run("doctor", path), 2, name, "damaged", "--force", f"--out {path}")
    document = json.loads(run("doctor", path, "--json")[1])
    assert not document["well"]
    assert document["files"][name]["condition"] == "damaged"
    code, _, err = analyze("--force", out=path)
    assert code == 0, err
    assert run("doctor", path)[0] == 0
    assert (path / "edges.safetensors").read_bytes() == before["edges.safetensors"]


def test_without_its_record_a_run_is_replaced_only_by_hand(path, run, analyze):
    (path / "run.json").unlink()
    fails(run("doctor", path), 2, "has no run.json", "rename it", f"--out {path}")
    code, _, err = analyze("--force", out=path)
    assert code == 2
    assert "rename it" in " ".join(err.split())
    path.rename(path.with_name("mine"))
    assert analyze(out=path)[0] == 0
    assert run("doctor", path)[0] == 0


def test_what_interrupted_commands_leave_is_named(path):
    for name in (COMMITTED, STAGED):
        (path / name).mkdir()
    (path / ".graph.json.tmp").touch()
    aside = path.with_name(".run.12345678.old")
    shutil.copytree(path, aside / "run")
    partial = path.with_name("run.partial")
    partial.mkdir()
    left = set(run_condition(path).left)
    assert left == {
        path / COMMITTED, path / STAGED, path / ".graph.json.tmp", aside, partial,
    }  # fmt: skip
    shutil.rmtree(path)
    condition = run_condition(path)
    assert not condition.well
    assert {partial, aside} == set(condition.left)
    assert "not finished" in condition.sentence()


def test_runs_without_checksums_and_files_that_are_not_of_the_run(path):
    (path / "notes.txt").write_text("mine")
    states = {file.name: file.state for file in run_condition(path).files}
    assert states.pop("notes.txt") == "unknown"
    assert set(states.values()) == {"whole"}
    record = json.loads((path / "run.json").read_text())
    del record["files"], record["sha256"]
    (path / "run.json").write_text(json.dumps(record))
    condition = run_condition(path)
    assert condition.well
    assert "without checksums" in condition.sentence()
    assert {file.state for file in condition.files} == {"unknown"}


def test_what_is_no_run(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match="no run"):
            run_condition(path)
