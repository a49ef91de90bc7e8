"""What the core says, in the words of the command line.

The core names options as Python has them, `force=True` or `out='…'`. Where they are options of the
command that runs, or of `libgraph analyze` where a run has to be made again, a sentence says them
as flags: `--force`, `--out`.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Mapping

import click

PLACEHOLDER = "…"
"""Stands for a value of one's own: `out='…'` is `--out`."""


VALUE = (
    r"True|False|None|…"
    r"|'(?:[^'\\]|\\.)*'"
    r'|"(?:[^"\\]|\\.)*"'
    r"|\([^()]*\)"
    r"|-?\d+(?:\.\d+)?(?:e-?\d+)?"
)
ASSIGNMENT = re.compile(rf"(?<![\w.=-])(?<!-o )(\w+)=({VALUE})(?!\w)")
NAME = re.compile(r"Option '(\w+)' of (?!the backend|training)")

Flags = Mapping[str, click.Option]
"""What can be said on the command line, by what Python calls it."""


def flags_of(command: click.Command) -> Flags:
    """Options of a command, and of `analyze` those that it does not have itself."""
    from libgraph_cli.commands.analyze import analyze

    flags: dict[str, click.Option] = {}
    for option in (*command.params, *analyze.params):
        if isinstance(option, click.Option) and option.name:
            flags.setdefault(getattr(option, "field", option.name), option)
    return flags


def spelt(sentence: str, flags: Flags) -> str:
    """The sentence with flags, where it names options of Python."""

    def assignment(match: re.Match[str]) -> str:
        name, value = match.groups()
        flag = _flag(flags[name], value) if name in flags else None
        return flag or match.group()

    def name(match: re.Match[str]) -> str:
        option = flags.get(match[1])
        return f"Option {option.opts[-1]} of " if option else match.group()

    return NAME.sub(name, ASSIGNMENT.sub(assignment, sentence))


def _flag(option: click.Option, text: str) -> str | None:
    """What sets the option to a value as Python writes it, if anything does."""
    flag = option.opts[-1]
    value = PLACEHOLDER if text == PLACEHOLDER else ast.literal_eval(text)
    if value == PLACEHOLDER:
        return flag
    if option.is_flag:
        switches_on = not getattr(option, "off", False)
        if value is switches_on:
            return flag
        return option.secondary_opts[-1] if option.secondary_opts else None
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"{flag} {shlex.quote(str(part))}" for part in values)
