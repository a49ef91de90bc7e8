"""What belongs to a run: every file with its size and SHA-256, in the `run.json` of the run.

The record says its own SHA-256 too. A file is held against it whenever it is read, so that what has
been damaged since is found, and never believed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from libgraph.errors import DamagedFile
from libgraph.files.atomic import explained, flush, write_json
from libgraph.files.json_text import read_json_text
from libgraph.files.locks import locked

log = logging.getLogger("libgraph")

RECORD = "run.json"
"""The record of a run."""

STAGED = ".staged"
"""Folder in a run in which files that are to replace others are made."""

COMMITTED = ".committed"
"""What that is called once all of them are there: from then on they are the run's."""

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class FileRecord(BaseModel):
    """A file as it was written.

    Attributes:
        size: in bytes; in the file `bytes`.
        sha256: of its content.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    size: int = Field(ge=0, alias="bytes")
    sha256: Digest

    def as_json(self) -> dict[str, JsonValue]:
        """As `run.json` has it."""
        return {"bytes": self.size, "sha256": self.sha256}


class RunRecord(BaseModel):
    """What every record of a run has; whoever wrote it may have said more.

    Attributes:
        complete: whether the run is finished.
        backend: name, once it is.
        files: all files of the run but the record, by name; None in runs of earlier versions.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    complete: bool
    backend: str = ""
    backend_options: dict[str, JsonValue] = {}
    options: dict[str, JsonValue] = {}
    network: str | None = None
    files: dict[str, FileRecord] | None = None


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_value(value: object) -> str:
    """SHA-256 of what JSON says, however it is laid out."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_record(path: Path) -> FileRecord:
    """Of a file as it is now."""
    return FileRecord(bytes=path.stat().st_size, sha256=digest_of(path))


def signed(record: Mapping[str, object]) -> dict[str, object]:
    """The record with its own SHA-256."""
    plain = json.loads(json.dumps({key: value for key, value in record.items() if key != "sha256"}))
    return {**plain, "sha256": digest_of_value(plain)}


def read_record(directory: Path) -> dict[str, JsonValue]:
    """The record of a run, checked: its types, and its SHA-256 where it says one.

    Raises:
        DamagedFile: if it is missing, or not what was written.
    """
    path = current(directory, RECORD)
    try:
        record = read_json_text(path)
        if not isinstance(record, dict):
            raise ValueError("it holds no object")
        RunRecord.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise _damaged(path, f"'{place}' in it: {first['msg']}") from None
    except (ValueError, OSError) as error:
        raise _damaged(path, str(error)) from None
    if "sha256" in record and signed(record)["sha256"] != record["sha256"]:
        raise _damaged(path, "it is not what was written")
    return record


def files_of(record: Mapping[str, JsonValue]) -> dict[str, FileRecord] | None:
    """The files that a record names; None of a run of an earlier version."""
    return RunRecord.model_validate(record).files


def problem_of(path: Path, known: FileRecord) -> str | None:
    """What is wrong with a file, beside what was written; None if nothing is."""
    try:
        size = path.stat().st_size
        if size != known.size:
            return f"it has {size} bytes, and had {known.size}"
        if digest_of(path) != known.sha256:
            return "it is not what was written: its SHA-256 is another one"
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return error.strerror or str(error)
    return None


def check_file(directory: Path, name: str, files: Mapping[str, FileRecord] | None) -> Path:
    """Where a file of a run is, once it is found to be what was written.

    Raises:
        DamagedFile: if it is missing, or something else.
    """
    path = current(directory, name)
    if files is None:
        return path
    if name not in files:
        raise _damaged(path, "the run has no such file")
    problem = problem_of(path, files[name])
    if problem is not None and path != current(directory, name):
        # It has been moved to its place meanwhile.
        path = current(directory, name)
        problem = problem_of(path, files[name])
    if problem is not None:
        raise _damaged(path, problem)
    return path


def _damaged(path: Path, why: str) -> DamagedFile:
    return DamagedFile(
        f"'{path}' cannot be read ({why}): analyse again with force=True, which computes what is "
        "damaged and keeps the rest."
    )


# Changes of a finished run


def current(directory: Path, name: str) -> Path:
    """Where a file of a run is: in the change that is being made, or at its place."""
    changed = directory / COMMITTED / name
    with suppress(OSError):
        if changed.exists():
            return changed
    return directory / name


@contextmanager
def changing(directory: Path) -> Iterator[Path]:
    """A folder in a finished run whose files take the places of the run's, all or none.

    Once it has its final name they are the run's, though they lie in it still: readers look there
    first, and whoever changes the run next puts them to their places.

    Raises:
        UsageError: if the run cannot be written, or something else is writing to it.
        DamagedFile: if the record of the run is.
    """
    staged = directory / STAGED
    with explained(directory), locked(directory):
        finish_change(directory)
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        try:
            yield staged
            record = read_record(directory)
            files = files_of(record)
            if files is not None:
                files |= {file.name: file_record(file) for file in staged.iterdir()}
                write_json(staged / RECORD, signed({**record, "files": as_json(files)}))
            if any(staged.iterdir()):
                flush(staged)
                os.rename(staged, directory / COMMITTED)
                flush(directory)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        finish_change(directory)


def finish_change(directory: Path) -> None:
    """Put the files of a change that was interrupted to their places, the record last."""
    change = directory / COMMITTED
    if not change.is_dir():
        return
    names = sorted((file.name for file in change.iterdir()), key=lambda name: name == RECORD)
    for name in names:
        os.replace(change / name, directory / name)
    flush(directory)
    change.rmdir()


def as_json(files: Mapping[str, FileRecord]) -> dict[str, JsonValue]:
    """The files of a run as `run.json` has them."""
    return {name: files[name].as_json() for name in sorted(files)}


def own_files(directory: Path) -> Iterable[str]:
    """Names of a run's files, in folders too: all but the record itself, and what is hidden."""
    for path in sorted(directory.rglob("*")):
        parts = path.relative_to(directory).parts
        if path.is_file() and parts != (RECORD,) and not any(p.startswith(".") for p in parts):
            yield "/".join(parts)
