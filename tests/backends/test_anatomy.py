"""Backends are built alike, know nothing of each other, and show their options without torch."""

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import libgraph_backends

ROOT = Path(libgraph_backends.__file__).parent
BACKENDS = sorted(path.name for path in ROOT.iterdir() if (path / "backend.py").is_file())
PARTS = {"__init__.py", "backend.py", "options.py", "network.py", "labels.py", "training.py"}


def imports(path):
    """Every module that a file imports from."""
    return set(re.findall(r"^\s*(?:from|import) ([\w.]+)", path.read_text("utf-8"), re.MULTILINE))


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_has_the_same_parts(name):
    files = {path.name for path in (ROOT / name).iterdir()}
    assert files & {"data.py", "text.py"}
    if name == "pytorch":
        # Models of others: they bring weights, and are trained where they come from.
        assert files >= PARTS - {"training.py"}
        return
    assert files >= PARTS
    assert (ROOT / name / "weights" / "README.md").is_file()


def test_every_backend_is_registered():
    packages = {
        entry.value.split(":")[0].rpartition(".")[2]
        for entry in entry_points(group="libgraph.backends")
        if entry.value.startswith("libgraph_backends.")
    }
    assert packages == set(BACKENDS)


@pytest.mark.parametrize("name", BACKENDS)
def test_backends_know_nothing_of_each_other(name):
    for path in (ROOT / name).glob("*.py"):
        for module in imports(path):
            if module.startswith("libgraph_backends"):
                assert module.split(".")[1] in (name, "shared"), f"{path}: {module}"


@pytest.mark.parametrize("name", [*BACKENDS, "shared"])
def test_backends_import_what_anyone_may(name):
    """Of the core only what a stranger imports too; options take what needs no torch."""
    for path in (ROOT / name).glob("*.py"):
        core = {module for module in imports(path) if module.split(".")[0] == "libgraph"}
        allowed = {"libgraph", "libgraph.backend", "libgraph.sections"}
        if path.name == "options.py":
            allowed |= {"libgraph.backend.options", "libgraph.errors"}
        assert core <= allowed, path


def test_options_and_lists_of_backends_need_no_torch():
    """As long as `libgraph` itself loads lazily: its own imports are left out here."""
    code = f"""
import sys, types
package = types.ModuleType("libgraph")
package.__path__ = [{str(Path(sys.modules["libgraph"].__file__).parent)!r}]
package.__version__ = "0"
sys.modules["libgraph"] = package
from libgraph.backend.registry import backend_class, backend_names
for name in backend_names():
    kind = backend_class(name)
    print(name, kind.summary, *kind.Options.model_fields)
    print(*(kind.Training.model_fields if kind.Training else ()))
heavy = {{"torch", "transformers", "transformer_lens", "sklearn", "numpy"}} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in ("cifar", "frac_train", "n_ctx", "strengths"))
