"""`libgraph prompt`: the graph of one input, from its tokens to what the model says."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from libgraph_cli.configuration import config_option
from libgraph_cli.options import GroupedCommand, json_option
from libgraph_cli.running import display

if TYPE_CHECKING:
    from libgraph.runs.prompted import Prompted

KINDS = (".html", ".json", ".graphml", ".gexf", ".png", ".svg", ".pdf")


@click.command(
    cls=GroupedCommand,
    heading="What is explained",
    epilog='libgraph prompt runs/ma "12 + 45"\n'
    'libgraph prompt runs/lm "To be or not" --out graph.html\n'
    "libgraph prompt runs/cifar --sample 3",
)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("text", required=False)
@click.option(
    "--sample", type=click.IntRange(min=0), metavar="N", help="A sample of the test split instead."
)
@click.option(
    "--nodes",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.8,
    help="Share of the influence kept of each node layer.  [0.8]",
)
@click.option(
    "--edges",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.95,
    help="Share kept of what edges between these carry.  [0.95]",
)
@click.option(
    "--integration",
    metavar="RULE",
    default="auto",
    help="Along the path: gauss-legendre:16, say, or gradient.  [as many points as it takes]",
)
@click.option(
    "--baseline",
    type=click.Choice(["mean", "zero"]),
    default="mean",
    help="Where the path begins.  [mean]",
)
@click.option("--class", "classes", type=int, multiple=True, help="Number of an output explained.")
@click.option(
    "--classes",
    "most_probable",
    type=click.IntRange(min=1),
    default=5,
    help="Most probable outputs explained, where none is named.  [5]",
)
@click.option(
    "--most-nodes",
    type=click.IntRange(min=1),
    default=1500,
    help="Of each node layer, before any is left out.  [1500]",
)
@click.option("--basis", metavar="NAME", help="One that the run has.  [the one it was asked for]")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A page (.html), attribution-graph JSON, .graphml, .gexf, .png, .svg or .pdf.",
)
@click.option("--force", is_flag=True, help="Replace the file.")
@click.option("--top", type=click.IntRange(min=1), default=10, help="Edges shown.  [10]")
@click.option("--heads", is_flag=True, help="Edges that move attention, head by head, besides.")
@click.option("--dry-run", is_flag=True, help="Show how many nodes and edges, and what they take.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@json_option("Print nodes and edges as JSON.")
@config_option
def prompt(
    run: Path,
    text: str | None,
    sample: int | None,
    nodes: float,
    edges: float,
    integration: str,
    baseline: str,
    classes: tuple[int, ...],
    most_probable: int,
    most_nodes: int,
    basis: str | None,
    out: Path | None,
    force: bool,
    top: int,
    heads: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Show what made RUN's model say what it says of one TEXT, feature by feature.

    Nodes are features at positions, edges what one adds to the next: exactly, through softmax and
    norms, along the path from the mean input to this one. What attention adds by moving its pattern
    is told apart from what goes through values.
    """
    from libgraph.errors import UsageError
    from libgraph.interventions.prompt_cost import expected
    from libgraph.runs.requests import input_of
    from libgraph.runs.saved_run import open_run
    from libgraph.screen import Screen
    from libgraph_cli.tables.prompt import (
        print_expected,
        print_pattern_edges,
        print_prompt,
        prompt_values,
    )

    if out is not None and out.suffix.lower() not in KINDS:
        raise click.UsageError(f"--out writes {', '.join(KINDS)}: give FILE such an ending.")
    if out is not None and out.exists() and not force:
        raise UsageError(f"'{out}' exists: use force=True to replace it, or another out='…'.")
    saved, screen = open_run(run), Screen()
    with display(quiet=quiet or dry_run) as progress:
        subject = saved.subject(basis)
        chosen = input_of(subject, text, sample)
        if dry_run:
            cost = expected(
                subject, chosen, integration, most_nodes, list(classes) or most_probable
            )
            if as_json:
                layers = [layer._asdict() for layer in cost.layers]
                click.echo(json.dumps({**asdict(cost), "layers": layers}, indent=1))
            else:
                print_expected(screen, cost)
            return
        prompted = saved.prompt(
            chosen,
            nodes=nodes,
            edges=edges,
            integration=integration,
            baseline=baseline,
            classes=list(classes) or most_probable,
            most_nodes=most_nodes,
            basis=basis,
            subject=subject,
            progress=progress,
        )
    if out is not None:
        _write(prompted, out, saved.metrics.backend)
    if as_json:
        click.echo(json.dumps(prompt_values(prompted), indent=1))
        return
    print_prompt(screen, prompted, top)
    if heads:
        print_pattern_edges(screen, prompted, top)
    if out is not None:
        screen.say(f"Written to {out}.")


def _write(prompted: Prompted, file: Path, model: str) -> None:
    title = f"{model}: {prompted.text}" if prompted.text else f"{model}: one input"
    kind = file.suffix.lower()
    if kind == ".html":
        from libgraph.report.page.page import write_page

        write_page(prompted.graph(), file, title=title)
    elif kind == ".json":
        from libgraph.report.attribution import Titles
        from libgraph.report.prompt_attribution import write_prompt_attribution

        write_prompt_attribution(prompted, file, Titles(file.stem, model, prompted.text or model))
    elif kind == ".graphml":
        from libgraph.report.graphml import write_graphml

        write_graphml(prompted.graph(), file)
    elif kind == ".gexf":
        from libgraph.report.gexf import write_gexf

        write_gexf(prompted.graph(), file)
    else:
        from libgraph.report.graph_picture import draw

        draw(prompted.graph(), file, title=title, concept=prompted.run.concept)
