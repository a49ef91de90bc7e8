"""Options of commands: flags made of options models, flags that several commands share.

Flags win over environment variables (`LIBGRAPH_ANALYZE_DTYPE=float32`), those over `--config`.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

import click

from libgraph_cli.configuration import config_option, located
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


COMMON = {
    "as_json", "dry_run", "figure", "force", "max_features", "option", "out",
    "quiet", "verbose",
}  # fmt: skip
"""Options that commands have in common, by their names: help shows them last."""


class GroupedCommand(click.Command):
    """A command whose help shows options under headings, and ends with examples, a line each.

    Args:
        heading: of those options that belong to no model and are not common to commands.
    """

    def __init__(self, *arguments: Any, heading: str = "Choices", **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.heading = heading

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As any command; of a value from a file it is said where it stands.

        Raises:
            BadParameter: if a value cannot be read.
        """
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            raise located(error, ctx) from error

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples, each in a line that can be copied."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"  {line}\n")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A section for every heading."""
        for heading, options in self.sections(ctx).items():
            records = [record for option in options if (record := option.get_help_record(ctx))]
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def sections(self, ctx: click.Context) -> dict[str, list[click.Option]]:
        """Options by their headings, the common ones last."""
        sections: dict[str, list[click.Option]] = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option):
                # Eager are --help and --config.
                common = parameter.name in COMMON or parameter.is_eager
                own = OTHERS if common else self.heading
                sections.setdefault(getattr(parameter, "group", own), []).append(parameter)
        sections[OTHERS] = sections.pop(OTHERS, [])
        return sections


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
