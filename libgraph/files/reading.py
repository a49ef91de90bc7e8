"""Reading what users name: what the system says when that fails becomes one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from libgraph.errors import LibgraphError


@contextlib.contextmanager
def reading(path: str | Path, kind: type[LibgraphError], what: str = "") -> Iterator[None]:
    """Turn a failed look at a path, or a failed read, into one sentence about it.

    A folder that may not be looked into, or a name that is too long, raises already where it is
    only asked whether something is there.

    Args:
        path: what is read.
        kind: error to raise, which says the exit code.
        what: the path is, such as `"The text "`.
    """
    try:
        yield
    except OSError as error:
        raise unreadable(path, kind, error, what) from error


def unreadable(
    path: str | Path, kind: type[LibgraphError], error: OSError, what: str = ""
) -> LibgraphError:
    """The sentence on a path that the system does not let read; see `reading`.

    Args:
        path: that was to be read.
        kind: of the error that is made.
        error: of the system.
        what: the sentence begins with, such as "The model ".
    """
    reason = error.strerror or str(error) or type(error).__name__
    return kind(f"{what}'{path}' cannot be read ({reason}): check the path and its permissions.")
