"""The plug-ins in `examples/`, found by entry points as if they were installed."""

import importlib
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import libgraph as lg
from libgraph.backend.registry import listed_backends
from libgraph.bases.method import BasisMethod
from libgraph.bases.methods import METHODS, basis_method
from libgraph.dictionaries.registry import read_dictionaries
from libgraph.errors import UsageError
from libgraph.testing import check_backend

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*/pyproject.toml"))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Both of them, and a basis that is none and one that cannot be imported."""
    lines = ["[libgraph.bases]\nbroken = no_such_module:METHOD\nnone = json:loads\n"]
    for path in EXAMPLES:
        monkeypatch.syspath_prepend(path.parent)
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        metadata = tmp_path / f"{project['name'].replace('-', '_')}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
            f"Summary: {project['description']}\n"
        )
        points = "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
            for group, entries in project["entry-points"].items()
        )
        (metadata / "entry_points.txt").write_text(points)
    other = tmp_path / "broken-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()


def test_a_backend_takes_less_than_sixty_lines():
    assert len((ROOT / "examples/adder/libgraph_adder.py").read_text().splitlines()) <= 60
    for path in EXAMPLES:
        assert list(path.parent.glob("test_*.py"))


def test_the_page_has_all_of_the_backend():
    page = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    for name in ("pyproject.toml", "libgraph_adder.py"):
        text = (ROOT / "examples/adder" / name).read_text(encoding="utf-8")
        assert f"```{ {'.py': 'python', '.toml': 'toml'}[Path(name).suffix] }\n{text}```" in page


def test_the_backend_is_listed_without_an_import_and_keeps_its_contract(installed):
    (adder,) = [backend for backend in listed_backends() if backend.name == "adder"]
    assert (adder.distribution, adder.version, adder.ours) == ("libgraph-adder", "1.0", False)
    assert adder.summary == "binary addition in smooth steps, by hand"
    assert "libgraph_adder" not in sys.modules
    backend = lg.load_backend("adder", bits="2")
    check_backend(backend)
    run = lg.analyze(backend, ablate=False)
    assert run.metrics.score.test == 1


def test_the_basis_is_one_of_all(installed, tmp_path):
    assert "libgraph_varimax" not in sys.modules
    assert [*METHODS][-3:] == ["broken", "none", "varimax"]
    assert isinstance(METHODS["varimax"], BasisMethod)
    # That of another version may be another basis.
    assert basis_method("varimax").digest == "libgraph-varimax 1.0"
    backend = lg.load_backend("mlp", samples=100, width=6, blocks=1)
    run = lg.analyze(backend, basis="varimax", ablate=False, out=tmp_path / "run")
    assert run.basis_names == ("varimax", "pca")
    assert lg.open_run(tmp_path / "run").basis == "varimax"


def test_what_is_no_basis_is_told_with_its_origin_and_hides_no_other(installed):
    with pytest.raises(UsageError, match=r"'broken' cannot be imported .*of 'broken'\.$"):
        METHODS["broken"]
    with pytest.raises(UsageError, match=r"'none' is <function loads.*json:loads of 'broken'\.$"):
        METHODS["none"]
    assert METHODS["pca"]


def test_the_reader_of_dictionaries_is_asked(installed, tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    arrays = {"encoder": np.eye(3, 5), "bias": np.zeros(5), "decoder": np.eye(5, 3)}
    np.savez(folder / "dictionary.npz", **arrays, shift=np.ones(3), hook="hidden1")
    (found,) = read_dictionaries(folder)
    assert (found.hook, found.size, found.latents) == ("hidden1", 3, 5)


def test_examples_need_the_distribution_by_its_name():
    for path in EXAMPLES:
        assert re.search(r'dependencies = \["libgraph-interp', path.read_text())
