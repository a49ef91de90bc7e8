"""Ranks of a job that watch each other: none waits for one that has failed, died or stopped.

Each says once a second that it is there, to the store that all of them have in common, from a
thread of its own: whoever is busy for long is there, whoever is stopped is not. Of a failure one
rank speaks, and the others end without a word.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from threading import Event, Thread
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

Answer = TypeVar("Answer")

BEAT = 1.0
"""Seconds between two signs of life."""

GRACE = 10.0
"""Seconds that a rank has to write what is half done, once another one has failed."""

SILENCE = 300.0
"""Seconds without a sign of life after which a rank is given up, unless told otherwise."""

VARIABLE = "LIBGRAPH_RANK_TIMEOUT"
"""Of the environment: other seconds."""

ENDED = "ended"
"""The last sign of a rank that has done all it had to."""

FAILURE = "failure"
"""What is set by the rank that tells of one."""


def longest_silence(environment: Mapping[str, str] = os.environ) -> float:
    """Seconds after which a rank that gives no sign of life is given up.

    Raises:
        UsageError: if the environment says something else than a number of seconds.
    """
    from libgraph.errors import UsageError

    told = environment.get(VARIABLE, "").strip()
    try:
        seconds = float(told) if told else SILENCE
    except ValueError:
        seconds = 0.0
    if not 2 * BEAT <= seconds < float("inf"):
        raise UsageError(
            f"{VARIABLE}={told} is no number of seconds: use {2 * BEAT:g} or more, or unset it for "
            f"{SILENCE:g}."
        )
    return seconds


class Watch:
    """One rank's look at the others.

    Args:
        store: that all ranks have; a connection of the watch's own, as calls may wait.
        rank: of this process.
        world: how many there are.
        silence: seconds after which one without a sign of life is given up.
        say: prints a sentence.
    """

    def __init__(
        self, store: Store, rank: int, world: int, silence: float, say: Callable[[str], None]
    ) -> None:
        self.store, self.rank, self.world, self.say = store, rank, world, say
        self.silence = silence
        self._over = Event()
        self._ending = False
        self._thread = Thread(target=self._watch, daemon=True, name="libgraph-watch")

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self, *, well: bool) -> None:
        """End it; `well` if this rank has done all that it had to."""
        self._over.set()
        self._thread.join(GRACE)
        if well:
            self._asked(lambda: self.store.set(_beat(self.rank), ENDED), GRACE)

    def claim(self) -> bool:
        """Whether this rank is the first to tell of a failure, and has to speak."""
        if self._ending:
            return False
        own = str(self.rank)
        first = self._asked(lambda: self.store.compare_set(FAILURE, "", own), GRACE)
        # The store may be gone with the process that had it, which has not spoken for others.
        return first is None or first.decode() == own

    def told(self, seconds: float) -> bool:
        """Whether another rank tells of a failure within so many seconds."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._asked(lambda: self.store.check([FAILURE]), GRACE):
                return not self.claim()
            time.sleep(BEAT / 10)
        return False

    def _asked(self, ask: Callable[[], Answer], seconds: float) -> Answer | None:
        """What the store answers, if it does within so many seconds: some calls wait for ever."""
        answers: list[Answer] = []

        def call() -> None:
            # Whoever has the store may be gone.
            with suppress(RuntimeError):
                answers.append(ask())

        thread = Thread(target=call, daemon=True, name="libgraph-asks")
        thread.start()
        thread.join(seconds)
        return answers[0] if answers else None

    def _watch(self) -> None:
        others = [rank for rank in range(self.world) if rank != self.rank]
        last = dict.fromkeys(others, b"")
        # Counted in beats of one's own: whoever was stopped and goes on finds nobody late.
        missed = dict.fromkeys(others, 0)
        beats = unanswered = 0
        while not self._over.wait(BEAT):
            beats += 1
            began = time.monotonic()
            seen = self._asked(partial(self._look, beats, others), self.silence)
            if self._over.is_set():
                return
            unanswered = 0 if seen is not None else unanswered + 1
            if seen is None:
                # Refused at once, others may be about to tell why; without any answer, none will.
                if unanswered * BEAT >= GRACE or time.monotonic() - began >= self.silence:
                    self._end("the process that began the job")
                    return
                continue
            failed, signs = seen
            if failed:
                self._end(None)
                return
            for rank, sign in signs.items():
                there = sign != last[rank] or sign == ENDED.encode()
                missed[rank] = 0 if there else missed[rank] + 1
                last[rank] = sign
                if missed[rank] * BEAT >= self.silence:
                    self._end(f"process {rank} of {self.world}")
                    return

    def _look(self, beats: int, others: list[int]) -> tuple[bool, dict[int, bytes]]:
        """Give a sign, and see whether one has failed, and the signs of the others."""
        self.store.set(_beat(self.rank), str(beats))
        return self.store.check([FAILURE]), {rank: self._sign(rank) for rank in others}

    def _sign(self, rank: int) -> bytes:
        """The latest sign of life; empty before the first one."""
        name = _beat(rank)
        return self.store.get(name) if self.store.check([name]) else b""

    def _end(self, silent: str | None) -> None:
        """End this process, which may wait for the others where no signal reaches it.

        Args:
            silent: who gives no sign of life; None if another rank has told what is wrong.
        """
        if silent is not None and self.claim():
            self.say(
                f"There is no sign of life of {silent}: the job ends, and the same command goes on "
                f"where it was ({VARIABLE} sets how long is waited for one, {self.silence:g} s)."
            )
        self._ending = True
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._over.wait(GRACE):
            os._exit(1)


def _beat(rank: int) -> str:
    return f"beat-{rank}"
