"""Options of commands: flags made of options models, flags that several commands share.

Flags win over environment variables (`LIBGRAPH_ANALYZE_DTYPE=float32`), those over `--config`.
"""

from __future__ import annotations

import datetime
import difflib
import functools
import tomllib
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

import click

from libgraph_cli.running import Request

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Callable[..., None]], Callable[..., None]]


OTHERS = "Input and output"
"""Heading of all options that are not of a model."""


MOST_SEED = 2**63 - 1
"""The largest seed that torch takes."""


class ExampleCommand(click.Command):
    """A command whose help ends with examples, a line each."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples, each in a line that can be copied."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"  {line}\n")


class GroupedCommand(ExampleCommand):
    """A command whose help shows its options under headings, those of its model first."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A section for every heading."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "group", OTHERS), []).append(record)
        sections[OTHERS] = sections.pop(OTHERS, [])
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


# Flags made of options models


class FieldOption(click.Option):
    """The flag of one option of a model, which says its name, type, default and help.

    Args:
        declarations: unused; the flag is called like the field.
        field: name of the option.
        info: what the model says of it.
        default: what the command takes if nothing is said.
        group: heading that help shows it under.
    """

    def __init__(
        self,
        declarations: Any = None,
        *,
        field: str,
        info: FieldInfo,
        default: object,
        group: str = OTHERS,
    ) -> None:
        from libgraph.backend.options import Shown

        shown = next((part for part in info.metadata if isinstance(part, Shown)), Shown())
        flag = shown.flag or field.replace("_", "-")
        kind, multiple = _kind(info.annotation)
        self.field = field
        self.group = group
        self.off = default is True
        if kind is bool:
            names = f"--{flag}" if self.off else f"--{flag}/--no-{flag}"
            attributes: dict[str, Any] = {"is_flag": True, "default": None}
        else:
            names = f"--{flag}"
            form = shown.form
            if isinstance(kind, click.Choice):
                form = "|".join(kind.choices)
            attributes = {"type": kind, "multiple": multiple, "metavar": form}
        text = f"{'do not ' if self.off else ''}{info.description}"
        text = _sentence(f"{text}; can be repeated" if multiple else text)
        otherwise = "" if self.off else shown.default or _text(default)
        super().__init__(
            [names], help=f"{text}  [{otherwise}]" if otherwise else text, **attributes
        )

    def given(self, value: object) -> object:
        """What the option is set to by what stood on the command line; None where nothing did."""
        if value in (None, ()) or (self.off and not value):
            return None
        return False if self.off else value


def _kind(annotation: Any) -> tuple[Any, bool]:
    """What click makes a value of, and whether there may be several."""
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (part for part in get_args(annotation) if part is not types.NoneType)
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation)), False
    if get_origin(annotation) is tuple:
        return _kind(get_args(annotation)[0])[0], True
    return annotation if annotation in (bool, int, float) else str, False


def _sentence(text: str) -> str:
    """A description as a sentence; γ stays γ."""
    first = text[:1].upper() if text[:1].isascii() else text[:1]
    return first + text[1:] + ("" if text.endswith("…") else ".")


