"""`libgraph view`: the page of a run, opened in the browser."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path

import click

from libgraph_cli.configuration import config_option
from libgraph_cli.options import GroupedCommand, json_option


@click.command(
    cls=GroupedCommand,
    heading="What is opened",
    epilog="libgraph view runs/ma --feature ln2.0/5\nlibgraph view circuit.json",
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--feature", metavar="ID", help="Open it at a feature, ln2.0/5, or module:3.")
@click.option("--fresh", is_flag=True, help="Write the page again.")
@click.option("--no-open", is_flag=True, help="Write the page and say where it is.")
@json_option("Print where the page is as JSON, and whether it was opened.")
@config_option
def view(run: Path, feature: str | None, fresh: bool, no_open: bool, as_json: bool) -> None:
    """Open the page of RUN, report.html, in the browser; writes it if there is none.

    RUN may be a graph file too: .graphml, .gexf, JSON or an attribution graph.
    """
    from urllib.parse import quote

    from libgraph.files.manifest import current
    from libgraph.report.page.page import PAGE, write_page
    from libgraph.report.reading import read_graph
    from libgraph.runs.saved_run import open_run
    from libgraph.screen import Screen

    if run.is_file():
        page = run.with_suffix(".html")
        if fresh or not page.exists():
            write_page(read_graph(run), page, title=run.name)
    else:
        saved, page = open_run(run), current(run, PAGE)
        if feature is not None and not feature.startswith("module:"):
            saved.feature(feature)
        if fresh or not page.exists() or saved.damage(PAGE):
            page = write_page(saved)
    address = page.resolve().as_uri() + (f"#{quote(feature, safe='/:')}" if feature else "")
    opened = not no_open and webbrowser.open(address)
    if as_json:
        click.echo(json.dumps({"page": str(page), "address": address, "opened": opened}))
    elif not opened:
        Screen().say(f"Open {address} in a browser.")
    else:
        Screen().say(f"Opened {address}.")
