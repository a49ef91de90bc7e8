"""`libgraph completion`: the script that makes a shell complete what is typed."""

from __future__ import annotations

import click

from libgraph_cli.options import GroupedCommand

SHELLS = ("bash", "zsh", "fish")


@click.command(
    cls=GroupedCommand,
    epilog="libgraph completion bash >> ~/.bashrc\n"
    "libgraph completion zsh >> ~/.zshrc\n"
    "libgraph completion fish > ~/.config/fish/completions/libgraph.fish",
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes bash, zsh or fish complete commands, options and backends.

    It belongs into the file that the shell reads when it starts; a new shell then completes.
    """
    from click.shell_completion import get_completion_class

    from libgraph_cli.main import cli

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"There is no completion for {shell}: use one of {SHELLS}.")
    made = kind(cli, {}, "libgraph", "_LIBGRAPH_COMPLETE")
    # Of bash `source` would ask for its version, and fail where it is not installed.
    click.echo(made.source_template % made.source_vars())
