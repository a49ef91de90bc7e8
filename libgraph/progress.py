"""How computations say how far they have come: a call with a stage, what is done, and the total."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told how far a stage has come; `total` is None where nobody knows."""

    def __call__(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """Take note."""


def silent(stage: str, done: int, total: int | None, note: str = "") -> None:
    """Progress that goes nowhere."""


def renamed(progress: Progress, name: str) -> Progress:
    """The same progress with another name for the stage."""

    def told(stage: str, done: int, total: int | None, note: str = "") -> None:
        # Most stages have no note, and whoever listens to these alone need not take one.
        progress(name, done, total, *([note] if note else []))

    return told
