"""Progress of a command on stderr, and above it what the core logs, in the command's own words."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Self

from rich.console import Console

from libgraph.bars import Bars
from libgraph.screen import tell


class ProgressDisplay(Bars):
    """Bars, or a line for every finished stage, and messages of the core.

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
        super().__init__(console, quiet=quiet)
        self.verbose = verbose
        self.spell = spell

    def __enter__(self) -> Self:
        log = logging.getLogger("libgraph")
        log.setLevel(logging.INFO if self.verbose else logging.WARNING)
        handler = _Lines(self.console)
        handler.setFormatter(_Spelt(self.spell))
        log.handlers = [handler]
        return super().__enter__()


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
