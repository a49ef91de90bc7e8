"""`libgraph backends`: which backends there are, what options they take, whether they are right."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from libgraph_cli.completing import complete_backends
from libgraph_cli.configuration import config_option
from libgraph_cli.options import GroupedCommand, json_option, pairs_option

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


class ByName(click.Group):
    """A group in which the name of a backend alone means `show`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The subcommand, and what is left for it."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["show", *args]
        return super().resolve_command(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples, each in a line that can be copied."""
        with formatter.section("Examples"):
            for line in (self.epilog or "").splitlines():
                formatter.write(f"  {line}\n")


@click.group(
    cls=ByName,
    invoke_without_command=True,
    epilog="libgraph backends\nlibgraph backends show lm\nlibgraph backends check my-backend",
)
@json_option("Print the list as JSON.")
@click.pass_context
def backends(context: click.Context, as_json: bool) -> None:
    """List the installed backends, show the options of one, or check it.

    Of plug-ins nothing is imported for the list. `libgraph backends NAME` shows one.
    """
    if context.invoked_subcommand is not None:
        return
    from libgraph.backend.registry import listed_backends
    from libgraph.screen import PlainTable, Screen
    from libgraph.screen import show as show_table

    listed = listed_backends()
    if as_json:
        rows = [
            {
                "name": backend.name,
                "summary": backend.summary,
                "entry_point": backend.entry_point,
                "distribution": backend.distribution,
                "version": backend.version,
            }
            for backend in listed
        ]
        click.echo(json.dumps(rows, indent=1))
        return
    headings = ["backend", "what it analyses", "from"]
    if all(backend.ours for backend in listed):
        headings.pop()
    table = PlainTable(headings, words={1, 2}, left={1, 2})
    for backend in listed:
        whose = "" if backend.ours else f"{backend.distribution or ''} {backend.version or ''}"
        table.add_row(*(backend.name, backend.summary, whose.strip())[: len(headings)])
    show_table(Screen(), table)


@backends.command(
    cls=GroupedCommand, epilog="libgraph backends show modular-addition\nlibgraph backends show lm"
)
@click.argument("name", shell_complete=complete_backends)
@json_option("Print them as JSON.")
def show(name: str, as_json: bool) -> None:
    """Show the options of a backend, and of its training."""
    from libgraph.backend.registry import backend_class
    from libgraph.screen import PlainTable, Screen, tell
    from libgraph.screen import show as show_table

    cls = backend_class(name)
    models = {
        command: options
        for command, options in (("analyze", cls.Options), ("train", cls.Training))
        if options is not None
    }
    if as_json:
        schemas = {command: options.model_json_schema() for command, options in models.items()}
        click.echo(json.dumps({"name": name, "summary": cls.summary, **schemas}, indent=1))
        return
    screen = Screen()
    tell(screen, f"{name}: {cls.summary}" if cls.summary else name, style="bold")
    for command, options in models.items():
        screen.print()
        if not options.model_fields:
            tell(screen, f"libgraph {command} {name} takes no options of its own.")
            continue
        table = PlainTable(("key", "default", "what it is"), words={1, 2}, left={1, 2})
        for key, field in options.model_fields.items():
            table.add_row(key, _default(field), field.description or "")
        tell(screen, f"libgraph {command} {name} -o KEY=VALUE", style="italic")
        show_table(screen, table)


def _default(field: FieldInfo) -> str:
    """A default as people write it."""
    if field.is_required():
        return "(has to be given)"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


@backends.command(
    cls=GroupedCommand,
    heading="What is checked",
    epilog="libgraph backends check mlp\nlibgraph backends check mlp -o task=digits --samples 4",
)
@click.argument("name", shell_complete=complete_backends)
@click.option(
    "--samples", type=click.IntRange(min=1), default=6, help="Of the numerical checks.  [6]"
)
@json_option("Print the outcome as JSON.")
@pairs_option("Option of the backend")
@config_option
def check(name: str, samples: int, as_json: bool, option: dict[str, str]) -> None:
    """Check that a backend keeps its contract.

    That is what its data, network, derivatives, scores and labels have to be. Ends with 0 if it
    does, and with 3 and what is wrong where it does not. Every section is compared with dense
    Jacobians, which takes long for large models: check a small one.
    """
    from libgraph.backend.registry import load_backend
    from libgraph.errors import BackendError
    from libgraph.screen import Screen
    from libgraph.testing import check_backend

    backend = load_backend(name, **option)
    wrong = ""
    try:
        check_backend(backend, samples=samples)
    except AssertionError as error:
        wrong = str(error)
    if as_json:
        click.echo(json.dumps({"name": name, "right": not wrong, "wrong": wrong or None}, indent=1))
    if wrong:
        raise BackendError(f"The backend '{name}' does not keep its contract: {wrong}.")
    if not as_json:
        Screen().say(f"The backend '{name}' keeps its contract.")
