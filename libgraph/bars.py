"""Progress to look at: what runs now, what it leaves to do, and what is finished.

Bars on a terminal and in a notebook, of which the one that moves is always in sight; elsewhere one
plain line a finished stage.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType
from typing import Self

from rich import progress as rich_progress
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.text import Text

from libgraph.progress import Progress, in_words, silent
from libgraph.screen import Screen, tell
from libgraph.visible import in_line

IN_SIGHT = 8
"""Finished stages that stay in sight, so that all bars fit into half of 24 lines."""


class Bars:
    """Told `(stage, done, total)`; a stage ends when another begins.

    Args:
        console: where to; standard error by default.
        quiet: show nothing.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Screen(stderr=True)
        self.live = moves(self.console) and not quiet
        self.plain = not self.live and not quiet
        self._stages = rich_progress.Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Times(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=self.console,
        )
        self._in_sight: list[TaskID] = []
        self._finished = 0
        self._current: tuple[str, float, TaskID | None] | None = None
        self._ends: float | None = None
        self._live = Live(get_renderable=self._picture, console=self.console)

    def __call__(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """Move the bar of `stage`, with a note beside it."""
        if self._current is None or self._current[0] != stage:
            self._end_stage()
            task = None
            if self.live:
                task = self._stages.add_task(in_line(stage), total=total, note="")
            self._current = (stage, time.monotonic(), task)
        task = self._current[2]
        if task is not None:
            self._stages.update(task, completed=done, total=total, note=in_line(note))

    def expect(self, seconds: float) -> None:
        """Take note that all that is still to come is going to take so long."""
        self._ends = time.monotonic() + seconds

    def __enter__(self) -> Self:
        if self.live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._end_stage()
        if self.live:
            self._ends = None
            self._live.stop()

    def _end_stage(self) -> None:
        if self._current is None:
            return
        stage, began, task = self._current
        if task is not None:
            total = self._task(task).completed or 1
            self._stages.update(task, completed=total, total=total)
            self._finished += 1
            self._in_sight.append(task)
            if len(self._in_sight) > IN_SIGHT:
                self._stages.remove_task(self._in_sight.pop(0))
        if self.plain:
            tell(self.console, f"{in_line(stage)}: {time.monotonic() - began:.1f} s", whole=True)

    def _task(self, task: TaskID) -> Task:
        return self._stages.tasks[self._stages.task_ids.index(task)]

    def _picture(self) -> RenderableType:
        """Bars, how many are out of sight above them, and below how long all of it takes."""
        lines: list[RenderableType] = [self._stages]
        if hidden := self._finished - len(self._in_sight):
            lines.insert(0, Text(f"✓ {hidden} finished before", style="dim"))
        if self._ends is not None:
            left = max(0.0, self._ends - time.monotonic(), *self._left_of_stage())
            lines.append(Text(f"  all stages: about {in_words(left)} left", style="dim"))
        return Group(*lines)

    def _left_of_stage(self) -> list[float]:
        """Seconds that the running stage needs at its speed so far, if that can be told."""
        running = [task.time_remaining for task in self._stages.tasks if not task.finished]
        return [left for left in running if left is not None]


class _Times(rich_progress.ProgressColumn):
    """How long a stage took; of one that runs, how long so far and how long it is going to."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """As `0:16, 7:43 left`."""
        if task.finished:
            return Text(_clock(task.finished_time or 0.0), style="dim")
        left = task.time_remaining
        rest = "" if left is None else f", {_clock(left)} left"
        return Text(f"{_clock(task.elapsed or 0.0)}{rest}")


def _clock(seconds: float) -> str:
    """As clocks show it: minutes and seconds, and hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def moves(console: Console) -> bool:
    """Whether bars can move there: on terminals, and in notebooks that can redraw."""
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return console.is_terminal


@contextmanager
def shown(progress: Progress | None) -> Iterator[Progress]:
    """The progress that was given; for None bars where somebody looks, and else nothing."""
    if progress is not None:
        yield progress
        return
    console = Screen(stderr=True)
    # Of the ranks of a torchrun job only the first is looked at.
    watched = console.is_terminal or console.is_jupyter
    if not watched or os.environ.get("RANK", "0") != "0":
        yield silent
        return
    with Bars(console) as bars:
        yield bars
