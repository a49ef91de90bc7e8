"""What `import libgraph` offers, and what it costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import libgraph

ROOT = Path(__file__).resolve().parents[1]
STUB = ast.parse((ROOT / "libgraph" / "__init__.pyi").read_text(encoding="ascii"))

HOMES = {
    name.name: f"libgraph.{node.module}" if node.module else "libgraph"
    for node in STUB.body
    if isinstance(node, ast.ImportFrom)
    for name in node.names
}
"""The module that defines each public name."""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["libgraph", "libgraph.errors", "libgraph.backend"])
def test_an_import_costs_no_torch(module):
    heavy = "[m for m in ('torch', 'numpy', 'pydantic', 'igraph') if m in sys.modules]"
    assert python(f"import sys, {module}; print({heavy})") == "[]"


def test_an_import_takes_less_than_a_tenth_of_a_second():
    code = (
        "import time; began = time.process_time(); import libgraph; "
        "print(time.process_time() - began)"
    )
    assert min(float(python(code)) for _ in range(3)) < 0.1


@pytest.mark.parametrize("name", HOMES)
def test_a_name_is_what_its_module_defines(name):
    home = importlib.import_module(HOMES[name])
    assert getattr(libgraph, name) is getattr(home, name)
    module = getattr(getattr(libgraph, name), "__module__", HOMES[name])
    assert module == HOMES[name], "the list names a module that only hands it on"


def test_the_list_is_complete_and_in_order():
    (declared,) = [node.value for node in STUB.body if isinstance(node, ast.Assign)]
    names = ast.literal_eval(declared)
    assert names == sorted(HOMES) == sorted(libgraph.__all__) == sorted(dir(libgraph))
    offered: dict[str, object] = {}
    exec("from libgraph import *", offered)  # noqa: S102
    assert set(names) == set(offered) - {"__builtins__"}
    with pytest.raises(AttributeError, match="SkipMLP"):
        libgraph.SkipMLP  # noqa: B018  # Structures are in `libgraph.sections`.


def test_the_list_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "*.pyi" in settings["tool"]["setuptools"]["package-data"]["libgraph"]
