"""Training a backend's model into a directory, with a record of how: what `libgraph train` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from libgraph import __version__
from libgraph.backend.contract import Backend, Json, Outcome
from libgraph.backend.options import TypedOptions, parse_options
from libgraph.backend.registry import backend_class
from libgraph.backend.state import own_state
from libgraph.bars import shown
from libgraph.errors import BackendError, UsageError
from libgraph.files.atomic import explained, read_parts, write_json
from libgraph.files.locks import locked
from libgraph.fit import CHECKPOINT
from libgraph.progress import Foretold, Progress

UNFINISHED = ".unfinished.json"
"""File that says which training has begun in a directory, until its record is written."""


@dataclass(frozen=True)
class TrainingRecord:
    """What `training.json` holds.

    Args:
        backend: whose model was trained.
        options: all training options, as JSON has them.
        libgraph: version.
        torch: version.
        outcome: what the backend says of it.
    """

    backend: str
    options: Mapping[str, Json]
    libgraph: str
    torch: str
    outcome: Outcome

    @property
    def history(self) -> Sequence[Mapping[str, float]]:
        """One record for each evaluation, in order; none where the backend keeps none."""
        return cast(Sequence[Mapping[str, float]], self.outcome.get("history", ()))

    def as_json(self) -> dict[str, Json]:
        """The content of the file."""
        versions = {"libgraph": self.libgraph, "torch": self.torch}
        return {"backend": self.backend, "options": self.options, **versions, **self.outcome}


@own_state()
def train(
    backend: str | type[Backend],
    options: Mapping[str, object],
    out: Path | str,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> TrainingRecord:
    """Train a backend's model into a directory.

    Args:
        backend: its class, or the name that it is registered under.
        options: its training options; strings are converted.
        out: directory for `model.safetensors`, and `training.json` with options, versions and
            outcome.
        force: whether a model that is there may be replaced.
        progress: told after every step; by default bars, on a terminal or in a notebook.

    Returns:
        What `training.json` holds.

    Raises:
        BackendError: if there is no such backend, or it has no training.
        UsageError: if an option is wrong, or `out` holds a model and `force` is not set.
        NumericalError: if the loss stops being finite.
    """
    kind = backend_class(backend) if isinstance(backend, str) else backend
    if kind.Training is None:
        raise BackendError(f"The backend '{kind.name}' has no training.")
    parsed = parse_options(kind.Training, options, f"training '{kind.name}'")
    directory = Path(out)
    if not directory.name:
        raise UsageError(f"'{directory}' is no name for a directory: choose another out='…'.")
    plan: dict[str, Json] = {"backend": kind.name, "options": parsed.model_dump(mode="json")}
    with explained(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with locked(directory):
            try:
                return _trained(kind, parsed, directory, plan, force=force, progress=progress)
            finally:
                # A training that ended before its first checkpoint leaves nothing.
                if not (directory / "model.safetensors").exists():
                    (directory / UNFINISHED).unlink(missing_ok=True)
                with suppress(OSError):
                    directory.rmdir()


def _trained(
    kind: type[Backend],
    parsed: TypedOptions,
    directory: Path,
    plan: Mapping[str, Json],
    *,
    force: bool,
    progress: Progress | None,
) -> TrainingRecord:
    """Train, with a note of what is trained until the record of it is written."""
    note = directory / UNFINISHED
    model = directory / "model.safetensors"
    if model.exists() and not force and read_parts(note) != plan:
        raise UsageError(f"'{model}' exists: force=True replaces it, or choose another out='…'.")
    write_json(note, plan)
    lengths = [f"{name}=…" for name in ("steps", "epochs") if name in type(parsed).model_fields]
    with shown(progress) as told:
        told = Foretold(told, f"fewer {' or '.join(lengths)} cost less") if lengths else told
        outcome = kind.train(parsed, directory, told)
    record = TrainingRecord(
        kind.name,
        parsed.model_dump(mode="json"),
        __version__,
        torch.__version__,
        outcome,
    )
    write_json(directory / "training.json", record.as_json())
    # Only now: whoever is killed before goes on from there, and comes to the same.
    (directory / CHECKPOINT).unlink(missing_ok=True)
    note.unlink()
    return record
