"""Questions to a run that take long, and go on where they were interrupted.

What is half done is kept in a hidden folder of the run, once a minute and where the command is
interrupted; it is named after all that the answer depends on, and goes when that is there. In a run
that cannot be written nothing is kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from pydantic import JsonValue

from libgraph.accumulate.halfway import Halfway, halfway
from libgraph.accumulate.ranks import ranks
from libgraph.errors import UsageError
from libgraph.files.locks import acquire, release
from libgraph.files.run_directory import ASKED, hash_of
from libgraph.interventions.subject import Subject
from libgraph.pipeline.workload import Workload

if TYPE_CHECKING:
    from libgraph.runs.run import Run

log = logging.getLogger("libgraph")


@contextmanager
def going_on(
    run: Run, question: Mapping[str, JsonValue], subject: Subject, workload: Workload | None
) -> Iterator[None]:
    """Have what is computed in the block kept in the run until the block ends well.

    Args:
        run: that is asked; one in memory keeps nothing.
        question: all of it.
        subject: on what data it is answered.
        workload: that the subject is from; nothing is kept of others.
    """
    record = getattr(run, "record", None)
    if record is None or workload is None or run.directory is None or ranks() != (0, 1):
        yield
        return
    facts = workload.facts(subject.data, subject.reference)
    digest = hash_of(question, {**record}, facts)
    place = _Beside(run.directory / f"{ASKED}-{digest[:16]}", digest)
    try:
        with halfway(place):
            yield
        place.remove()
    except (KeyboardInterrupt, MemoryError):
        if place.wrote:
            log.warning("What is done is kept in '%s': the same goes on there.", place.directory)
        raise
    finally:
        place.leave()


class _Beside(Halfway):
    """In a folder that is made when there is something to keep, and is one process's at a time."""

    def __init__(self, directory: Path, digest: str) -> None:
        self._lock = FileLock(directory / ".lock", timeout=0)
        self._mine: bool | None = None
        super().__init__(directory, "question", digest)

    def save(self) -> None:
        """As of a stage, but that an answer is worth more than what is half done."""
        self._saved_at = time.monotonic()
        if not self._claim():
            return
        try:
            super().save()
        except UsageError as error:
            log.warning("What is half done is not kept: %s", error)
            self._mine = False

    def remove(self) -> None:
        """Remove all that is kept, whoever kept it."""
        if self.directory.is_dir() and self._claim():
            with suppress(OSError):
                self.clear()
                for left in self.directory.glob(".*.tmp"):
                    left.unlink()
                self.leave()
                self.directory.rmdir()

    def leave(self) -> None:
        """Let another process go on."""
        if self._lock.is_locked:
            release(self._lock)

    def _claim(self) -> bool:
        """Whether the folder is there and this process's; it is asked for once."""
        if self._mine is None:
            try:
                self.directory.mkdir(exist_ok=True)
                acquire(self._lock, self.directory, "wait for it")
                self._mine = True
            except (OSError, UsageError) as error:
                log.info("What is half done is not kept: %s", error)
                self._mine = False
        return self._mine
