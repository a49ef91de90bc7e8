"""The `libgraph` command: its subcommands, and how it ends.

Commands import the core when they run, so that `--help` and completion load no torch. Errors made
for users end in one sentence on stderr and the exit code of their class; Ctrl-C ends with 130.
"""

from __future__ import annotations

import os
import sys

import click
from rich.console import Console

from libgraph_cli.commands.analyze import analyze
from libgraph_cli.commands.backends import backends
from libgraph_cli.commands.communities import communities
from libgraph_cli.commands.compare import compare
from libgraph_cli.commands.degeneracy import degeneracy
from libgraph_cli.commands.diff import diff
from libgraph_cli.commands.train import train

CONTEXT = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "LIBGRAPH"}


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="libgraph", message="%(prog)s %(version)s")
def cli() -> None:
    """See what a neural network is made of: the directions that matter to its computation, how
    they act on each other, and which of them form modules.

    \b
    Exit codes: 0 ok, 1 out of memory, 2 usage, 3 backend or model, 4 data, 5 numerical,
    130 interrupted.
    """


cli.add_command(analyze)
cli.add_command(backends)
cli.add_command(communities)
cli.add_command(compare)
cli.add_command(degeneracy)
cli.add_command(diff)
cli.add_command(train)


def main() -> None:
    """Run the command and exit with its code."""
    try:
        cli(prog_name="libgraph", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        _complain(str(error) or "Interrupted.")
        sys.exit(130)
    except Exception as error:
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            # Within an import Ctrl-C may come out as the import's failure.
            _complain("Interrupted.")
            sys.exit(130)
        # The core is imported by now if it was the core that raised.
        errors = sys.modules.get("libgraph.errors")
        if isinstance(error, BrokenPipeError):
            # Whoever read the output has seen enough; Python would complain once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        if isinstance(error, OSError):
            _complain(f"Cannot write the output ({error.strerror}): free some space.")
            sys.exit(2)
        if errors is not None and errors.is_out_of_memory(error):
            _complain("Not enough memory: choose a smaller --batch-size, or a smaller model.")
            sys.exit(1)
        if errors is None or not isinstance(error, errors.LibgraphError):
            raise
        _complain(str(error))
        sys.exit(error.exit_code)


def _complain(sentence: str) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("[bold red]libgraph:[/] ", end="")
    console.print(sentence, markup=False)
