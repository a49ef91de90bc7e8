"""Other modules for a finished run: its files are replaced together or not at all.

All files that show modules are first made in a directory of their own inside of the run, so that
whatever goes wrong leaves the run as it was; then each takes the place of the old one. Bases, edges
and ablations do not depend on modules and stay, as does `run.json`: it says how the run was made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from libgraph.files.atomic import explained, write_json
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.report.graph_picture import draw_graph, graph_title
from libgraph.runs.metrics import partition_metrics
from libgraph.runs.saved_run import SavedRun


def write_modules(run: SavedRun, graph: InteractionGraph, modules: Mapping[str, Any]) -> None:
    """Replace `graph.graphml`, `graph.json`, `graph.png`, and what `metrics.json` says of modules.

    A run without `graph.png`, made without matplotlib, gets none.

    Args:
        run: where; read it again for what it then holds.
        graph: of the basis asked for, with other modules.
        modules: what `metrics.json` is to say of them: their :func:`module_metrics`, and more if
            more was measured.

    Raises:
        UsageError: if a file cannot be made or written.
    """
    bases = run.metrics["bases"]
    # A range of resolutions says the same whichever of them was chosen, and its figure stays.
    kept = {k: v for k, v in bases[run.basis]["modules"].items() if k == "resolutions"}
    metrics = {
        **run.metrics,
        "bases": {**bases, run.basis: {**bases[run.basis], "modules": {**kept, **modules}}},
        "modules": partition_metrics(graph, run.basis, known=run.modules_known),
    }
    title = graph_title(run.backend, run.basis)
    makers: dict[str, Callable[[Path], None]] = {
        "graph.graphml": graph.write_graphml,
        "graph.json": graph.write_json,
        "graph.png": lambda path: draw_graph(graph, path, title=title, concept=run.concept),
        "metrics.json": lambda path: write_json(path, metrics),
    }
    if not (run.path / "graph.png").exists():
        del makers["graph.png"]
    with explained(run.path):
        aside = Path(mkdtemp(prefix=".modules.", dir=run.path))
    try:
        with explained(run.path):
            for file, make in makers.items():
                make(aside / file)
            for file in makers:
                os.replace(aside / file, run.path / file)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
