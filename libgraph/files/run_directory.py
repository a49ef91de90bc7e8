"""The directory of a run while it is made.

It grows under the name `NAME.partial`, one finished stage at a time, and is renamed when the run is
complete; a stage is kept with the hash of all it depends on, so that an interrupted or repeated run
does not compute it again.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from tempfile import mkdtemp

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from libgraph.errors import DamagedFile, UsageError
from libgraph.files.atomic import explained, flush, write_json
from libgraph.files.json_text import read_json_text
from libgraph.files.locks import acquire, lock_file, locked, release
from libgraph.files.manifest import (
    RECORD,
    Digest,
    FileRecord,
    as_json,
    digest_of,
    digest_of_value,
    finish_change,
    own_files,
    read_record,
    signed,
)

log = logging.getLogger("libgraph")


class StageRecord(BaseModel):
    """What is kept of a finished stage.

    Attributes:
        hash: of all that it depends on.
        seconds: how long it took.
        file: what its result is in; None in records of earlier versions.
        part: what of that file, if others are in it.
        sha256: of the file, or of what the part says.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    hash: str
    seconds: float = Field(ge=0, allow_inf_nan=False)
    file: str | None = None
    part: str | None = None
    sha256: Digest | None = None


def hash_of(*parts: object) -> str:
    """SHA-256 of anything that JSON can say."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


HALFWAY = "halfway"
"""What names begin with of files in which a stage keeps work that is half done."""

BUDGET = "memory_budget"
"""What it is called in the record by how many bytes of memory a run went."""

ASKED = ".asked"
"""What names begin with of folders in a run in which questions keep what is half done."""

ASIDE = ".old"
"""What names end with of folders that hold a run while another one takes its place."""


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
                lock_file(chosen).touch(exist_ok=False)
            except FileExistsError:
                continue
        break
    try:
        yield chosen
    finally:
        with contextlib.suppress(OSError):
            lock_file(chosen).unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


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
            path = Path(os.path.realpath(path)) if path.is_symlink() else path
            if path.is_symlink():
                raise UsageError(f"'{path}' is a link to itself: choose another out='…'.")
            self.path, self.force = path, force
            self.partial = _partial(path)
            if path.exists() and not force and (asides(path) or lock_file(path).exists()):
                # Of one that was killed when the run was in its place already.
                with contextlib.suppress(UsageError), locked(path):
                    put_back(path)
            self._refuse_to_replace()
            if path.exists() and not (path / RECORD).is_file():
                raise UsageError(
                    f"'{path}' is not a run directory, it has no {RECORD}: rename it, or choose "
                    "another out='…'."
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(lock_file(path), timeout=0)
            acquire(self._lock, path, "wait for it, or choose another out='…'")
            try:
                put_back(path)
                self._refuse_to_replace()
                self.resumed = self.partial.is_dir()
                self.partial.mkdir(exist_ok=True)
                self._tidy()
                if path.exists() and not self.resumed:
                    finish_change(path)
                    for name in self._results_in(path):
                        if (path / name).is_file():
                            self._take_over(path / name)
            except BaseException:
                self._unlock()
                raise
        self._digests: dict[str, tuple[tuple[int, int, int], str]] = {}
        self._told: set[str] = set()
        self._used: set[str] = set()
        self._stages = self._read_stages()
        self._budget = self._read_budget()

    @property
    def stages(self) -> Mapping[str, StageRecord]:
        """Hash and seconds of every finished stage."""
        return self._stages

    @property
    def budget(self) -> int | None:
        """Bytes of memory by which the run went that is gone on with; None if none are known."""
        return self._budget

    def note_budget(self, budget: int | None) -> None:
        """Keep by how many bytes of memory the run goes, for whoever goes on with it, or none."""
        if budget != self._budget:
            self._budget = budget
            self._write_record()

    def file(self, name: str) -> Path:
        """Where a file of the run is while the run goes on."""
        return self.partial / name

    def finished(self, stage: str, digest: str) -> bool:
        """Whether this very stage was finished before, and its result is what was written then."""
        record = self._stages.get(stage)
        if record is None or record.hash != digest:
            return False
        # Earlier versions did not say what they had written.
        if record.file is None or record.sha256 is None:
            return False
        path = self.file(record.file)
        if not path.is_file():
            return False
        if self._content(record.file, record.part) == record.sha256:
            self._used.add(stage)
            return True
        if stage not in self._told:
            self._told.add(stage)
            log.warning("'%s' is damaged: stage '%s' is computed again.", path, stage)
        return False

    def finish(
        self,
        stage: str,
        digest: str,
        seconds: float,
        file: str,
        part: str | None = None,
    ) -> None:
        """Record that the result of a stage is complete.

        Args:
            stage: its name.
            digest: of all that it depends on.
            seconds: that it took.
            file: what its result was written to.
            part: what of that file is its result, if others are in it.
        """
        content = self._content(file, part)
        self._used.add(stage)
        self._stages[stage] = StageRecord(
            hash=digest, seconds=round(seconds, 3), file=file, part=part, sha256=content
        )
        self._write_record()

    def complete(self, record: Mapping[str, object]) -> None:
        """Write `run.json`, with all files of the run in it, and give the directory its name."""
        self._refuse_to_replace()
        self._leave_out()
        files = {
            name: FileRecord(bytes=self.file(name).stat().st_size, sha256=self._digest(name))
            for name in own_files(self.partial)
        }
        whole = {
            **record,
            **self._plain_budget(),
            "complete": True,
            "stages": self._plain_stages(),
            "files": as_json(files),
        }
        write_json(self.file(RECORD), signed(whole))
        with explained(self.path):
            # A name of its own for what is replaced: no directory of the user's is in the way.
            parent = self.path.parent
            aside = Path(mkdtemp(prefix=f".{self.path.name}.", suffix=ASIDE, dir=parent))
            if self.path.exists():
                os.replace(self.path, aside / self.path.name)
            os.replace(self.partial, self.path)
            flush(parent)
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

    def _results_in(self, path: Path) -> set[str]:
        """What a run may be reused from: its record, and the files that this names by stage."""
        stages = self._stages_in(path)
        return {RECORD} | {stage.file for stage in stages.values() if stage.file is not None}

    def _take_over(self, file: Path) -> None:
        """Copy a file of the run that is replaced; what cannot be read is computed again."""
        try:
            file.open("rb").close()
        except OSError as error:
            log.warning("'%s' cannot be read (%s): it is made again.", file, error.strerror)
            return
        # The content alone: some file systems know no permissions and no times to keep.
        shutil.copyfile(file, self.partial / file.name)

    def _unlock(self) -> None:
        release(self._lock)

    def _leave_out(self) -> None:
        """Remove what is half done, and results of stages that are not part of this run."""
        used = {name: stage for name, stage in self._stages.items() if name in self._used}
        files = {stage.file for stage in used.values()}
        for name, stage in self._stages.items():
            if name not in used and stage.file is not None and stage.file not in files:
                self.file(stage.file).unlink(missing_ok=True)
        for left in self.partial.glob(f"{HALFWAY}*"):
            left.unlink()
        self._stages = used

    def _tidy(self) -> None:
        """Remove what was being written when an earlier run was killed."""
        for left in self.partial.glob(".*.tmp"):
            left.unlink()

    def _read_stages(self) -> dict[str, StageRecord]:
        """What is finished, if the record of it is what was written."""
        return self._stages_in(self.partial)

    def _stages_in(self, directory: Path) -> dict[str, StageRecord]:
        path = directory / RECORD
        if not path.is_file():
            return {}
        try:
            record = read_record(directory)
            stages = record.get("stages")
            if not isinstance(stages, dict):
                return {}
            return {name: StageRecord.model_validate(entry) for name, entry in stages.items()}
        except (DamagedFile, ValidationError):
            log.warning("'%s' is damaged: all stages are computed again.", path)
            return {}

    def _plain_stages(self) -> dict[str, dict[str, object]]:
        return {name: stage.model_dump(exclude_none=True) for name, stage in self._stages.items()}

    def _read_budget(self) -> int | None:
        with contextlib.suppress(DamagedFile):
            budget = read_record(self.partial).get(BUDGET)
            return budget if type(budget) is int and budget > 0 else None
        return None

    def _plain_budget(self) -> dict[str, int]:
        return {} if self._budget is None else {BUDGET: self._budget}

    def _write_record(self) -> None:
        """What is known of a run that is not finished."""
        stages = {"complete": False, "stages": self._plain_stages()}
        write_json(self.file(RECORD), signed({**stages, **self._plain_budget()}))

    def _digest(self, name: str) -> str:
        """SHA-256 of a file, which is not read again where nobody has written to it since."""
        path = self.file(name)
        state = path.stat()
        seen = (state.st_size, state.st_mtime_ns, state.st_ino)
        if name not in self._digests or self._digests[name][0] != seen:
            self._digests[name] = (seen, digest_of(path))
        return self._digests[name][1]

    def _content(self, name: str, part: str | None) -> str | None:
        """SHA-256 of a file or of what a part of it says; None if it cannot be read."""
        try:
            if part is None:
                return self._digest(name)
            document = read_json_text(self.file(name))
        except (ValueError, OSError):
            return None
        if not isinstance(document, dict) or part not in document:
            return None
        return digest_of_value(document[part])


def asides(path: Path) -> list[Path]:
    """Folders that were to hold the run of that name while another one took its place."""
    pattern = glob.escape(f".{path.name}.") + "????????" + ASIDE
    return [
        folder
        for folder in path.parent.glob(pattern)
        if folder.is_dir() and {entry.name for entry in folder.iterdir()} <= {path.name}
    ]


def put_back(path: Path) -> None:
    """Undo what was killed while a run took the place of another: the old one, if it is gone.

    Where the new one is in its place the old one, which was about to be removed, is.
    """
    for folder in asides(path):
        old = folder / path.name
        if old.is_dir() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(folder, ignore_errors=True)
