"""One writer at a time: a lock beside a directory, taken by whoever changes what is in it."""

from __future__ import annotations

import errno
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from libgraph.errors import UsageError

log = logging.getLogger("libgraph")

NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems say that know no locks."""

NO_ROOM = {errno.EACCES, errno.EPERM, errno.EROFS}
"""What they say where nothing may be made beside a directory that may itself be changed."""


def lock_file(path: Path) -> Path:
    """The file whose lock is that of a directory."""
    return path.with_name(f".{path.name}.lock")


def acquire(lock: FileLock, path: Path, advice: str) -> None:
    """Take the lock of a directory.

    Raises:
        UsageError: if another process has it, with advice.
        OSError: if it cannot be taken, for other reasons than that there are no locks.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            lock.acquire()
    except Timeout:
        # Where no file can be made, such as in /proc, there is no other run.
        file = Path(lock.lock_file)
        if not file.exists():
            file.touch()
            file.unlink()
        raise UsageError(f"Another run is writing to '{path}': {advice}.") from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        log.info("'%s' is on a file system without locks.", path)


def release(lock: FileLock) -> None:
    """Give a lock back, and leave no file of it."""
    with suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a directory for a while.

    Raises:
        UsageError: if another process has it.
    """
    path = Path(os.path.realpath(path))
    lock = FileLock(lock_file(path), timeout=0)
    try:
        acquire(lock, path, "wait for it")
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
    try:
        yield
    finally:
        release(lock)
