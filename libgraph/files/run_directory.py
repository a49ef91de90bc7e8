"""The directory of a run while it is made.

It grows under the name `NAME.partial`, one finished stage at a time, and is renamed when the run is
complete; a stage is kept with the hash of all it depends on, so that an interrupted or repeated run
does not compute it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import TypedDict

from filelock import FileLock, Timeout

from libgraph.errors import UsageError
from libgraph.files.atomic import explained, write_json


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
    "significance.json",
    "degeneracy.json",
    "run.json",
)
"""What a run that replaces another may reuse."""


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
        if not path.name:
            raise UsageError(f"'{path}' is no name for a run directory: choose another out='…'.")
        with explained(path):
            # A link stays one: what it leads to is replaced.
            path = path.resolve() if path.is_symlink() else path
            self.path, self.force = path, force
            self.partial = path.with_name(path.name + ".partial")
            self._refuse_to_replace()
            if path.exists() and not (path / "run.json").is_file():
                raise UsageError(f"'{path}' is not a run directory: choose another out='…'.")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
            try:
                self._lock.acquire()
            except Timeout:
                raise UsageError(
                    f"Another run is writing to '{path}': wait for it, or choose another out='…'."
                ) from None
            try:
                self.resumed = self.partial.is_dir()
                self.partial.mkdir(exist_ok=True)
                if path.exists() and not self.resumed:
                    for name in STAGE_FILES:
                        if (path / name).is_file():
                            shutil.copy2(path / name, self.partial)
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

    def _unlock(self) -> None:
        Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()
