"""The `libgraph` command: its subcommands, and how it ends.

A subcommand is imported when it runs or shows its help, the core when a command runs: `--help` and
completion load no torch. Errors made for users end in one sentence on stderr and the exit code of
their class; Ctrl-C ends with 130, SIGTERM with 143.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

import click

from libgraph_cli.configuration import located_sentence
from libgraph_cli.failures import CommandError, explained, leave_output
from libgraph_cli.threads import spin_briefly

CONTEXT = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "LIBGRAPH"}


COMMANDS = {
    "ablate": "Switch FEATURES of RUN off, such as ln2.0/5, and see what the model loses.",
    "analyze": "Find the features of BACKEND's model, their interactions and their modules.",
    "backends": "List the installed backends, show the options of one, or check it.",
    "benchmark": "Measure bases on networks whose features and interactions are known.",
    "communities": "Find the modules of RUN again, or of a graph file.",
    "compare": "Compare bases of BACKEND's model on the same data, or finished RUNs.",
    "completion": "Print what makes bash, zsh or fish complete commands, options and backends.",
    "degeneracy": "Find what in BACKEND's model does nothing: parameters that are free to move.",
    "diff": "Compare finished RUNs in detail: checkpoints, seeds, or two bases.",
    "doctor": "Say what libgraph has here and what is slow; or check every file of RUN.",
    "export": "Write the graph of RUN, or of a graph file, for other programs.",
    "faithfulness": "Measure how much of RUN's network its largest interactions do alone.",
    "prompt": "Show what made RUN's model say what it says of one TEXT, feature by feature.",
    "show": "Show a feature of RUN, such as ln2.0/5: what feeds it, and where it leads.",
    "steer": "Change features of RUN while its model reads one input, and see what it says.",
    "train": "Train the model of BACKEND from scratch.",
    "view": "Open the page of RUN, report.html, in the browser; writes it if there is none.",
}
"""Every subcommand, each in the module of `commands` that has its name, and its summary."""


class LazyCommand(click.Command):
    """Stands for a command whose module is imported when it is needed.

    Args:
        name: of the command, of its module and of the function in it (there with `_` for `-`).
        summary: the line that the list of commands shows.
    """

    def __init__(self, name: str, summary: str) -> None:
        super().__init__(name, short_help=summary)

    @property
    def module(self) -> str:
        """What Python calls it, and its function."""
        return str(self.name).replace("-", "_")

    def load(self) -> click.Command:
        """The command itself."""
        command: click.Command = getattr(
            import_module(f"libgraph_cli.commands.{self.module}"), self.module
        )
        return command

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """That of the command itself: it parses, runs and shows its help."""
        return self.load().make_context(info_name, args, parent, **extra)


class Commands(click.Group):
    """The subcommands; what goes wrong in one is told in its words."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """As for any group; where nobody reads the help to its end, that is no failure."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except BrokenPipeError:
            leave_output()
            sys.exit(0)

    def invoke(self, context: click.Context) -> Any:
        """Run a subcommand.

        Raises:
            CommandError: for an error that a user can do something about.
        """
        try:
            return super().invoke(context)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            command = self.commands[str(context.invoked_subcommand)]
            loaded = command.load() if isinstance(command, LazyCommand) else command
            failure = explained(error, loaded, lambda text: located_sentence(text, context))
            if failure is None:
                raise
            raise failure from error


def _version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from libgraph import __version__

        click.echo(f"{context.info_name} {__version__}")
        context.exit()


@click.group(
    cls=Commands,
    context_settings=CONTEXT,
    commands=[LazyCommand(name, summary) for name, summary in COMMANDS.items()],
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """See what a neural network is made of: the directions that matter to its computation, how
    they act on each other, and which of them form modules.

    \b
    Exit codes: 0 ok, 1 out of memory or another rank has failed, 2 usage,
    3 backend or model, 4 data, 5 numerical, 130 interrupted, 143 terminated.
    """


class _Told(io.StringIO):
    """What click says, whole: elsewhere than on terminals it drops what it takes for colours."""

    def isatty(self) -> bool:
        """So it says."""
        return True


class Terminated(KeyboardInterrupt):
    """The process was asked to end: what is done so far is kept, as with Ctrl-C."""


def _terminate(number: int, frame: object) -> None:
    raise Terminated


def main() -> None:
    """Run the command and exit with its code."""
    spin_briefly()
    # Notebooks name their backend of matplotlib for every process, where it need not be installed,
    # and whatever imports matplotlib would fail over it: commands write files and show nothing.
    os.environ.pop("MPLBACKEND", None)
    if os.environ.get("WORLD_SIZE"):
        # Of ranks that are gone `libgraph_cli.watch` tells, and torch need not.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # In an encoding of few signs the others are escaped; `Screen` finds better ones.
            stream.reconfigure(errors="backslashreplace")
    with suppress(ValueError):
        # Elsewhere than in the main thread signals cannot be had.
        signal.signal(signal.SIGTERM, _terminate)
    try:
        cli(prog_name="libgraph", standalone_mode=False)
    except CommandError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        from libgraph.visible import visible

        with _Told() as told:
            error.show(told)
            click.echo(visible(told.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        terminated = isinstance(error.__cause__ or error, Terminated)
        code, what = (143, "Terminated.") if terminated else (130, "Interrupted.")
        CommandError(str(error) or what, code).show()
        sys.exit(code)
