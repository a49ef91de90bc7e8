"""How backends are found: by the entry-point group `libgraph.backends`.

The built-in ones register no differently from anyone's own; names are listed without importing
anything, and a backend that cannot be imported is told with its entry point and its distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from libgraph.backend.contract import Backend
from libgraph.backend.options import near, parse_options
from libgraph.errors import BackendError, UsageError
from libgraph.installed import DISTRIBUTION
from libgraph.plugins import distribution_of, load, only, origin

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
    loaded = load(entry, "backend", BackendError)
    if not (isinstance(loaded, type) and issubclass(loaded, Backend)):
        raise BackendError(
            f"The backend '{name}' is {loaded!r}, not a subclass of libgraph.Backend. "
            f"{origin(entry)}"
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


@dataclass(frozen=True)
class Listed:
    """What is known of an installed backend without importing anything of a stranger's.

    Args:
        name: of the backend.
        entry_point: the class, as `module:Class`.
        distribution: that it is of, if anything says so.
        version: of the distribution.
        summary: of the backend itself if it is one of ours, else of its distribution.
    """

    name: str
    entry_point: str
    distribution: str | None
    version: str | None
    summary: str

    @property
    def ours(self) -> bool:
        """Whether it came with libgraph."""
        return self.distribution == DISTRIBUTION


def listed_backends() -> list[Listed]:
    """All installed backends by name; plug-ins are not imported.

    Of ours the class is, which says what it analyses; what its import lacks is its summary then.
    """
    named: dict[tuple[str, str], EntryPoint] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        named.setdefault((entry.name, entry.value), entry)
    return [_listed(named[key]) for key in sorted(named)]


def _listed(entry: EntryPoint) -> Listed:
    distribution = distribution_of(entry)
    if distribution == DISTRIBUTION or distribution is None:
        try:
            summary = backend_class(entry.name).summary
        except BackendError as error:
            # One that is broken does not hide the others.
            summary = str(error)
    else:
        told = entry.dist.metadata if entry.dist else {}
        summary = str(told["Summary"]) if "Summary" in told else ""
    version = None if distribution is None or not entry.dist else str(entry.dist.version)
    return Listed(entry.name, entry.value, distribution, version, summary)


def _entry_point(name: str) -> EntryPoint:
    installed = list(entry_points(group=ENTRY_POINTS))
    entry = only(name, installed, "backends", BackendError)
    if entry is None:
        names = {entry.name for entry in installed}
        raise BackendError(f"There is no backend '{name}'{near(name, names, 'installed are')}")
    return entry
