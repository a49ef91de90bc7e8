"""Functions with the tensors that they hold moved to another device or precision.

A closure is no module: what it holds would stay as it is while everything around it is cast. It is
made again, of the same code, with copies of what it holds.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import Tensor, nn

Move = Callable[[Tensor], Tensor]


def moved(function: Callable[..., Any], move: Move) -> Callable[..., Any]:
    """The function with tensors and modules that it holds moved; itself, if it holds none."""
    if isinstance(function, functools.partial):
        inner = moved(function.func, move)
        args = tuple(_moved(arg, move) for arg in function.args)
        keywords = {name: _moved(arg, move) for name, arg in function.keywords.items()}
        return functools.partial(inner, *args, **keywords)
    if isinstance(function, types.MethodType):
        owner = _moved(function.__self__, move)
        return (
            function if owner is function.__self__ else types.MethodType(function.__func__, owner)
        )
    if not isinstance(function, types.FunctionType):
        return function
    cells = function.__closure__ or ()
    contents = [_content(cell) for cell in cells]
    changed = [_moved(content, move) for content in contents]
    defaults = tuple(_moved(value, move) for value in function.__defaults__ or ())
    same = all(a is b for a, b in zip(contents, changed, strict=True))
    if same and all(a is b for a, b in zip(function.__defaults__ or (), defaults, strict=True)):
        return function
    made = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        defaults or None,
        tuple(
            cell if a is b else types.CellType(b)
            for cell, a, b in zip(cells, contents, changed, strict=True)
        ),
    )
    made.__kwdefaults__, made.__qualname__ = function.__kwdefaults__, function.__qualname__
    return made


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        # Not filled yet, as in a function that calls itself.
        return None


def _moved(value: Any, move: Move) -> Any:
    """Tensors and modules moved, and those in lists and mappings; others as they are."""
    if isinstance(value, Tensor):
        other = move(value.detach())
        same = other.dtype == value.dtype and other.device == value.device
        return value if same else other
    if isinstance(value, nn.Module):
        return deepcopy(value)._apply(move)
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        parts = [_moved(part, move) for part in value]
        same = all(a is b for a, b in zip(value, parts, strict=True))
        return value if same else type(value)(parts)
    if type(value) is dict:
        made = {key: _moved(part, move) for key, part in value.items()}
        return value if all(made[key] is value[key] for key in made) else made
    if isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
        return moved(value, move)
    return value
