"""What somebody names in code of their own: `package.module:name` or `file.py:name`.

Only what is named is imported, with the working directory among the places that are looked in, as
Python does for scripts.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from libgraph.backend import BackendError, LibgraphError, UsageError


def named(place: str, option: str) -> object:
    """What `place` names, imported.

    Args:
        place: `package.module:name` or `file.py:name`.
        option: that it was given as, for messages.

    Raises:
        UsageError: if it is not of that form.
        BackendError: if there is no such module, file or name, or importing it fails.
    """
    module_name, colon, name = place.rpartition(":")
    if not colon or not module_name or not all(p.isidentifier() for p in name.split(".")):
        raise UsageError(
            f"{option}={place} is no place in code: use {option}=package.module:name or "
            f"{option}=file.py:name."
        )
    module = _file(module_name, option) if module_name.endswith(".py") else _module(module_name)
    found: object = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = [key for key in vars(module) if not key.startswith("_")]
            raise BackendError(
                f"There is no '{name}' in '{module_name}'; there are {', '.join(known[:12])}."
            )
        found = getattr(found, part)
    return found


def _module(name: str) -> ModuleType:
    with _looking_in(Path.cwd()):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
                raise BackendError(
                    f"There is no module '{error.name}' here or among what is installed: run in "
                    "its folder, or give the file, as file.py:name."
                ) from None
            raise _failed(name, error) from error
        except Exception as error:
            raise _failed(name, error) from error


def _file(path: str, option: str) -> ModuleType:
    file = Path(path).expanduser()
    if not file.is_file():
        raise BackendError(f"There is no file '{path}', which {option}= names.")
    name = f"libgraph_own_{abs(hash(str(file.resolve())))}"
    if name in sys.modules:
        return sys.modules[name]
    specification = importlib.util.spec_from_file_location(name, file)
    if specification is None or specification.loader is None:
        raise BackendError(f"'{path}' cannot be imported: is it Python?")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    with _looking_in(file.resolve().parent):
        try:
            specification.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[name]
            if not isinstance(error, Exception):
                raise
            raise _failed(path, error) from error
    return module


def called(place: str, function: object, **arguments: object) -> object:
    """What somebody's function returns.

    Raises:
        BackendError: naming the line where it fails.
    """
    with _looking_in(Path.cwd()):
        try:
            return function(**arguments)  # type: ignore[operator]
        except LibgraphError:
            raise
        except Exception as error:
            raise _failed(place, error) from error


def _failed(place: str, error: Exception) -> BackendError:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "libgraph" not in f.filename]
    own = [f for f in frames if "importlib" not in f.filename and not f.filename.startswith("<")]
    line = f" (at {own[-1].filename}:{own[-1].lineno})" if own else ""
    text = " ".join(str(error).split())[:160]
    return BackendError(f"'{place}' fails with {type(error).__name__}: {text}{line}.")


@contextmanager
def _looking_in(folder: Path) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, os.fspath(folder))
    try:
        yield
    finally:
        sys.path[:] = before
