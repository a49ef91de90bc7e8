"""How commands fail: in one sentence on stderr, with an exit code and without a traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress

import click

from libgraph_cli.wording import flags_of, spelt


class CommandError(Exception):
    """What went wrong and what to do about it.

    Args:
        sentence: that says both; empty where somebody else has told.
        exit_code: of the command.
    """

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code

    def show(self) -> None:
        """Print it."""
        if not str(self):
            return
        from libgraph.screen import Screen, tell

        tell(Screen(stderr=True), ("libgraph:", "bold red"), f" {self}", whole=True)


def explained(
    error: Exception, command: click.Command, located: Callable[[str], str] = str
) -> CommandError | None:
    """What a user is told of an error, in flags of the command; nothing of a mistake of ours.

    Args:
        error: that was raised.
        command: that ran.
        located: adds to a sentence where the value stands that it is about.
    """
    if isinstance(error, CommandError):
        return error
    if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
        # Within an import Ctrl-C may come out as the import's failure.
        return CommandError("Interrupted.", 130)
    if isinstance(error, BrokenPipeError):
        # Whoever read the output has seen enough.
        leave_output()
        sys.exit(0)
    # The core is imported by now if it was the core that raised.
    errors = sys.modules.get("libgraph.errors")
    memory = errors is not None and errors.is_out_of_memory(error)
    if isinstance(error, OSError) and not memory:
        return CommandError(_of_the_system(error), 2)
    if errors is None:
        return None
    if memory:
        advice = "close what else takes it, or use a machine that has more"
        if any(option.name == "batch_size" for option in command.params):
            advice = "choose a smaller --memory or --batch-size, or a smaller model"
        return CommandError(f"Not enough memory: {advice}.", 1)
    if isinstance(error, errors.LibgraphError):
        return CommandError(spelt(located(str(error)), flags_of(command)), error.exit_code)
    return None


def leave_output() -> None:
    """Have what is not written yet go nowhere: at exit Python would try, and complain, again."""
    with suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What the system says where something cannot be written for want of space."""


def _of_the_system(error: OSError) -> str:
    """An error of the system that nobody has expected, with the file that it is about."""
    reason = error.strerror or str(error) or type(error).__name__
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    if error.errno in FULL:
        if not names:
            leave_output()
        what = f"'{names[-1]}'" if names else "the output"
        return f"Cannot write {what} ({reason}): free some space."
    if names:
        where = " or ".join(f"'{name}'" for name in names)
        return f"{where} cannot be read or written ({reason}): check the path and its permissions."
    return f"A file, or something else of the system, cannot be used ({reason})."
