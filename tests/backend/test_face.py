"""What whoever writes a backend imports: all is there, and nothing loads before its time."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from libgraph import backend


def declared():
    """The names that type checkers see."""
    tree = ast.parse(Path(backend.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname: (statement.module, alias.name)
        for statement in block.body
        for alias in statement.names
    }


def test_what_type_checkers_see_is_what_there_is():
    assert sorted(declared()) == backend.__all__ == dir(backend)
    for name, (module, original) in declared().items():
        assert name == original
        assert backend._HOMES[name] == module


@pytest.mark.parametrize("name", backend.__all__)
def test_every_name_is_that_of_its_module(name):
    value = getattr(backend, name)
    assert value is getattr(sys.modules[backend._HOMES[name]], name)
    assert vars(backend)[name] is value


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'libgraph\.backend' has no attribute 'Nope'"):
        _ = backend.Nope
    with pytest.raises(ImportError, match="Nope"):
        from libgraph.backend import Nope  # noqa: F401


def test_no_function_hides_its_module():
    for name in backend.__all__:
        assert not (Path(backend.__file__).parent / f"{name}.py").exists(), name


@pytest.mark.parametrize("name", ["Backend", "Batch", "TypedOptions", "BackendError", "Progress"])
def test_what_needs_no_torch_loads_none(name):
    """As long as `libgraph` itself loads lazily: its own imports are left out here."""
    code = f"""
import sys, types
package = types.ModuleType("libgraph")
package.__path__ = [{str(Path(backend.__file__).parents[1])!r}]
sys.modules["libgraph"] = package
from libgraph.backend import {name}
assert "torch" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
