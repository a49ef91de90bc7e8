"""`libgraph export`: the graph of a run, or part of it, in the formats of other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from libgraph_cli.configuration import config_option
from libgraph_cli.options import GroupedCommand, json_option

if TYPE_CHECKING:
    from libgraph.graph.interaction_graph import InteractionGraph

FORMATS = ("graphml", "gexf", "json", "csv", "png", "svg", "pdf", "neuronpedia", "eap")

SUFFIXES = {"neuronpedia": "json", "eap": "json"}
"""Of the formats that are not called like their files."""


@click.command(
    cls=GroupedCommand,
    heading="Which part of the graph",
    epilog="libgraph export runs/ma --format gexf --top-edges 500\n"
    "libgraph export runs/ma --out module1.graphml --module 1 --connected",
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(FORMATS), help="[what the name of --out says]")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to.  [RUN-FORMAT in this folder]",
)
@click.option("--basis", metavar="NAME", help="One that the run has.  [the one it was asked for]")
@click.option("--top-edges", type=click.IntRange(min=1), help="The strongest edges alone.")
@click.option("--min-weight", type=click.FloatRange(min=0), help="No edges of less weight.")
@click.option(
    "--module",
    type=click.IntRange(min=0),
    multiple=True,
    help="This module alone; can be repeated.",
)
@click.option("--layers", metavar="A:B", help="Node layers from A to B alone.")
@click.option("--connected", is_flag=True, help="No features without an edge, in graphml and gexf.")
@click.option("--force", is_flag=True, help="Replace the file.")
@json_option("Print what was written as JSON.")
@config_option
def export(
    run: Path,
    form: str | None,
    out: Path | None,
    basis: str | None,
    top_edges: int | None,
    min_weight: float | None,
    module: tuple[int, ...],
    layers: str | None,
    connected: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write the graph of RUN, or of a graph file, for other programs.

    neuronpedia is the attribution graph that circuit-tracer and Neuronpedia draw, with modules as
    supernodes; eap is the JSON of EAP-IG and MIB: scores of attention and MLPs.
    """
    from libgraph.errors import UsageError
    from libgraph.graph.selection import strongest_edges
    from libgraph.report.reading import read_graph
    from libgraph.runs.saved_run import open_run
    from libgraph.screen import Screen

    form = form or _form(out)
    if connected and form not in ("graphml", "gexf"):
        raise click.UsageError("--connected is for --format graphml and gexf.")
    file = out or Path(f"{run.resolve().stem}-{form}.{SUFFIXES.get(form, form)}")
    if file.exists() and not force:
        raise UsageError(f"'{file}' exists: use force=True to replace it, or another out='…'.")
    if run.is_file():
        if basis is not None:
            raise click.UsageError("--basis is for a run: a file has one graph.")
        graph, name, concept = read_graph(run), run.stem, ""
    else:
        saved = open_run(run)
        basis = saved.chosen(basis)
        graph, concept = saved.graph(basis), saved.concept
        name = f"{saved.metrics.backend}, {basis.upper()}"
    if module or layers is not None:
        graph = graph.subgraph(module=module or None, layers=layers)
    if top_edges is not None or min_weight is not None:
        graph = strongest_edges(graph, top_edges, min_weight or 0.0)
    _write(graph, form, file, name=name, concept=concept, connected=connected)
    kept = {pair: graph.kept_edges(pair) for pair in graph.edges}
    edges = sum(len(each.weight) for each in kept.values())
    features = sum(layer.size for layer in graph.layers)
    if connected:
        from libgraph.report.graphml import places

        placed = places(graph, kept, connected=True).values()
        features = sum(int((table[:, 2] > 0).sum()) for table in placed)
    if as_json:
        click.echo(json.dumps({"file": str(file), "features": features, "edges": edges}))
    else:
        Screen().say(f"Written to {file}: {features} features, {edges} edges.")


def _form(out: Path | None) -> str:
    """What the name of a file says."""
    suffix = "" if out is None else out.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise click.UsageError(
            f"--format says what to write: {', '.join(FORMATS)}; or name a file of such a kind "
            "by --out."
        )
    return suffix


def _write(
    graph: InteractionGraph, form: str, file: Path, *, name: str, concept: str, connected: bool
) -> None:
    if form == "graphml":
        from libgraph.report.graphml import write_graphml

        write_graphml(graph, file, connected=connected)
    elif form == "gexf":
        from libgraph.report.gexf import write_gexf

        write_gexf(graph, file, connected=connected)
    elif form == "json":
        from libgraph.report.graph_files import write_graph

        write_graph(graph, file)
    elif form == "csv":
        from libgraph.report.tables import write_csv

        write_csv(graph, file)
    elif form == "neuronpedia":
        from libgraph.report.attribution import Titles, write_attribution

        write_attribution(graph, file, Titles(file.stem, name, f"Interactions of {name}"))
    elif form == "eap":
        from libgraph.report.circuit import write_circuit

        write_circuit(graph, file)
    else:
        from libgraph.report.graph_picture import draw

        draw(graph, file, title=f"{name}: interactions", concept=concept)
