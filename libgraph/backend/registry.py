"""How backends are found: by the entry-point group `libgraph.backends`.

The built-in ones register no differently from anyone's own; names are listed without importing
anything, and a backend that cannot be imported is told with its entry point.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from libgraph.backend.contract import Backend
from libgraph.backend.options import near, parse_options
from libgraph.errors import BackendError, UsageError

if TYPE_CHECKING:
    pass


ENTRY_POINTS = "libgraph.backends"


def check_backend_kind(backend: object) -> None:
    """Raise a `UsageError` for what is no backend, such as its name."""
    if not isinstance(backend, Backend):
        kind = type(backend).__name__
        raise UsageError(
            f"A backend is needed, not a {kind}: make one with libgraph.load_backend(name), or of "
            "a module of your own with libgraph_backends.mlp.MLP(module=…)."
        )


def backend_names() -> list[str]:
    """Names of all installed backends, without importing them."""
    return sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)})


def backend_class(name: str) -> type[Backend]:
    """Import the backend registered under `name`.

    Raises:
        BackendError: if there is none (the near names are given), or if it cannot be imported.
    """
    found: dict[str, EntryPoint] = {each.name: each for each in entry_points(group=ENTRY_POINTS)}
    if name not in found:
        raise BackendError(f"There is no backend '{name}'{near(name, found, 'installed are')}")
    try:
        loaded = found[name].load()
    except ImportError as error:
        raise BackendError(
            f"The backend '{name}' cannot be imported ({error}): install what it needs, "
            f"perhaps with: pip install 'libgraph[{name}]'."
        ) from error
    except Exception as error:
        # Whatever the module of somebody else runs into.
        raise BackendError(
            f"The backend '{name}' cannot be imported, {type(error).__name__}: {error}. Its entry "
            f"point is {found[name].value}."
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Backend)):
        raise BackendError(
            f"The entry point '{name}' is {loaded!r}, not a subclass of libgraph.Backend."
        )
    return loaded


def load_backend(name: str, **options: Any) -> Backend:
    """Make the backend registered under `name` with these options (strings are converted).

    Raises:
        BackendError: if there is no such backend or it cannot be imported.
        UsageError: if an option is unknown or has a bad value.
    """
    cls = backend_class(name)
    return cls(parse_options(cls.Options, options, f"the backend '{name}'"))
