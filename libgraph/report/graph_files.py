"""Other modules for a finished run: its files are replaced together or not at all.

All files that show modules are first made in a directory of their own inside of the run, so that
whatever goes wrong leaves the run as it was; then each takes the place of the old one. Bases, edges
and ablations do not depend on modules and stay, as does `run.json`: it says how the run was made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

from libgraph.files.atomic import explained
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.report.graph_picture import draw_graph, graph_title
from libgraph.runs.measures import partition_metrics
from libgraph.runs.metrics import ModulesFigures
from libgraph.runs.saved_run import SavedRun


def write_modules(run: SavedRun, graph: InteractionGraph, modules: ModulesFigures) -> None:
    """Replace `graph.graphml`, `graph.json`, `graph.png`, and what `metrics.json` says of modules.

    A run without `graph.png`, made without matplotlib, gets none.

    Args:
        run: where; read it again for what it then holds.
        graph: of the main basis, with other modules.
        modules: what `metrics.json` is to say of them: their :func:`module_metrics`, and more if
            more was measured.

    Raises:
        UsageError: if a file cannot be made or written.
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
    title = graph_title(run.metrics.backend, run.basis)
    makers: dict[str, Callable[[Path], None]] = {
        "graph.graphml": graph.write_graphml,
        "graph.json": graph.write_json,
        "graph.png": lambda path: draw_graph(graph, path, title=title, concept=run.concept),
        "metrics.json": metrics.write,
    }
    if not (run.directory / "graph.png").exists():
        del makers["graph.png"]
    with explained(run.directory):
        aside = Path(mkdtemp(prefix=".modules.", dir=run.directory))
    try:
        with explained(run.directory):
            for file, make in makers.items():
                make(aside / file)
            for file in makers:
                os.replace(aside / file, run.directory / file)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
