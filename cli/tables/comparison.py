"""What `libgraph compare` prints: one table of bases or runs, or the same numbers as JSON.

Rows come from `libgraph/comparison.py`. The best value of a row is bold on terminals, where one is
better than another; several are where they read the same. Output that goes elsewhere is never
folded, however wide it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from libgraph.comparison.side_by_side import Column, Row


UNFOLDED = 10_000
"""Characters in a line, where nobody's terminal has to hold it."""


HEADING, PLACE = 14, 12
"""Characters to which terminals may fold headings, and node layers or layer pairs."""


BETTER = {1: "higher", -1: "lower"}


def print_comparison(columns: Sequence[Column], rows: Sequence[Row], title: str) -> None:
    """Print all rows, a measure named once."""
    console = Console()
    widths = [
        max(min(len(each.heading), HEADING), *(len(row.text(each.heading)) for row in rows))
        for each in columns
    ]
    if console.is_terminal:
        # Rather than break numbers, the terminal may break lines.
        least = max(len(row.measure) for row in rows) + 2 + PLACE + sum(2 + each for each in widths)
        console = Console(width=max(console.width, least))
    else:
        console = Console(width=UNFOLDED)
    console.print(title, style="bold", highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("measure", no_wrap=True)
    table.add_column("where", overflow="fold")
    for column, width in zip(columns, widths, strict=True):
        most = width if console.is_terminal else None
        table.add_column(Text(column.heading), justify="right", overflow="fold", max_width=most)
    before = None
    for row in rows:
        best = row.best
        cells = [
            Text(row.text(each.heading), style="bold" if each.heading in best else "")
            for each in columns
        ]
        name = row.measure if row.measure != before else ""
        table.add_row(Text(name), Text(row.where.replace("->", " → ")), *cells)
        before = row.measure
    console.print(table)


def comparison_json(columns: Sequence[Column], rows: Sequence[Row]) -> dict[str, Any]:
    """The same numbers for scripts: no value where there is none, null where none was enough."""
    return {
        "columns": {
            column.heading: {
                "run": str(column.run) if column.run else None,
                "backend": column.metrics["backend"],
                "basis": column.basis,
                "score": dict(column.metrics["score"]),
            }
            for column in columns
        },
        "rows": [
            {
                "measure": row.measure,
                "where": row.where,
                "better": BETTER.get(row.better),
                "values": dict(row.values),
            }
            for row in rows
        ],
    }
