"""What a shell is offered where the name of a backend stands; nothing is imported for it."""

from __future__ import annotations

import click


def complete_backends(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Names of installed backends that begin so."""
    from importlib.metadata import entry_points

    names = {entry.name for entry in entry_points(group="libgraph.backends")}
    return sorted(name for name in names if name.startswith(incomplete))
