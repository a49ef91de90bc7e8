"""How backends are found: by the entry-point group `libgraph.backends`.

The built-in ones register no differently from anyone's own; names are listed without importing
anything, and a backend that cannot be imported is told with its entry point and its distribution.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from libgraph.backend.contract import Backend
from libgraph.backend.options import near, parse_options
from libgraph.errors import BackendError, UsageError

ENTRY_POINTS = "libgraph.backends"


def check_backend_kind(backend: object) -> None:
    """Raise a `UsageError` for what is no backend, such as its name."""
    if not isinstance(backend, Backend):
        kind = type(backend).__name__
        raise UsageError(
            f"A backend is needed, not a {kind}: make one with libgraph.load_backend(name), or of "
            "a class of your own (docs/backends.md)."
        )


def backend_names() -> list[str]:
    """Names of all installed backends, without importing them."""
    return sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)})


def backend_class(name: str) -> type[Backend]:
    """Import the backend registered under `name`.

    Raises:
        BackendError: if there is none (the near names are given) or more than one, if it cannot be
            imported, or if it is none.
    """
    entry = _entry_point(name)
    try:
        loaded = entry.load()
    except ImportError as error:
        raise BackendError(
            f"The backend '{name}' cannot be imported ({error}): {_what_to_install(entry)}"
        ) from error
    except Exception as error:
        # Whatever the module of somebody else runs into.
        raise BackendError(
            f"The backend '{name}' cannot be imported, {type(error).__name__}: {error}. "
            f"{_origin(entry)}"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Backend)):
        raise BackendError(
            f"The backend '{name}' is {loaded!r}, not a subclass of libgraph.Backend. "
            f"{_origin(entry)}"
        )
    return loaded


def load_backend(name: str, **options: object) -> Backend:
    """Make the backend registered under `name` with these options (strings are converted).

    Raises:
        BackendError: if there is no such backend or it cannot be imported.
        UsageError: if an option is unknown or has a bad value.
    """
    kind = backend_class(name)
    return kind(parse_options(kind.Options, options, f"the backend '{name}'"))


def _entry_point(name: str) -> EntryPoint:
    installed = list(entry_points(group=ENTRY_POINTS))
    entries = {entry.value: entry for entry in installed if entry.name == name}
    if not entries:
        names = {entry.name for entry in installed}
        raise BackendError(f"There is no backend '{name}'{near(name, names, 'installed are')}")
    first, *others = entries.values()
    if others:
        origins = " ".join(_origin(entry) for entry in (first, *others))
        raise BackendError(
            f"{1 + len(others)} backends are called '{name}': uninstall all but one. {origins}"
        )
    return first


def _distribution(entry: EntryPoint) -> str | None:
    """What is installed that the entry point belongs to, if anything says so."""
    distribution = getattr(entry, "dist", None)
    return None if distribution is None else str(distribution.name)


def _origin(entry: EntryPoint) -> str:
    distribution = _distribution(entry)
    whose = "" if distribution is None else f" of '{distribution}'"
    return f"Its entry point is {entry.value}{whose}."


def _what_to_install(entry: EntryPoint) -> str:
    """Advice for a backend whose import fails, as the end of a sentence."""
    if _distribution(entry) == "libgraph":
        return f"pip install 'libgraph[{entry.name}]' brings what it needs."
    return f"install what it needs. {_origin(entry)}"
