"""Stages that are half done: what is summed up so far is kept once a minute, and taken up again.

While a stage is computed in a run directory, every pass over the data notes its sums and how many
batches are in them. Whoever is interrupted, or killed, has the same stage begin where it was, to
the same bits: the order of a stage's passes is always the same, and so is that of batches.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from pydantic import JsonValue
from safetensors import SafetensorError, safe_open
from torch import Tensor

from libgraph.accumulate.exact import ExactSums
from libgraph.accumulate.ranks import ranks, shared
from libgraph.errors import UsageError
from libgraph.files.atomic import read_json, write_json, writing
from libgraph.files.manifest import digest_of_value
from libgraph.files.run_directory import HALFWAY
from libgraph.files.tensors import digest_of_tensors, save_tensors

log = logging.getLogger("libgraph")

EVERY = 60.0
"""Seconds of work that are lost at most, where a process is killed."""

WORTH = 1.0
"""Seconds of work that are worth to be kept where it is interrupted."""


class Halfway:
    """What a stage has done so far.

    Args:
        directory: of the run; nothing is kept where this process does not see it.
        stage: its name.
        digest: of all that its result depends on.
    """

    def __init__(self, directory: Path, stage: str, digest: str) -> None:
        self.directory, self.stage, self.digest = directory, stage, digest
        rank, world = ranks()
        self._name = f"{HALFWAY}-{rank}of{world}"
        self._passes = 0
        self._saved_at = time.monotonic()
        self._unsaved: dict[int, tuple[ExactSums, dict[str, str]]] = {}
        self._values = self._read_values()
        self._news = False
        self.wrote = False

    def begin(self, label: str) -> tuple[int, ExactSums, int, bool]:
        """The next pass over the data: its number, sums so far, batches in them, whether all are.

        Args:
            label: of the pass, which has to be that of before.
        """
        number = self._passes
        self._passes += 1
        path = self._path(number)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            return number, ExactSums(), 0, False
        same = (metadata.get("hash"), metadata.get("label")) == (self.digest, label)
        if not same or metadata.get("sha256") != _digest(tensors, metadata):
            return number, ExactSums(), 0, False
        done, ended = int(metadata["done"]), metadata["ended"] == "yes"
        log.info("Stage '%s', %s: goes on after %d batches.", self.stage, label or "a pass", done)
        return number, ExactSums(_part(tensors, "high/"), _part(tensors, "low/")), done, ended

    def note(self, number: int, label: str, sums: ExactSums, done: int, *, ended: bool) -> None:
        """Take note of a pass after a batch; it is written if the last time is a while ago."""
        metadata = {
            "hash": self.digest,
            "label": label,
            "done": str(done),
            "ended": "yes" if ended else "no",
        }
        self._unsaved[number] = (sums, metadata)
        if time.monotonic() - self._saved_at >= EVERY:
            self.save()

    def value(self, name: str, compute: Callable[[], JsonValue]) -> JsonValue:
        """What was computed under this name before, or is now."""
        known = shared(lambda: [self._values[name]] if name in self._values else [])
        if known:
            return known[0]
        with halfway(None):
            found = compute()
        self._values[name] = found
        self._news = True
        if time.monotonic() - self._saved_at >= EVERY:
            self.save()
        return found

    def interrupted(self) -> None:
        """Write at once, if there is something worth it."""
        if time.monotonic() - self._saved_at >= WORTH:
            self.save()

    def save(self) -> None:
        """Write all that is not written yet."""
        self._saved_at = time.monotonic()
        if not self.directory.is_dir():
            return
        for number, (sums, metadata) in self._unsaved.items():
            tensors = {f"high/{name}": value for name, value in sums.high.items()}
            tensors |= {f"low/{name}": value for name, value in sums.low.items()}
            tensors = {name: value.cpu() for name, value in tensors.items()}
            with writing(self._path(number)) as temporary:
                save_tensors(temporary, tensors, {**metadata, "sha256": _digest(tensors, metadata)})
            self.wrote = True
        self._unsaved.clear()
        if self._news:
            document = {"hash": self.digest, "values": self._values}
            write_json(self._values_path, {**document, "sha256": digest_of_value(document)})
            self.wrote, self._news = True, False

    def clear(self) -> None:
        """Remove what is kept, once the stage is finished."""
        self._unsaved.clear()
        for path in self.directory.glob(f"{HALFWAY}*"):
            path.unlink(missing_ok=True)

    @property
    def _values_path(self) -> Path:
        return self.directory / f"{self._name}.json"

    def _path(self, number: int) -> Path:
        return self.directory / f"{self._name}-{number}.safetensors"

    def _read_values(self) -> dict[str, JsonValue]:
        if not self._values_path.is_file():
            return {}
        try:
            document = read_json(self._values_path)
            digest = document.pop("sha256")
            good = digest == digest_of_value(document) and document["hash"] == self.digest
            return dict(document["values"]) if good else {}
        except (UsageError, KeyError, TypeError, ValueError, AttributeError):
            return {}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    said = {key: value for key, value in metadata.items() if key != "sha256"}
    return digest_of_tensors(tensors, json.dumps(said, sort_keys=True))


_PLACE: ContextVar[Halfway | None] = ContextVar("halfway", default=None)


def place() -> Halfway | None:
    """Where the stage that is computed keeps what is half done; None where nothing does."""
    return _PLACE.get()


@contextmanager
def halfway(where: Halfway | None) -> Iterator[None]:
    """Have what is computed in the block kept there, or nowhere."""
    before = _PLACE.set(where)
    try:
        yield
    finally:
        _PLACE.reset(before)


def remembered(name: str, compute: Callable[[], JsonValue]) -> JsonValue:
    """What an interrupted stage has computed under this name before, or is now.

    Passes over the data that are made for it are not kept: it is there as a whole, or not.
    """
    where = place()
    return compute() if where is None else where.value(name, compute)
