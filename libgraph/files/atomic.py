"""Writing files: under their final name complete or not at all.

A file is written under a temporary name beside its own, flushed to the disk and renamed, so that
not even a power cut leaves half of it. What the system says when that fails becomes one sentence
that names the file and says what to do.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from libgraph.errors import UsageError
from libgraph.files.json_text import read_json_text


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` if the block ends well.

    Raises:
        UsageError: if the file cannot be written, saying why.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            # Some file systems know no permissions, and refuse to set any.
            with contextlib.suppress(OSError, NotImplementedError):
                temporary.chmod(0o666 & ~_umask())
            flush(temporary)
            os.replace(temporary, path)
            flush(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a failed write into one sentence about `path`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space" if full else "choose another place"
        raise UsageError(
            f"Cannot write '{path}' ({error.strerror or error}): {advice} and run again."
        ) from error


UNFLUSHED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM, errno.EISDIR}
"""What systems say that cannot flush such a file, or no directory at all."""


def flush(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk and not in the system's memory alone.

    Raises:
        OSError: if the disk fails, or is full.
    """
    try:
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        if error.errno not in UNFLUSHED:
            raise


def write_json(path: Path, value: object) -> None:
    """Write JSON in order and indented, for people and scripts."""
    with writing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _umask() -> int:
    # It can only be read by setting it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def read_json(path: Path) -> Any:
    """Read a JSON file of a run.

    Raises:
        UsageError: if the file is missing or damaged.
    """
    try:
        return read_json_text(path)
    except (ValueError, OSError) as error:
        raise UsageError(f"'{path}' cannot be read ({error}): delete it and run again.") from None


def read_parts(path: Path) -> dict[str, Any]:
    """What several stages keep in one JSON file, by name; nothing where it is missing or damaged.

    What is lost then is computed again, and the rest is held against its checksums.
    """
    try:
        document = read_json_text(path)
    except (ValueError, OSError):
        return {}
    return document if isinstance(document, dict) else {}
