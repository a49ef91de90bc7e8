"""The condition of a run: every file of it held against its checksum, and what is left beside it.

What `libgraph doctor RUN` prints. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from libgraph.errors import DamagedFile, LibgraphError, UsageError
from libgraph.files.manifest import (
    COMMITTED,
    RECORD,
    STAGED,
    FileRecord,
    current,
    files_of,
    own_files,
    problem_of,
    read_record,
)
from libgraph.files.reading import reading
from libgraph.files.run_directory import ASKED, asides

State = Literal["whole", "damaged", "unknown"]

CONTENTS: Mapping[str, str] = {
    RECORD: "how the run was made",
    "metrics.json": "the figures",
    "graph.json": "the graph",
    "bases.safetensors": "bases",
    "edges.safetensors": "interactions",
    "ablation.json": "ablations",
    "examples.safetensors": "examples",
    "degeneracy.json": "the figures",
}
"""What is lost with a file."""


@dataclass(frozen=True)
class FileCondition:
    """One file of a run.

    Args:
        name: of the file.
        state: whole, damaged, or unknown where nothing says what it was.
        problem: what is wrong with it.
    """

    name: str
    state: State
    problem: str = ""

    @property
    def content(self) -> str:
        """What it holds, in words."""
        return CONTENTS.get(self.name, "")


@dataclass(frozen=True)
class RunCondition:
    """What is well with a run and what is not.

    Args:
        directory: of the run.
        complete: whether it is finished.
        checked: whether its files can be held against anything.
        files: all of them, those that are missing too.
        left: files and folders that an interrupted command has left, and what takes them away.
        backend: whose model it is of, if that is known.
    """

    directory: Path
    complete: bool
    checked: bool
    files: tuple[FileCondition, ...]
    left: Mapping[Path, str]
    backend: str = ""

    @property
    def damaged(self) -> tuple[FileCondition, ...]:
        """What cannot be used."""
        return tuple(file for file in self.files if file.state == "damaged")

    @property
    def well(self) -> bool:
        """Whether all that was written is there as it was."""
        return self.complete and not self.damaged

    def as_dict(self) -> dict[str, object]:
        """The same for `json.dumps`."""
        return {
            "run": str(self.directory),
            "well": self.well,
            "complete": self.complete,
            "files": {
                file.name: {"condition": file.state, "problem": file.problem} for file in self.files
            },
            "left": {str(path): what for path, what in self.left.items()},
            "sentence": self.sentence(),
        }

    def sentence(self) -> str:
        """What is wrong and what to do about it, or that nothing is."""
        if not self.complete and not self.damaged:
            return f"'{self.directory}' is not finished: run the same analysis again first."
        if not self.damaged:
            doubt = "" if self.checked else ", as far as can be told of a version without checksums"
            return f"'{self.directory}' is whole{doubt}."
        names = ", ".join(file.name for file in self.damaged)
        are = "is" if len(self.damaged) == 1 else "are"
        good = [file.content for file in self.files if file.state == "whole" and file.content]
        rest = f"; {', '.join(dict.fromkeys(good))} can still be read" if good else ""
        if not current(self.directory, RECORD).is_file():
            # It may be a folder of the user's, which nothing of ours replaces.
            return (
                f"'{self.directory}' has no {RECORD}, which tells that it is a run: rename it, and "
                f"run the same analysis with out='{self.directory}' again."
            )
        return (
            f"{names} of '{self.directory}' {are} damaged{rest}: the same analysis with "
            f"out='{self.directory}' and force=True computes what is damaged and keeps the rest."
        )


def run_condition(path: str | Path) -> RunCondition:
    """Look at all files of a run, finished or not.

    Raises:
        UsageError: if there is no run.
    """
    directory = Path(path)
    with reading(directory, UsageError, "The run "):
        partial = directory.with_name(f"{directory.name}.partial") if directory.name else directory
        if not directory.is_dir() and partial.is_dir():
            return _unfinished(directory, partial)
        if not directory.is_dir():
            raise UsageError(f"There is no run '{directory}': give a directory of an analysis.")
        if not current(directory, RECORD).is_file():
            named = [file for file in CONTENTS if (directory / file).is_file()]
            if not named:
                raise UsageError(f"'{directory}' is no run: give a directory of an analysis.")
        left = _left(directory)
        try:
            record = read_record(directory)
        except DamagedFile as error:
            names = own_files(directory)
            unknown = (
                FileCondition(name, "unknown", "nothing to hold it against") for name in names
            )
            broken = FileCondition(RECORD, "damaged", _why(error))
            return RunCondition(directory, False, False, (broken, *unknown), left)
        return _finished(directory, record, left)


def _finished(
    directory: Path, record: Mapping[str, JsonValue], left: Mapping[Path, str]
) -> RunCondition:
    known = files_of(record)
    names = {*own_files(directory), *(known or {})}
    files = [FileCondition(RECORD, "whole" if "sha256" in record else "unknown")]
    files += [_condition(directory, name, known) for name in sorted(names)]
    return RunCondition(
        directory,
        record.get("complete") is True,
        known is not None,
        tuple(files),
        left,
        str(record.get("backend", "")),
    )


def _condition(directory: Path, name: str, known: Mapping[str, FileRecord] | None) -> FileCondition:
    if known is None:
        return FileCondition(name, "unknown", "written by a version without checksums")
    if name not in known:
        return FileCondition(name, "unknown", "not of the run")
    problem = problem_of(current(directory, name), known[name])
    return (
        FileCondition(name, "whole") if problem is None else FileCondition(name, "damaged", problem)
    )


def _unfinished(directory: Path, partial: Path) -> RunCondition:
    files = tuple(
        FileCondition(name, "unknown", "of a run that is not finished")
        for name in own_files(partial)
    )
    left = {partial: "the same analysis goes on there"} | dict(_left(directory))
    return RunCondition(directory, False, False, files, left)


def _left(directory: Path) -> Mapping[Path, str]:
    """What interrupted commands have left in a run and beside it."""
    left: dict[Path, str] = {}
    partial = directory.with_name(f"{directory.name}.partial")
    if directory.is_dir():
        if partial.is_dir():
            left[partial] = "of an analysis that is to replace the run: the same goes on there"
        if (directory / COMMITTED).is_dir():
            left[directory / COMMITTED] = (
                "files of the run, which the next change puts to their places"
            )
        if (directory / STAGED).is_dir():
            left[directory / STAGED] = "of a change that was not made: the next one removes it"
        for folder in directory.glob(f"{ASKED}-*"):
            left[folder] = "of a question that was interrupted: the same goes on there"
        for file in directory.glob(".*.tmp"):
            left[file] = "half of a file: it can be deleted"
    for folder in asides(directory):
        left[folder] = "the run that was being replaced: the same analysis again puts it right"
    return left


def _why(error: LibgraphError) -> str:
    text = str(error)
    return text.partition("(")[2].rpartition("):")[0] or text
