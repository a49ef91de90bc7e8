"""What `libgraph doctor RUN` prints."""

from __future__ import annotations

from rich.console import Console

from libgraph.runs.condition import RunCondition
from libgraph.screen import PlainTable, show, tell


def print_condition(console: Console, condition: RunCondition) -> None:
    """Every file with its condition, and what interrupted commands have left."""
    table = PlainTable(("file", "condition", ""), words={2}, left={1, 2})
    for file in condition.files:
        bold = (0, 1) if file.state == "damaged" else ()
        table.add_row(file.name, file.state, file.problem, bold=bold)
    show(console, table)
    for path, what in condition.left.items():
        tell(console, (str(path), "bold"), f": {what}")
