"""How commands fail: in one sentence on stderr, with an exit code and without a traceback."""

from __future__ import annotations

import os
import sys

import click

from libgraph_cli.wording import flags_of, spelt


class CommandError(Exception):
    """What went wrong and what to do about it.

    Args:
        sentence: that says both.
        exit_code: of the command.
    """

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code

    def show(self) -> None:
        """Print it."""
        from rich.console import Console

        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print("[bold red]libgraph:[/] ", end="")
        console.print(str(self), markup=False)


def explained(error: Exception, command: click.Command) -> CommandError | None:
    """What a user is told of an error, in flags of the command; nothing of a mistake of ours."""
    if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
        # Within an import Ctrl-C may come out as the import's failure.
        return CommandError("Interrupted.", 130)
    if isinstance(error, BrokenPipeError):
        # Whoever read the output has seen enough; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    if isinstance(error, OSError):
        return CommandError(f"Cannot write the output ({error.strerror}): free some space.", 2)
    # The core is imported by now if it was the core that raised.
    errors = sys.modules.get("libgraph.errors")
    if errors is None:
        return None
    if errors.is_out_of_memory(error):
        advice = "close what else takes it, or use a machine that has more"
        if any(option.name == "batch_size" for option in command.params):
            advice = "choose a smaller --batch-size, or a smaller model"
        return CommandError(f"Not enough memory: {advice}.", 1)
    if isinstance(error, errors.LibgraphError):
        return CommandError(spelt(str(error), flags_of(command)), error.exit_code)
    return None
