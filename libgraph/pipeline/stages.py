"""Stages: what a run computes one after the other, each kept with the hash of all it depends on.

With a run directory a stage is written as soon as it is finished, and is read back instead of
computed where an earlier run has left it under the same hash; without one nothing is kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, JsonValue

from libgraph.accumulate.halfway import Halfway, halfway
from libgraph.accumulate.ranks import ranks, shared
from libgraph.errors import BackendError, DataError, MissingExtra, NumericalError, TooLarge
from libgraph.files.run_directory import RunDirectory, hash_of
from libgraph.pipeline.passes import Passes
from libgraph.progress import Progress, expect, silent

Result = TypeVar("Result")
Facts = Mapping[str, JsonValue]

log = logging.getLogger("libgraph")


def _free(passes: Passes) -> Mapping[str, float]:
    return {}


@dataclass(frozen=True)
class Stage(Generic[Result]):
    """One stage of a run, as a value: where its result is kept and what that depends on.

    Args:
        name: what it is called in `run.json`, by its seconds and in messages.
        file: what its result is kept in; several stages may share a file.
        save: writes a result there, beside those of other stages.
        load: reads it.
        reads: names of options that it depends on, beside those among the facts of all stages.
        after: stages whose results it works on; it depends on all that they do.
        besides: what else it depends on, such as the digest of a file.
        part: what its result is called in the file, if others are in it.
        cost: seconds that it is going to take, from those of passes over the data, by the name
            that a plan gives to them.
    """

    name: str
    file: str
    save: Callable[[Path, Result], None]
    load: Callable[[Path], Result]
    reads: tuple[str, ...] = ()
    after: tuple[Stage[Any], ...] = ()
    besides: Facts = field(default_factory=dict)
    part: str | None = None
    cost: Callable[[Passes], Mapping[str, float]] = _free

    def hash(self, options: BaseModel, facts: Facts) -> str:
        """SHA-256 of all that the result depends on."""
        return hash_of(
            self.name,
            facts,
            options.model_dump(mode="json", include=set(self.reads)),
            self.besides,
            [stage.hash(options, facts) for stage in self.after],
        )


class Stages:
    """Runs stages, or takes them from an earlier run; remembers how long each took.

    Args:
        directory: where results are kept; None to keep none.
        options: those that stages read.
        facts: what every stage depends on; asked for where something is kept.
        progress: told, once a plan has been made, how long the stages to come are going to take.

    Attributes:
        seconds: by stage, those of the run that computed it.
    """

    def __init__(
        self,
        directory: RunDirectory | None,
        options: BaseModel,
        facts: Callable[[], Facts],
        progress: Progress = silent,
    ) -> None:
        self.directory = directory
        self.options = options
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self._planned: dict[str, float] = {}
        self._find_facts = facts
        self._began = time.time()

    def run(self, stage: Stage[Result], compute: Callable[[], Result]) -> Result:
        """What `compute` gives, or what an earlier run with the same hash has left."""
        directory = self.directory
        # Ranks that wait for each other must not skip stages on their own: the first one decides.
        kept = shared(lambda: None if directory is None else str(directory.partial))
        if kept is None:
            return self._computed(stage, compute)
        digest = shared(lambda: stage.hash(self.options, self._facts))
        if shared(lambda: self._finished(stage)):
            log.info("Stage '%s' is taken from an earlier run.", stage.name)
            result, self.seconds[stage.name] = shared(lambda: self._loaded(stage))
            return result
        half_done = Halfway(Path(kept), stage.name, digest)
        try:
            with halfway(half_done):
                result = self._computed(stage, compute)
        finally:
            if half_done.wrote and directory is not None:
                directory.keep()
        if directory is not None:
            seconds = self.seconds[stage.name]
            stage.save(directory.file(stage.file), result)
            directory.finish(stage.name, digest, seconds, file=stage.file, part=stage.part)
            half_done.clear()
        return result

    def _loaded(self, stage: Stage[Result]) -> tuple[Result, float]:
        if self.directory is None:
            raise AssertionError("only the rank that keeps results reads them")
        return (
            stage.load(self.directory.file(stage.file)),
            self.directory.stages[stage.name].seconds,
        )

    def plan(self, stages: Iterable[Stage[Any]], passes: Passes) -> dict[str, float]:
        """Seconds that each stage which is still to be computed is going to take."""
        self._planned = {
            stage.name: sum(stage.cost(passes).values())
            for stage in stages
            if not self._finished(stage)
        }
        return self._planned

    def _finished(self, stage: Stage[Any]) -> bool:
        if self.directory is None:
            return False
        digest = stage.hash(self.options, self._facts)
        return self.directory.finished(stage.name, digest)

    def _computed(self, stage: Stage[Result], compute: Callable[[], Result]) -> Result:
        if stage.name in self._planned:
            past = [name for name in self._planned if name in self.seconds]
            planned = sum(self._planned[name] for name in past)
            # What was planned wrong so far is taken to go on so.
            off = sum(self.seconds[name] for name in past) / planned if planned > 1 else 1.0
            left = sum(self._planned.values()) - planned
            expect(self.progress, off * left)
        with self.timed(stage.name):
            return compute()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Take down the seconds of a block, as of a stage that is not kept."""
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 3)

    def complete(self, record: Facts) -> None:
        """Write `run.json` and give the directory, if there is one, its final name."""
        if self.directory is None:
            return
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._began))
        self.directory.complete({**record, "started": started, "seconds": self.seconds})

    @cached_property
    def _facts(self) -> Facts:
        return self._find_facts()


@contextmanager
def open_directory(out: str | Path | None, *, force: bool) -> Iterator[RunDirectory | None]:
    """The directory of a run; if the run ends early, what is finished stays, and the log says so.

    None where nothing is to be written, and on all ranks but the first.

    Raises:
        UsageError: for a directory that exists or cannot be written.
    """
    rank, _ = ranks()
    directory = RunDirectory(Path(out), force=force) if out is not None and rank == 0 else None
    try:
        yield directory
    except BaseException as error:
        # The same again would come to the same end where the model or its data are wrong.
        hopeless = isinstance(error, NumericalError | BackendError | DataError)
        if directory is not None and directory.abandon() and not hopeless:
            log.warning(
                "Finished stages are kept in '%s': the same with out='%s' goes on there.",
                directory.partial,
                directory.path,
            )
        raise


@contextmanager
def may_be_left_out(picture: str) -> Iterator[None]:
    """Go on without a picture, and log it, where a library is missing or it is too large."""
    try:
        yield
    except (MissingExtra, TooLarge) as error:
        log.warning("%s not drawn: %s", picture, error)
