"""What a function does, as a digest: so that results are computed anew where it has changed.

The code that Python runs counts, with all of its constants, and whatever it calls of its own module
or holds in a closure; comments, layout and names of files do not.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from types import CodeType, FunctionType, MethodType

from libgraph.backend.contract import Backend

PLAIN = (bool, int, float, complex, str, bytes, type(None))
"""Values that are said as they are."""

METHODS = ("score", "labels", "output_names", "logits", "show")
"""Of a backend, what decides scores and what is said of features."""


def backend_source(backend: Backend) -> str:
    """Digest of how a backend scores and labels, and of the values of its own that this uses."""
    return _digest(
        part
        for name in METHODS
        for part in (name, *_parts(getattr(type(backend), name), backend, set()))
    )


def source_of(function: Callable[..., object]) -> str:
    """Digest of what a function does."""
    return _digest(_parts(function, None, set()))


def _digest(parts: Iterator[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "backslashreplace") + b"\0")
    return digest.hexdigest()


def _parts(value: object, owner: object, seen: set[int]) -> Iterator[str]:
    """What tells a function, a class or a value from another one."""
    value = inspect.unwrap(value) if callable(value) else value
    if isinstance(value, PLAIN):
        yield repr(value)
    elif isinstance(value, (tuple, frozenset)):
        for item in value if isinstance(value, tuple) else sorted(value, key=repr):
            yield from _parts(item, owner, seen)
    elif id(value) in seen:
        return
    elif isinstance(value, FunctionType):
        seen.add(id(value))
        yield from _function(value, owner, seen)
    elif isinstance(value, (MethodType, partial)):
        seen.add(id(value))
        function = value.__func__ if isinstance(value, MethodType) else value.func
        yield from _parts(function, getattr(value, "__self__", None), seen)
        if isinstance(value, partial):
            named = [item for _, item in sorted(value.keywords.items())]
            yield from _parts((*value.args, *named), owner, seen)
    elif isinstance(value, type):
        yield f"{value.__module__}.{value.__qualname__}"


def _function(function: FunctionType, owner: object, seen: set[int]) -> Iterator[str]:
    names: set[str] = set()
    yield from _code(function.__code__, names)
    for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield from _parts(default, owner, seen)
    for cell in function.__closure__ or ():
        yield from _parts(_content(cell), owner, seen)
    for name in sorted(names):
        if name in function.__globals__:
            value = function.__globals__[name]
            # What other modules have is part of some version of them.
            if isinstance(value, (*PLAIN, tuple)) or _is_of(value, function.__module__):
                yield name
                yield from _parts(value, owner, seen)
        elif owner is not None:
            yield from _attribute(owner, name, seen)


def _attribute(owner: object, name: str, seen: set[int]) -> Iterator[str]:
    """A value that the object has for itself, or a method of its class.

    What it computes once and keeps is there at one time, and not at another.
    """
    if isinstance(inspect.getattr_static(type(owner), name, None), (property, cached_property)):
        return
    own = vars(owner).get(name) if hasattr(owner, "__dict__") else None
    if own is not None:
        yield name
        yield from _parts(own, owner, seen)
    elif isinstance(getattr(type(owner), name, None), FunctionType):
        yield name
        yield from _parts(getattr(type(owner), name), owner, seen)


def _code(code: CodeType, names: set[str]) -> Iterator[str]:
    """Instructions and constants, of functions within too; notes which names it uses."""
    names.update(code.co_names)
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant, names)
        elif constant != code.co_consts[0] or not isinstance(constant, str):
            # The first is the docstring, where there is one.
            yield _said(constant)


def _said(constant: object) -> str:
    """A constant as text; sets of texts have another order in every process."""
    if isinstance(constant, frozenset):
        return f"{{{', '.join(sorted(map(_said, constant)))}}}"
    if isinstance(constant, tuple):
        return f"({', '.join(map(_said, constant))})"
    return repr(constant)


def _content(cell: object) -> object:
    try:
        return cell.cell_contents  # type: ignore[attr-defined]
    except ValueError:
        return None


def _is_of(value: object, module: str) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module
