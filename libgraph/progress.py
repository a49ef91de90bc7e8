"""How computations say how far they have come: a call with a stage, what is done, and the total."""

from __future__ import annotations

import logging
import time
from typing import Protocol

log = logging.getLogger("libgraph")


LONG = 600.0
"""Seconds above which it is said beforehand how long something is going to take."""


EARLY = 10.0
"""Seconds after which the speed of a stage so far tells how long all of it takes."""


class Progress(Protocol):
    """Told how far a stage has come; `total` is None where nobody knows."""

    def __call__(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """Take note."""


def expect(progress: Progress, seconds: float) -> None:
    """Tell how long all that is still to come is going to take, where somebody wants to know.

    Whoever listens may have a method `expect` for it, as the command's bars do.
    """
    told = getattr(progress, "expect", None)
    if callable(told):
        told(seconds)


def in_words(seconds: float) -> str:
    """How long that is, as one says it: 40 s, 12 minutes, 39 hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 72 * 3600 else f"{seconds / 86400:.0f} days"


def silent(stage: str, done: int, total: int | None, note: str = "") -> None:
    """Progress that goes nowhere.

    Args:
        stage: what is done.
        done: so many steps of it.
        total: steps that there are; None if that is not known.
        note: what is shown beside it, such as a loss.
    """


class Foretold:
    """Progress that says it, once, when a stage turns out to be going to take long.

    Args:
        progress: told as well.
        advice: what makes it smaller, such as "fewer samples=… cost less".
    """

    def __init__(self, progress: Progress, advice: str) -> None:
        self.progress, self.advice = progress, advice
        self._stage, self._first, self._began = "", 0, 0.0
        self._said = False

    def __call__(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """Pass it on, and see how fast the stage is."""
        self.progress(stage, done, total, *([note] if note else []))
        if stage != self._stage:
            self._stage, self._first, self._began = stage, done, time.monotonic()
        spent, steps = time.monotonic() - self._began, done - self._first
        if self._said or total is None or steps < 1 or spent < EARLY:
            return
        seconds = spent / steps * (total - self._first)
        if seconds > LONG:
            self._said = True
            log.warning(
                "%s is going to take about %s. To make it smaller: %s.",
                stage.capitalize(),
                in_words(seconds),
                self.advice,
            )

    def expect(self, seconds: float) -> None:
        """Pass on how long everything is going to take.

        Args:
            seconds: from now on.
        """
        expect(self.progress, seconds)


def renamed(progress: Progress, name: str) -> Progress:
    """The same progress with another name for the stage."""

    def told(stage: str, done: int, total: int | None, note: str = "") -> None:
        # Most stages have no note, and whoever listens to these alone need not take one.
        progress(name, done, total, *([note] if note else []))

    return told