def _text(default: object) -> str:
    """A default as people write it."""
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, tuple):
        return ",".join(map(_text, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def options_of(
    model: type[BaseModel],
    *,
    without: Collection[str] = (),
    defaults: Mapping[str, object] = types.MappingProxyType({}),
) -> Decorator:
    """A flag for each option of a model; the command is called with `options`, those given.

    Args:
        model: the options, in the order of its groups; others come first.
        without: options that the command does not offer.
        defaults: of the command, where it has others.
    """
    groups = getattr(model, "groups", {})
    headings = {field: heading for heading, fields in groups.items() for field in fields}
    order = list(headings)
    fields = sorted(
        model.model_fields, key=lambda name: order.index(name) if name in headings else -1
    )
    flags = [
        click.option(
            cls=FieldOption,
            field=name,
            info=model.model_fields[name],
            default=defaults.get(name, model.model_fields[name].default),
            group=headings.get(name, OTHERS),
        )
        for name in fields
        if name not in without
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def gathered(**values: Any) -> None:
            options: dict[str, object] = {}
            for option in click.get_current_context().command.params:
                if isinstance(option, FieldOption) and option.name in values:
                    value = option.given(values.pop(option.name))
                    if value is not None:
                        options[option.field] = value
            command(options=options, **values)

        for add in reversed(flags):
            add(gathered)
        return gathered

    return decorate


# What commands that compute have in common


def request_options(*, out: str, force: str, settings: str = "Option of the backend") -> Decorator:
    """`--out`, `--force`, `-o`, `--config`, `-q` and `-v`; the command is called with `request`.

    Args:
        out: help of `--out`.
        force: help of `--force`.
        settings: what `-o` sets.
    """
    names = ("out", "force", "quiet", "verbose")

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def gathered(**values: Any) -> None:
            told = {name: values.pop(name) for name in names}
            command(request=Request(settings=values.pop("option"), **told), **values)

        for add in reversed(
            (
                click.option("--out", type=click.Path(path_type=Path), help=out),
                click.option("--force", is_flag=True, help=force),
                pairs_option(settings),
                config_option,
                click.option("-q", "--quiet", is_flag=True, help="No progress."),
                click.option("-v", "--verbose", is_flag=True, help="Log what is done in detail."),
            )
        ):
            gathered = add(gathered)
        return gathered

    return decorate


dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Show layers and estimated cost, compute nothing."
)


def json_option(text: str) -> Callable[[Function], Function]:
    """`--json`, with its help."""
    return click.option("--json", "as_json", is_flag=True, help=text)


class _Pair(click.types.StringParamType):
    """`key=value`; an environment variable has one in each line, as values may have spaces."""

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """The lines."""
        return [line for line in rv.replace("\r\n", "\n").split("\n") if line.strip()]


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
        type=_Pair(),
        multiple=True,
        callback=parse,
        metavar="KEY=VALUE",
        help=f"{what}; `libgraph backends NAME` lists them.",
    )


def figure_options(command: Function) -> Function:
    """`--figure` and `--max-features`: the graph drawn to a file of one's own."""
    for option in (
        click.option(
            "--max-features",
            type=click.IntRange(min=1),
            help="Of each node layer in --figure.  [as many as a page has room for]",
        ),
        click.option(
            "--figure",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Draw the graph there too: .png, .svg or .pdf.",
        ),
    ):
        command = option(command)
    return command


def check_figure(figure: Path | None, max_features: int | None) -> None:
    """Refuse what `--figure` and `--max-features` cannot be, before anything is computed."""
    from libgraph.report.style import figure_kind

    if figure is not None:
        figure_kind(figure)
    elif max_features is not None:
        raise click.UsageError("--max-features is for --figure: name a file to draw to.")


# A configuration file


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


def _config(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    if path is None:
        return None
    options = _keys(context.command)
    defaults: dict[str, object] = {}
    for key, value in _read(path).items():
        name = key.replace("-", "_")
        if name not in options:
            close = difflib.get_close_matches(name, options, n=2)
            hint = f"; did you mean {' or '.join(close)}?" if close else "."
            raise click.BadParameter(f"'{path}' sets '{key}', which is no option here{hint}")
        option = options[name]
        if option.name == "option":
            if not isinstance(value, dict):
                raise click.BadParameter(f"'{path}' has to set '{key}' as a table [option].")
            context.meta["option"] = {
                part.replace("-", "_"): _listed(path, part, setting)
                for part, setting in value.items()
            }
        elif isinstance(value, list) and not option.multiple:
            raise click.BadParameter(f"'{path}' sets '{key}' to a list; it takes one value.")
        elif option.name:
            values = value if isinstance(value, list) else [value]
            texts = [_flat(path, key, part) for part in values]
            defaults[option.name] = texts if option.multiple else texts[0]
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _listed(path: Path, key: str, value: object) -> str:
    """What `-o` takes for a value, which may be a list: its parts with commas between."""
    if not isinstance(value, list):
        return _flat(path, key, value)
    parts = [_flat(path, key, part) for part in value]
    if any("," in part for part in parts):
        raise click.BadParameter(f"'{path}' sets '{key}' to a list with a comma in a part of it.")
    return ",".join(parts)


def _flat(path: Path, key: str, value: object) -> str:
    """What a flag takes for one value of TOML, read as strictly: 1.5 is no whole number."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime.date | datetime.time):
        raise click.BadParameter(f"'{path}' sets '{key}' to a date or time: put it in quotes.")
    if isinstance(value, dict | list):
        kind = "a table" if isinstance(value, dict) else "a list of lists"
        raise click.BadParameter(f"'{path}' has to set '{key}' to one value, not to {kind}.")
    try:
        text = str(value)
    except ValueError:
        raise click.BadParameter(f"'{path}' sets '{key}' to a number of too many digits.") from None
    if "\0" in text:
        raise click.BadParameter(f"'{path}' sets '{key}' to a text with a NUL character in it.")
    return text


def _read(path: Path) -> dict[str, Any]:
    try:
        # Some editors put a mark before the text.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise click.BadParameter(f"'{path}' cannot be read: {error.strerror}.") from None
    except RecursionError:
        raise click.BadParameter(f"'{path}' is not read: brackets in it go too deep.") from None
    except ValueError as error:
        # Beside mistakes in TOML, letters that are not UTF-8 and numbers of too many digits.
        raise click.BadParameter(f"'{path}' is not TOML: {error}.") from None


def _keys(command: click.Command) -> dict[str, click.Option]:
    """Options by what a configuration file may call them."""
    return {
        name.lstrip("-").replace("-", "_"): option
        for option in command.params
        if isinstance(option, click.Option) and option.expose_value
        for name in (option.name or "", *option.opts)
    }
