"""The files that show a graph, and its modules: GraphML, JSON, and two pictures.

Other modules for a finished run replace them together or not at all
(:func:`libgraph.files.manifest.changing`). Bases, edges and ablations do not depend on modules and
stay, as does what `run.json` says of how the run was made.
"""

from __future__ import annotations

import json
from pathlib import Path

from libgraph.files.atomic import writing
from libgraph.files.manifest import changing, current
from libgraph.graph.graph_json import graph_to_json
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.report.graph_picture import draw
from libgraph.report.graphml import write_graphml
from libgraph.report.module_picture import draw_modules
from libgraph.report.page.page import PAGE, write_page
from libgraph.runs.feature import with_graph
from libgraph.runs.measures import partition_metrics
from libgraph.runs.metrics import Metrics, ModulesFigures
from libgraph.runs.saved_run import SavedRun

GRAPHML, JSON, METRICS = "graph.graphml", "graph.json", "metrics.json"

PICTURE, MODULES = "graph.png", "modules.png"


def write_graph(graph: InteractionGraph, path: str | Path) -> None:
    """Write the kept edges as JSON; the same graph always gives the same bytes.

    Args:
        graph: to write; :func:`read_graph` reads it back.
        path: of the file.

    Raises:
        UsageError: If the file cannot be written.
    """
    values = graph_to_json(graph)
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    with writing(Path(path)) as temporary:
        # Half of a pair, which no encoding holds, is escaped as JSON does it.
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def graph_title(backend: str, basis: str) -> str:
    """Heading of the picture in a run directory."""
    return f"{backend}: interactions in the {basis.upper()} basis"


def write_graph_files(
    graph: InteractionGraph,
    directory: Path,
    *,
    title: str,
    concept: str,
    picture: bool = True,
    connected: bool = False,
) -> None:
    """Write the graph for Gephi, for scripts, and to look at; the picture of features last.

    Args:
        graph: With modules.
        directory: Where to.
        title: Heading of the picture.
        concept: What concepts are called in its legend.
        picture: Whether to draw it, and its modules through the depth.
        connected: Whether features without a kept edge are left out of the file for Gephi.

    Raises:
        MissingExtra: If there is no matplotlib; the other files are written.
        TooLarge: If the graph cannot be drawn; the other files are written.
        UsageError: If a file cannot be written.
    """
    write_graphml(graph, directory / GRAPHML, connected=connected)
    write_graph(graph, directory / JSON)
    if picture:
        draw_modules(graph, directory / MODULES, title=title, concept=concept)
        draw(graph, directory / PICTURE, title=title, concept=concept)


def write_modules(
    run: SavedRun, graph: InteractionGraph, modules: ModulesFigures, *, connected: bool = False
) -> None:
    """Replace the files of the graph in a finished run, and what `metrics.json` says of modules.

    A run without `graph.png`, made without matplotlib, gets none.

    Args:
        run: Where; read it again for what it then holds.
        graph: Of the basis asked for, with other modules.
        modules: What `metrics.json` is to say of them: their :func:`module_metrics`, and more if
            more was measured.
        connected: As in :func:`write_graph_files`.

    Raises:
        UsageError: If a file cannot be made or written.
    """
    figures = run.metrics.bases[run.basis]
    resolutions = figures.modules.resolutions
    if modules.resolutions is None and resolutions is not None:
        # A range of resolutions says the same whichever of them was chosen, and its figure stays.
        modules = modules.model_copy(update={"resolutions": resolutions})
    figures = figures.model_copy(update={"modules": modules})
    metrics = run.metrics.model_copy(
        update={
            "bases": {**run.metrics.bases, run.basis: figures},
            "modules": partition_metrics(graph, run.basis, modules_known=run.modules_known),
        }
    )
    with changing(run.directory) as aside:
        write_graph_files(
            graph,
            aside,
            title=graph_title(run.metrics.backend, run.basis),
            concept=run.concept,
            picture=current(run.directory, PICTURE).exists(),
            connected=connected,
        )
        metrics.write(aside / METRICS)
        if current(run.directory, PAGE).exists():
            _write_page_of(run, graph, metrics, aside / PAGE)


def _write_page_of(run: SavedRun, graph: InteractionGraph, metrics: Metrics, path: Path) -> None:
    """The page of a run that is about to have other modules."""
    other = SavedRun(run.directory)
    other.metrics = metrics
    write_page(with_graph(other, run.basis, graph), path)
