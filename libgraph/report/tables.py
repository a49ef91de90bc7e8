"""The graph as two tables of comma-separated values: features, and kept edges."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from libgraph.files.atomic import writing
from libgraph.graph.columns import edge_columns, node_columns
from libgraph.graph.interaction_graph import InteractionGraph, check_graph
from libgraph.report.graphml import legal


def write_csv(graph: InteractionGraph, path: str | Path) -> Path:
    """Write the kept edges to a file, and features to one beside it, ``NAME-nodes.csv``.

    Returns:
        Where the features are.

    Raises:
        UsageError: If a file cannot be written.
    """
    check_graph(graph)
    path = Path(path)
    nodes = path.with_name(f"{path.stem}-nodes{path.suffix}")
    _write(nodes, node_columns(graph))
    _write(path, edge_columns(graph))
    return nodes


def _write(path: Path, columns: Mapping[str, Sequence[object]]) -> None:
    with (
        writing(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow([legal(cell) if isinstance(cell, str) else cell for cell in row])
