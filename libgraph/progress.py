"""How computations say how far they have come: a call with a stage, what is done, and the total."""

from __future__ import annotations

from typing import Protocol


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


def renamed(progress: Progress, name: str) -> Progress:
    """The same progress with another name for the stage."""

    def told(stage: str, done: int, total: int | None, note: str = "") -> None:
        # Most stages have no note, and whoever listens to these alone need not take one.
        progress(name, done, total, *([note] if note else []))

    return told
