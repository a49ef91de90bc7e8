"""Stages that are half done: what is summed up so far is kept once a minute, and taken up again.

While a stage is computed in a run directory, every pass over the data notes its sums and how many
batches are in them, and what goes step by step its state. Whoever is interrupted, or killed, has
the same stage begin where it was, to the same bits: the order of passes of one name is always the
same, and so is that of batches.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

import torch
from pydantic import JsonValue, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from libgraph.accumulate.exact import ExactSums
from libgraph.accumulate.ranks import ranks, shared
from libgraph.errors import UsageError
from libgraph.files.atomic import read_json, write_json, writing
from libgraph.files.manifest import digest_of_value
from libgraph.files.run_directory import HALFWAY, hash_of
from libgraph.files.tensors import digest_of_tensors, save_tensors

log = logging.getLogger("libgraph")

EVERY = 60.0
"""Seconds of work that are lost at most, where a process is killed."""

WORTH = 1.0
"""Seconds of work that are worth to be kept where it is interrupted."""

Pair = tuple[float, float]

SINGLE = TypeAdapter(dict[str, Pair])
"""Sums of single numbers, each as the pair that it is."""


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
        self._begun: Counter[str] = Counter()
        self._saved_at = time.monotonic()
        self._unsaved: dict[str, tuple[Mapping[str, Tensor], dict[str, str]]] = {}
        self._values = self._read_values()
        self._news = False
        self.wrote = False

    def begin(self, label: str) -> tuple[str, ExactSums, int, bool]:
        """The next pass over the data: its name, sums so far, batches in them, whether all are.

        Args:
            label: what it is called; of several that are called the same each has its place.
        """
        name = self._next(label)
        with suppress(ValidationError):
            if name in self._values:
                return name, _from_single(SINGLE.validate_python(self._values[name])), 0, True
        tensors, done, ended = self._read(name)
        return name, ExactSums(_part(tensors, "high/"), _part(tensors, "low/")), done, ended

    def note(self, name: str, sums: ExactSums, done: int, *, ended: bool) -> None:
        """Take note of a pass after a batch; it is written if the last time is a while ago."""
        single = _single(sums) if ended else None
        if single is not None:
            # In one file with others of their kind: an ablation has thousands.
            self._values[name] = single
            self._unsaved.pop(name, None)
            self._news = True
            self._save_in_time()
            return
        tensors = {f"high/{key}": value for key, value in sums.high.items()}
        tensors |= {f"low/{key}": value for key, value in sums.low.items()}
        self._note(name, tensors, done, ended=ended)

    def begin_steps(self, label: str) -> tuple[str, dict[str, Tensor], int]:
        """Something that goes step by step: its name, its state, and how many steps are done."""
        name = self._next(label)
        tensors, done, _ = self._read(name)
        return name, tensors, done

    def note_steps(self, name: str, state: Mapping[str, Tensor], done: int) -> None:
        """Take note of a state, which nobody changes any more; written now and then."""
        self._note(name, state, done, ended=False)

    def value(self, name: str, compute: Callable[[], JsonValue]) -> JsonValue:
        """What was computed under this name before, or is now."""
        known = shared(lambda: [self._values[name]] if name in self._values else [])
        if known:
            return known[0]
        with halfway(None):
            found = compute()
        self._values[name] = found
        self._news = True
        self._save_in_time()
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
        for name, (noted, metadata) in self._unsaved.items():
            tensors = {key: value.cpu().contiguous() for key, value in noted.items()}
            with writing(self._path(name)) as temporary:
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

    def _next(self, label: str) -> str:
        """What the next one of that label is called."""
        self._begun[label] += 1
        return f"{label or 'a pass'}, no. {self._begun[label]}"

    def _path(self, name: str) -> Path:
        return self.directory / f"{self._name}-{hash_of(name)[:16]}.safetensors"

    def _note(self, name: str, tensors: Mapping[str, Tensor], done: int, *, ended: bool) -> None:
        metadata = {
            "hash": self.digest,
            "name": name,
            "done": str(done),
            "ended": "yes" if ended else "no",
        }
        self._unsaved[name] = (tensors, metadata)
        self._save_in_time()

    def _save_in_time(self) -> None:
        if time.monotonic() - self._saved_at >= EVERY:
            self.save()

    def _read(self, name: str) -> tuple[dict[str, Tensor], int, bool]:
        """Tensors that were kept under a name, steps or batches done, and whether that is all."""
        try:
            with safe_open(self._path(name), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            return {}, 0, False
        same = (metadata.get("hash"), metadata.get("name")) == (self.digest, name)
        if not same or metadata.get("sha256") != _digest(tensors, metadata):
            return {}, 0, False
        done = int(metadata["done"])
        log.info("Stage '%s', %s: goes on after %d.", self.stage, name, done)
        return tensors, done, metadata["ended"] == "yes"

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


def _from_single(pairs: Mapping[str, Pair]) -> ExactSums:
    high, low = (
        {name: torch.tensor(pair[side], dtype=torch.float64) for name, pair in pairs.items()}
        for side in (0, 1)
    )
    return ExactSums(high, low)


def _single(sums: ExactSums) -> JsonValue:
    """Sums of single numbers as JSON can hold them; None of others."""
    pairs: dict[str, JsonValue] = {}
    for name, high in sums.high.items():
        if high.ndim:
            return None
        pair = [float(high), float(sums.low[name])]
        # Only of finite numbers is what is read the same.
        if not all(math.isfinite(value) for value in pair):
            return None
        pairs[name] = [*pair]
    return pairs or None


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


class Steps:
    """Something that goes step by step, all of whose state are tensors.

    All ranks go through the same steps, and begin with the same one: that of the first rank.

    Attributes:
        done: steps that were done before.
        state: after them; empty before the first one.
    """

    def __init__(self, where: Halfway | None, label: str) -> None:
        self._where, self._name = where, ""
        self.done, self.state = 0, dict[str, Tensor]()
        if where is not None:
            self._name, self.state, self.done = where.begin_steps(label)
            self.state, self.done = shared(lambda: (self.state, self.done))

    def note(self, done: int, state: Mapping[str, Tensor]) -> None:
        """Take note of the state after so many steps; later steps do not change its tensors."""
        if self._where is not None and ranks()[0] == 0:
            self._where.note_steps(self._name, state, done)


@contextmanager
def steps(label: str) -> Iterator[Steps]:
    """Have what goes step by step in the block taken up where it was interrupted.

    Passes over the data that are made for a step are not kept: it is done as a whole, or not.

    Args:
        label: what it is called within the stage.
    """
    where = place()
    try:
        with halfway(None):
            yield Steps(where, label)
    except (KeyboardInterrupt, MemoryError):
        if where is not None:
            where.interrupted()
        raise
