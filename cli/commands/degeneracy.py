"""`libgraph degeneracy`: what in a network does nothing, on screen and in a directory."""

from __future__ import annotations

import click

from libgraph.degeneracy.options import DegeneracyOptions
from libgraph_cli.completing import complete_backends
from libgraph_cli.options import GroupedCommand, json_option, options_of, request_options
from libgraph_cli.ranks import ranks_joined
from libgraph_cli.running import Request, Values

EXAMPLES = """\
libgraph degeneracy modular-addition
libgraph degeneracy mlp --volume --samples 200"""


@click.command(cls=GroupedCommand, epilog=EXAMPLES)
@click.argument("backend", shell_complete=complete_backends)
@options_of(DegeneracyOptions)
@json_option("Print degeneracy.json instead of tables.")
@request_options(
    out="Directory.  [runs/BACKEND-degeneracy-TIME]",
    force="Replace the directory, reusing what still holds.",
)
def degeneracy(backend: str, options: Values, as_json: bool, request: Request) -> None:
    """Find what in BACKEND's model does nothing: parameters that are free to move.

    Writes degeneracy.json, graph.graphml of its units for Gephi, and figures: spectra.png,
    effective.png, units.png and heads.png. An interrupted run goes on with the same --out.
    """
    from libgraph.degeneracy.measure import measure_degeneracy
    from libgraph.screen import Screen
    from libgraph_cli.tables.degeneracy import print_degeneracy

    with ranks_joined(options.get("device", "cpu")) as speaks:
        model = request.backend(backend)
        with (
            request.directory(f"{backend}-degeneracy", speaks=speaks) as directory,
            request.display(speaks=speaks) as progress,
        ):
            figures = measure_degeneracy(
                model, out=directory, force=request.force, progress=progress, **options
            )
    if not speaks:
        return
    if as_json:
        click.echo(figures.text())
        return
    screen = Screen()
    print_degeneracy(screen, figures)
    pictures = [name for name in ("spectra.png", "effective.png") if (directory / name).exists()]
    look = f": look at {' and '.join(pictures)}" if pictures else ""
    screen.say(f"Written to {directory}{look}.")
