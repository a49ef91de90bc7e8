"""What other distributions add by entry points: whose it is, and how it is loaded.

Names are listed without importing anything. What cannot be imported is told with its entry point
and its distribution, which is the one to mend.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint

from libgraph.errors import LibgraphError
from libgraph.installed import DISTRIBUTION, extras, install_extra


def distribution_of(entry: EntryPoint) -> str | None:
    """What is installed that the entry point belongs to, if anything says so."""
    distribution = getattr(entry, "dist", None)
    return None if distribution is None else str(distribution.name)


def origin(entry: EntryPoint) -> str:
    """A sentence on where it comes from."""
    distribution = distribution_of(entry)
    whose = "" if distribution is None else f" of '{distribution}'"
    return f"Its entry point is {entry.value}{whose}."


def only(
    name: str, entries: Iterable[EntryPoint], kinds: str, error: type[LibgraphError]
) -> EntryPoint | None:
    """The entry point of that name, if there is one; installed twice it is still one.

    Args:
        name: wanted.
        entries: all of their group.
        kinds: what they are, such as `backends`.
        error: to raise.

    Raises:
        LibgraphError: of the type `error`, if there are several.
    """
    named: dict[str, EntryPoint] = {}
    for entry in entries:
        if entry.name == name:
            # Of two installations the first one on the path is imported.
            named.setdefault(entry.value, entry)
    if len(named) > 1:
        origins = " ".join(map(origin, named.values()))
        raise error(f"{len(named)} {kinds} are called '{name}': uninstall all but one. {origins}")
    return next(iter(named.values()), None)


def load(entry: EntryPoint, kind: str, error: type[LibgraphError]) -> object:
    """Import what the entry point names.

    Args:
        entry: to load.
        kind: what it is, such as `backend`.
        error: to raise.

    Raises:
        LibgraphError: of the type `error`, if it cannot be imported.
    """
    try:
        return entry.load()
    except ImportError as reason:
        raise error(
            f"The {kind} '{entry.name}' cannot be imported ({reason}): {_what_to_install(entry)}"
        ) from reason
    except Exception as reason:
        # Whatever the module of somebody else runs into.
        raise error(
            f"The {kind} '{entry.name}' cannot be imported, {type(reason).__name__}: {reason}. "
            f"{origin(entry)}"
        ) from reason


def _what_to_install(entry: EntryPoint) -> str:
    """Advice where an import fails, as the end of a sentence."""
    distribution = distribution_of(entry)
    if distribution == DISTRIBUTION and entry.name in extras():
        return f"what it needs comes with {install_extra(entry.name)}."
    needed = "it" if distribution is None else f"'{distribution}'"
    return f"install what {needed} needs. {origin(entry)}"
