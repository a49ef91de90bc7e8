"""A stranger's backend: the one in the documentation, installed as a package of its own."""

import json
import re
import sys
from pathlib import Path

import pytest

from libgraph.backend.registry import backend_names

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backends.md"
PACKAGE = "strangers_package"


def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def backends():
    """The code of the two backends, without what is done with them."""
    return [block for block in blocks() if re.search(r"^class \w+\(\w+\):", block, re.MULTILINE)]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The examples as a module, with the metadata that an installer writes."""
    (tmp_path / f"{PACKAGE}.py").write_text("\n".join(backends()), encoding="utf-8")
    metadata = tmp_path / f"{PACKAGE}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\nSummary: two layers\n"
    )
    (metadata / "entry_points.txt").write_text(
        f"[libgraph.backends]\ntwo-layer = {PACKAGE}:TwoLayer\ntrained = {PACKAGE}:Trained\n"
        f"gone = {PACKAGE}:Gone\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_it_imports_nothing_of_ours_but_the_two_faces():
    modules = re.findall(r"^(?:from|import) (libgraph[\w.]*)", "\n".join(backends()), re.MULTILINE)
    assert set(modules) == {"libgraph.backend", "libgraph.sections"}


def test_it_is_listed_and_analysed_by_the_command(installed, run, tmp_path):
    assert {"two-layer", "trained"} <= set(backend_names())
    code, out, _ = run("backends")
    assert code == 0
    # Its distribution says what it is: nothing of it is imported for the list.
    assert "two layers" in out
    assert f"{PACKAGE} 1.0" in out
    assert PACKAGE not in sys.modules
    code, out, _ = run("backends", "show", "two-layer")
    assert (code, "a random two-layer network" in out, "width" in out) == (0, True, True)
    code, out, _ = run("backends", "check", "two-layer", "-o", "width=3", "--samples", 3)
    assert (code, out) == (0, "The backend 'two-layer' keeps its contract.\n")
    code, out, err = run("analyze", "two-layer", "-o", "width=6", "--out", "run", "--quiet")
    assert code == 0, err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["node_layers"] == ["input", "hidden", "output"]


def test_it_is_trained_and_labelled_by_the_command(installed, run, tmp_path):
    code, out, err = run("train", "trained", "-o", "steps=5", "--out", "model", "--quiet")
    assert code == 0, err
    assert "test_loss" in out
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "model.safetensors", "training.json",
    }  # fmt: skip
    options = ("-o", "weights=model/model.safetensors", "--no-ablation", "--quiet")
    code, _, err = run("analyze", "trained", *options, "--out", "run")
    assert code == 0, err
    graph = json.loads((tmp_path / "run" / "graph.json").read_text())
    assert re.search(r"\d+% x[0-3]", json.dumps(graph))


def test_what_is_wrong_with_it_names_its_package(installed, run):
    code, _, err = run("analyze", "gone")
    assert code == 3
    text = " ".join(err.split())
    assert f"{PACKAGE}:Gone of '{PACKAGE}'" in text
    assert "Traceback" not in text
