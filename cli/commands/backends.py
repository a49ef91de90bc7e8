"""`libgraph backends`: which backends there are, and what options they take."""

from __future__ import annotations

import click


@click.command()
@click.argument("backend", required=False)
def backends(backend: str | None) -> None:
    """List the installed backends, or the options of one."""
    from libgraph.backend.registry import backend_class, backend_names
    from libgraph.errors import BackendError
    from libgraph.screen import PlainTable, Screen, show, tell

    screen = Screen()
    if backend is None:
        table = PlainTable(("backend", "what it analyses"), words={1}, left={1})
        for name in backend_names():
            try:
                table.add_row(name, backend_class(name).summary)
            except BackendError as error:
                # One that is broken does not hide the others.
                table.add_row(name, str(error))
        show(screen, table)
        return
    cls = backend_class(backend)
    for command, options in (("analyze", cls.Options), ("train", cls.Training)):
        if options is None:
            continue
        title = f"libgraph {command} {backend} -o KEY=VALUE"
        table = PlainTable(("key", "default", "what it is"), words={1, 2}, left={1, 2})
        for name, field in options.model_fields.items():
            default = "" if field.default is None or field.is_required() else str(field.default)
            table.add_row(name, default, field.description or "")
        tell(screen, title, style="italic")
        show(screen, table)
        screen.print()
