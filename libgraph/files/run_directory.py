"""The directory of a run while it is made.

It grows under the name `NAME.partial`, one finished stage at a time, and is renamed when the run is
complete; a stage is kept with the hash of all it depends on, so that an interrupted or repeated run
does not compute it again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from typing import TypedDict

from filelock import FileLock, Timeout

from libgraph.errors import UsageError
from libgraph.files.atomic import explained, write_json

log = logging.getLogger("libgraph")


class StageRecord(TypedDict):
    """What is kept of a finished stage: a hash of all that it depends on, and how long it took."""

    hash: str
    seconds: float


def hash_of(*parts: object) -> str:
    """SHA-256 of anything that JSON can say."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


STAGE_FILES = (
    "bases.safetensors",
    "edges.safetensors",
    "halves.safetensors",
    "ablation.json",
    "examples.safetensors",
    "significance.json",
    "degeneracy.json",
    "run.json",
)
"""What a run that replaces another may reuse."""

NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems say that know no locks."""


@contextlib.contextmanager
def unused_directory(path: Path) -> Iterator[Path]:
    """The path, or with a number after it the first one that no run has, inside of the block.

    The lock of the run to be is what claims it, so that two that ask at once are told two.

    Raises:
        UsageError: if nothing can be written there.
    """
    for number in count(1):
        chosen = path if number == 1 else path.with_name(f"{path.name}-{number}")
        with explained(chosen):
            chosen.parent.mkdir(parents=True, exist_ok=True)
            if chosen.exists() or _partial(chosen).exists():
                continue
            try:
                _lock_file(chosen).touch(exist_ok=False)
            except FileExistsError:
                continue
        break
    try:
        yield chosen
    finally:
        with contextlib.suppress(OSError):
            _lock_file(chosen).unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


class RunDirectory:
    """Where the results of one run go.

    Args:
        path: the final name.
        force: whether a complete run of that name may be replaced; its stages are then reused
            where nothing that they depend on has changed.

    Raises:
        UsageError: if the name is taken and `force` is not set, or nothing can be written there.
    """

    def __init__(self, path: Path, *, force: bool = False) -> None:
        if not path.name or "\0" in str(path):
            raise UsageError(f"'{path}' is no name for a run directory: choose another out='…'.")
        with explained(path):
            # A link stays one: what it leads to is replaced.
            path = path.resolve() if path.is_symlink() else path
            self.path, self.force = path, force
            self.partial = _partial(path)
            self._refuse_to_replace()
            if path.exists() and not (path / "run.json").is_file():
                raise UsageError(f"'{path}' is not a run directory: choose another out='…'.")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(_lock_file(path), timeout=0)
            self._acquire()
            try:
                self.resumed = self.partial.is_dir()
                self.partial.mkdir(exist_ok=True)
                if path.exists() and not self.resumed:
                    for name in STAGE_FILES:
                        if (path / name).is_file():
                            self._take_over(path / name)
            except BaseException:
                self._unlock()
                raise
        self._stages: dict[str, StageRecord] = {}
        with contextlib.suppress(OSError, ValueError, AttributeError, KeyError, TypeError):
            record = json.loads((self.partial / "run.json").read_text(encoding="utf-8"))
            self._stages = {
                name: StageRecord(hash=entry["hash"], seconds=entry["seconds"])
                for name, entry in record["stages"].items()
            }

    @property
    def stages(self) -> Mapping[str, StageRecord]:
        """Hash and seconds of every finished stage."""
        return self._stages

    def file(self, name: str) -> Path:
        """Where a file of the run is while the run goes on."""
        return self.partial / name

    def finished(self, stage: str, digest: str) -> bool:
        """Whether this very stage was finished before, by this or an earlier run."""
        return stage in self._stages and self._stages[stage]["hash"] == digest

    def finish(self, stage: str, digest: str, seconds: float) -> None:
        """Record that the files of a stage are complete."""
        self._stages[stage] = {"hash": digest, "seconds": round(seconds, 3)}
        write_json(self.file("run.json"), {"complete": False, "stages": self._stages})

    def complete(self, record: Mapping[str, object]) -> None:
        """Write `run.json` and give the directory its final name."""
        self._refuse_to_replace()
        write_json(self.file("run.json"), {**record, "complete": True, "stages": self._stages})
        with explained(self.path):
            # A name of its own for what is replaced: no directory of the user's is in the way.
            aside = Path(mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
            if self.path.exists():
                os.replace(self.path, aside / self.path.name)
            os.replace(self.partial, self.path)
            shutil.rmtree(aside, ignore_errors=True)
        self._unlock()

    def keep(self) -> None:
        """Have what is there kept when the run is abandoned, though no stage is finished."""
        self.resumed = True

    def abandon(self) -> bool:
        """Remove the partial directory if this run made it and finished no stage.

        Returns:
            Whether one is left.
        """
        if not self._stages and not self.resumed:
            shutil.rmtree(self.partial, ignore_errors=True)
        self._unlock()
        return self.partial.exists()

    def _refuse_to_replace(self) -> None:
        if self.path.exists() and not self.force:
            raise UsageError(
                f"'{self.path}' exists: use force=True to replace it, or another out='…'."
            )

    def _take_over(self, file: Path) -> None:
        """Copy a file of the run that is replaced; what cannot be read is computed again."""
        try:
            file.open("rb").close()
        except OSError as error:
            log.warning("'%s' cannot be read (%s): it is made again.", file, error.strerror)
            return
        # The content alone: some file systems know no permissions and no times to keep.
        shutil.copyfile(file, self.partial / file.name)

    def _acquire(self) -> None:
        try:
            with warnings.catch_warnings(action="ignore"):
                self._lock.acquire()
        except Timeout:
            # Where no file can be made, such as in /proc, there is no other run.
            file = Path(self._lock.lock_file)
            if not file.exists():
                file.touch()
                file.unlink()
            raise UsageError(
                f"Another run is writing to '{self.path}': wait for it, or choose another out='…'."
            ) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            log.info("'%s' is on a file system without locks.", self.path)

    def _unlock(self) -> None:
        with contextlib.suppress(OSError):
            Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()
