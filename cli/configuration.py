"""`--config FILE`: options of a command from a TOML file, and where in the file each one stands."""

from __future__ import annotations

import datetime
import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

Function = TypeVar("Function", bound=Callable[..., Any])

TABLE = "option"
"""Of the file, for what `-o` sets."""

PLACE = "libgraph.configuration"
"""Where a context keeps which file was read."""

HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$")
KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
NAMED = re.compile(r"[Oo]ption '(\w+)' of (the backend|training)?")


@dataclass(frozen=True)
class Configuration:
    """A file that was read.

    Args:
        path: of the file.
        lines: number of the line of each key, after the name of its table, if it is in one.
        context: of the command whose options it sets.
    """

    path: Path
    lines: Mapping[tuple[str, str], int]
    context: click.Context

    def where(self, key: str, table: str = "") -> str:
        """The file with the line of a key."""
        line = self.lines.get((table, key.replace("-", "_")), self.lines.get(("", table)))
        return f"'{self.path}'" if line is None else f"'{self.path}', line {line},"

    def line(self, key: str, table: str = "") -> str:
        """What is added to a sentence about the value of a key, if that is in the file."""
        line = self.lines.get((table, key.replace("-", "_")), self.lines.get(("", table)))
        return "" if line is None else f" (line {line} of '{self.path}')"


def config_option(command: Function) -> Function:
    """`--config FILE`: options from a TOML file, `-o` ones in its table `[option]`."""
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        callback=_config,
        is_eager=True,
        expose_value=False,
        help="TOML file with options by their names; a table [option] for -o.",
    )(command)


def located(error: click.BadParameter, context: click.Context) -> click.BadParameter:
    """The same error; if the value stands in a file, with its line."""
    configuration = context.meta.get(PLACE)
    name = error.param.name if error.param is not None else None
    if isinstance(configuration, Configuration) and name and _of_file(context, name):
        keys = [name, *(flag.lstrip("-") for flag in getattr(error.param, "opts", ()))]
        line = next(filter(None, map(configuration.line, keys)), "")
        return click.BadParameter(
            _with(error.message, line), error.ctx, error.param, error.param_hint
        )
    return error


def located_sentence(sentence: str, context: click.Context) -> str:
    """What the core says of an option; if its value stands in a file, with its line."""
    configuration, named = context.meta.get(PLACE), NAMED.search(sentence)
    if not isinstance(configuration, Configuration) or named is None:
        return sentence
    field, of_backend = named.groups()
    if of_backend:
        return _with(sentence, configuration.line(field, TABLE))
    for option in configuration.context.command.params:
        name = option.name or ""
        if getattr(option, "field", name) == field and _of_file(configuration.context, name):
            keys = [name, field, *(flag.lstrip("-") for flag in option.opts)]
            return _with(sentence, next(filter(None, map(configuration.line, keys)), ""))
    return sentence


def _of_file(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.DEFAULT_MAP


def _with(sentence: str, line: str) -> str:
    return f"{sentence.removesuffix('.')}{line}." if line else sentence


def _config(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    if path is None:
        return None
    text = _read(path)
    configuration = Configuration(path, _lines(text), context)
    context.meta[PLACE] = configuration
    options = _keys(context.command)
    defaults: dict[str, object] = {}
    for key, value in _parsed(path, text).items():
        name, place = key.replace("-", "_"), configuration.where(key)
        if name not in options:
            close = difflib.get_close_matches(name, options, n=2)
            hint = f"; did you mean {' or '.join(close)}?" if close else "."
            raise click.BadParameter(f"{place} sets '{key}', which is no option here{hint}")
        option = options[name]
        if option.name == TABLE:
            if not isinstance(value, dict):
                raise click.BadParameter(f"{place} has to set '{key}' as a table [option].")
            context.meta["option"] = {
                part.replace("-", "_"): _listed(configuration.where(part, TABLE), part, setting)
                for part, setting in value.items()
            }
        elif isinstance(value, list) and not option.multiple:
            raise click.BadParameter(f"{place} sets '{key}' to a list; it takes one value.")
        elif option.name:
            values = value if isinstance(value, list) else [value]
            texts = [_flat(place, key, part) for part in values]
            defaults[option.name] = texts if option.multiple else texts[0]
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _listed(place: str, key: str, value: object) -> str:
    """What `-o` takes for a value, which may be a list: its parts with commas between."""
    if not isinstance(value, list):
        return _flat(place, key, value)
    parts = [_flat(place, key, part) for part in value]
    if any("," in part for part in parts):
        raise click.BadParameter(f"{place} sets '{key}' to a list with a comma in a part of it.")
    return ",".join(parts)


def _flat(place: str, key: str, value: object) -> str:
    """What a flag takes for one value of TOML, read as strictly: 1.5 is no whole number."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime.date | datetime.time):
        raise click.BadParameter(f"{place} sets '{key}' to a date or time: put it in quotes.")
    if isinstance(value, dict | list):
        kind = "a table" if isinstance(value, dict) else "a list of lists"
        raise click.BadParameter(f"{place} has to set '{key}' to one value, not to {kind}.")
    try:
        text = str(value)
    except ValueError:
        raise click.BadParameter(f"{place} sets '{key}' to a number of too many digits.") from None
    if "\0" in text:
        raise click.BadParameter(f"{place} sets '{key}' to a text with a NUL character in it.")
    return text


def _read(path: Path) -> str:
    try:
        # Some editors put a mark before the text.
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise click.BadParameter(f"'{path}' cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise click.BadParameter(f"'{path}' is not TOML: {error}.") from None


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise click.BadParameter(f"'{path}' is not read: brackets in it go too deep.") from None
    except ValueError as error:
        # Beside mistakes in TOML, numbers of too many digits.
        raise click.BadParameter(f"'{path}' is not TOML: {error}.") from None


def _lines(text: str) -> dict[tuple[str, str], int]:
    """Where each key stands first, as far as lines tell; `_parsed` says what they mean."""
    lines: dict[tuple[str, str], int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := HEADER.match(line):
            table = _plain(header[1])
            lines.setdefault(("", table), number)
        elif key := KEY.match(line):
            *before, last = map(_plain, key[1].split("."))
            lines.setdefault((".".join(filter(None, [table, *before])), last), number)
    return lines


def _plain(key: str) -> str:
    return key.strip().strip("\"'").replace("-", "_")


def _keys(command: click.Command) -> dict[str, click.Option]:
    """Options by what a configuration file may call them."""
    return {
        name.lstrip("-").replace("-", "_"): option
        for option in command.params
        if isinstance(option, click.Option) and option.expose_value
        for name in (option.name or "", *option.opts)
    }
