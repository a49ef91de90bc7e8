"""The house as it is installed: every package is listed, every module says what it is."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"libgraph": "libgraph", "libgraph_backends": "backends", "libgraph_cli": "cli"}
MODULES = sorted(path for folder in FOLDERS.values() for path in (ROOT / folder).rglob("*.py"))
LONGEST = 400


def test_all_packages_are_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    packages = [
        ".".join([name, *path.parent.relative_to(ROOT / folder).parts])
        for name, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("__init__.py")
    ]
    assert sorted(listed) == sorted(packages)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_say_what_they_are_and_stay_short(path):
    text = path.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring
    assert docstring[0].isupper() or docstring[0] in "`:"
    assert len(text.splitlines()) <= LONGEST


def test_a_face_hides_none_of_its_modules():
    for path in MODULES:
        if path.name == "__init__.py":
            beside = {other.stem for other in path.parent.iterdir() if other.name != path.name}
            imports = (n for n in ast.walk(ast.parse(path.read_text())) if hasattr(n, "names"))
            names = {alias.asname or alias.name for node in imports for alias in node.names}
            assert not names & beside, path
