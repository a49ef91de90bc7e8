"""Progress on stderr: live bars on a terminal, one plain line per finished stage elsewhere.

What the core logs goes to the same place, above the bars.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from libgraph.screen import Screen, tell
from libgraph.visible import in_line


class ProgressDisplay:
    """Told `(stage, done, total)` by the core; a stage ends when another begins.

    Args:
        quiet: show no progress; warnings are shown all the same.
        verbose: show what the core logs in detail.
        console: where to; stderr by default.
        spell: how the command line says what the core logs.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        verbose: bool = False,
        console: Console | None = None,
        spell: Callable[[str], str] = str,
    ) -> None:
        self.verbose = verbose
        self.spell = spell
        self.console = console or Screen(stderr=True)
        self.live = self.console.is_terminal and not quiet
        self.plain = not self.live and not quiet
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=self.console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._current: tuple[str, float] | None = None

    def __call__(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """Move the bar of `stage`, with a note beside it."""
        if self._current is None or self._current[0] != stage:
            self._end_stage()
            self._current = (stage, time.monotonic())
            if self.live:
                self._tasks[stage] = self._progress.add_task(in_line(stage), total=total, note="")
        if self.live:
            task = self._tasks[stage]
            self._progress.update(task, completed=done, total=total, note=in_line(note))

    def __enter__(self) -> ProgressDisplay:
        log = logging.getLogger("libgraph")
        log.setLevel(logging.INFO if self.verbose else logging.WARNING)
        handler = _Lines(self.console)
        handler.setFormatter(_Spelt(self.spell))
        log.handlers = [handler]
        if self.live:
            self._progress.start()
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
            self._progress.stop()

    def _end_stage(self) -> None:
        if self._current is None:
            return
        stage, began = self._current
        if self.live:
            task = self._tasks[stage]
            total = self._progress.tasks[task].completed or 1
            self._progress.update(task, completed=total, total=total)
        if self.plain:
            tell(self.console, f"{in_line(stage)}: {time.monotonic() - began:.1f} s", whole=True)


class _Lines(logging.Handler):
    """Every message one line, which only a terminal breaks: paths in it can be copied."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message, whatever is in it."""
        tell(self.console, self.format(record), whole=True)


class _Spelt(logging.Formatter):
    """Messages alone, spelt; the records stay as they are for whoever reads them as well."""

    def __init__(self, spell: Callable[[str], str]) -> None:
        super().__init__("%(message)s")
        self.spell = spell

    def format(self, record: logging.LogRecord) -> str:
        return self.spell(super().format(record))
