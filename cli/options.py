"""Options that several commands share, and how a configuration file feeds them.

Flags win over environment variables (`LIBGRAPH_ANALYZE_DTYPE=float32`), those over `--config`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


def _config(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"'{path}' is not TOML: {error}.") from None
    known = {each.name for each in context.command.params if each.name}
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known or name == "config":
            close = difflib.get_close_matches(name, known, n=2)
            hint = f"; did you mean {' or '.join(close)}?" if close else "."
            raise click.BadParameter(f"'{path}' sets '{key}', which is no option here{hint}")
        multiple = {each.name for each in context.command.params if getattr(each, "multiple", 0)}
        if (name == "option") != isinstance(value, dict):
            raise click.BadParameter(
                f"'{path}' has to set '{key}' "
                + ("as a table [option]." if name == "option" else "to one value, not to a table.")
            )
        if isinstance(value, list) and name not in multiple:
            raise click.BadParameter(f"'{path}' sets '{key}' to a list; it takes one value.")
        if name in multiple - {"option"} and not isinstance(value, list):
            value = [value]
        if name == "option":
            context.meta["option"] = {
                each.replace("-", "_"): str(setting) for each, setting in value.items()
            }
        else:
            defaults[name] = value
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


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


def pairs_option(what: str) -> Callable[[Function], Function]:
    """`-o key=value`, as often as wanted, into a dict."""

    def parse(
        context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
    ) -> dict[str, str]:
        pairs: dict[str, str] = dict(context.meta.get("option", {}))
        for value in values:
            key, equals, rest = value.partition("=")
            if not equals or not key:
                raise click.BadParameter(f"'{value}' is not of the form key=value.")
            pairs[key.strip().replace("-", "_")] = rest
        return pairs

    return click.option(
        "-o",
        "--option",
        multiple=True,
        callback=parse,
        metavar="KEY=VALUE",
        help=f"{what}; `libgraph backends NAME` lists them.",
    )


def verbosity_options(command: Function) -> Function:
    """`-q` and `-v`."""
    quiet = click.option("-q", "--quiet", is_flag=True, help="No progress.")
    verbose = click.option("-v", "--verbose", is_flag=True, help="Log what is done in detail.")
    return quiet(verbose(command))
