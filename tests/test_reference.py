"""What the reference says of public names: arguments, shapes, errors, sources."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import libgraph
from libgraph.sections import Section

FACES = ("libgraph", "libgraph.backend", "libgraph.sections", "libgraph.testing")
ERRORS = r"UsageError|BackendError|DataError|NumericalError|MissingExtra|TooLarge|ValueError"
ROOT = Path(libgraph.__file__).resolve().parents[1]


def public() -> Iterator[tuple[str, Callable[..., object]]]:
    """Functions and classes by name, each once."""
    seen: set[int] = set()
    for face in FACES:
        module = importlib.import_module(face)
        for name in module.__all__:
            value = getattr(module, name)
            ours = str(getattr(value, "__module__", "")).startswith("libgraph")
            if callable(value) and ours and not inspect.ismodule(value) and id(value) not in seen:
                seen.add(id(value))
                yield f"{face}.{name}", value
    # What the site has besides.
    pages = (ROOT / "docs" / "_site" / "pages.py").read_text(encoding="utf-8")
    for listed in re.findall(r"^(?:TYPES|PLUGINS) = \((.*?)^\)", pages, re.MULTILINE | re.DOTALL):
        for whole in re.findall(r'"(.+)"', listed):
            module, _, name = whole.rpartition(".")
            yield whole, getattr(importlib.import_module(module), name)


PUBLIC = dict(public())


def parameters(value: Callable[..., object]) -> list[inspect.Parameter]:
    """Those that are given by name or place; of options, each says what it is itself."""
    told_elsewhere = (BaseException,)
    if inspect.isclass(value) and (
        issubclass(value, told_elsewhere) or hasattr(value, "model_fields")
    ):
        return []
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = inspect.signature(value).parameters.values()
    return [p for p in found if p.name != "self" and p.kind not in kinds]


def methods(value: object) -> Iterator[tuple[str, Callable[..., object]]]:
    for name, member in vars(value).items():
        function = getattr(member, "__func__", getattr(member, "fget", member))
        if not name.startswith("_") and inspect.isfunction(function):
            yield name, function


def lacks_errors(function: Callable[..., object]) -> bool:
    """Whether it raises what its docstring does not say."""
    source, words = inspect.getsource(function), inspect.getdoc(function) or ""
    raises = re.search(rf"\braise ({ERRORS})\(", source)
    return bool(raises) and not re.search(rf"Raises:|{ERRORS}", words)


@pytest.mark.parametrize("name", PUBLIC)
def test_arguments_errors_and_shapes_are_told(name):
    value = PUBLIC[name]
    words = inspect.getdoc(value) or ""
    assert words
    wanted = parameters(value)
    if len(wanted) > 1:
        told = {match[1] for match in re.finditer(r"^\s+\*?(\w+): ", words, re.MULTILINE)}
        assert not {p.name for p in wanted} - told
    if inspect.isfunction(value):
        assert not lacks_errors(value)
        for parameter in wanted:
            if parameter.annotation in ("Tensor", "torch.Tensor"):
                assert re.search(rf"{parameter.name}: .*`?\(", words), parameter


@pytest.mark.parametrize("name", [name for name in PUBLIC if inspect.isclass(PUBLIC[name])])
def test_methods_say_what_they_do_and_raise(name):
    value = PUBLIC[name]
    for method, function in methods(value):
        bases = [getattr(base, method, None) for base in value.__mro__[1:]]
        inherited = any(base is not None and inspect.getdoc(base) for base in bases)
        assert inspect.getdoc(function) or inherited, method
        assert inherited or not lacks_errors(function), method


@pytest.mark.parametrize(
    "name", [name for name, value in PUBLIC.items() if isinstance(value, type) and
             issubclass(value, Section) and not inspect.isabstract(value)]
)  # fmt: skip
def test_structures_name_the_source_of_their_formulas(name):
    home = ROOT / Path(*PUBLIC[name].__module__.split(".")).with_suffix(".py")
    text = home.read_text(encoding="utf-8")
    assert re.search(r"docs/math\.md|arXiv|doi|Source:", text), home


INTERNAL = {"Engine", "Estimate", "KeptInputs", "Layout", "Picture", "Storage"}
"""Classes in signatures that nobody has to make or to look into."""


def named(module: str) -> dict[str, object]:
    """Classes of ours by the names that a module knows them by, as annotations do."""
    tree = ast.parse(Path(importlib.import_module(module).__file__ or "").read_text("utf-8"))
    homes = {node.name: module for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("libgraph"):
            homes |= {name.name: str(node.module) for name in node.names}
    found = {name: getattr(importlib.import_module(home), name, 0) for name, home in homes.items()}
    return {name: value for name, value in found.items() if inspect.isclass(value)}


@pytest.mark.parametrize("name", PUBLIC)
def test_classes_in_signatures_are_told_too(name):
    value = PUBLIC[name]
    known = {id(other) for other in PUBLIC.values()}
    functions = [function for _, function in methods(value)] if inspect.isclass(value) else [value]
    names = named(value.__module__)
    for function in functions:
        signature = inspect.signature(function)
        for annotation in (signature.return_annotation, *signature.parameters.values()):
            for word in re.findall(r"\w+", str(annotation)):
                told = word not in names or id(names[word]) in known or word in INTERNAL
                assert told, f"{function.__qualname__}: {word}"
