"""Bases of a run, or several runs, side by side: a table, and the same numbers for scripts.

The best value of a row is bold on terminals, where one is better than another; several are where
they read the same. Output that goes elsewhere is never folded, however wide it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from libgraph.comparison.rows import Column, Row, comparison_rows
from libgraph.errors import UsageError
from libgraph.runs.run import Printer, Run
from libgraph.runs.saved_run import as_run
from libgraph.runs.tables import text_of
from libgraph.screen import PlainTable, show, tell
from libgraph.visible import in_line

BETTER = {1: "higher", -1: "lower"}


@dataclass(frozen=True, eq=False)
class Comparison:
    """Bases of a run, or runs, side by side: `print` shows them as a table.

    Args:
        title: what is compared.
        runs: the runs, or the one.
        columns: what stands side by side.
        rows: measures, in the order in which they are printed.
    """

    title: str
    runs: tuple[Run, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def __repr__(self) -> str:
        headings = ", ".join(column.heading for column in self.columns)
        return f"<{type(self).__name__} of {self.title}: {headings}>"

    def __str__(self) -> str:
        """The table that `libgraph compare` prints."""
        return text_of(lambda console: print_comparison(console, self))

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        """What a notebook shows of it."""
        printer.text(str(self))

    def as_dict(self) -> dict[str, object]:
        """The same for scripts: no value where there is none, None where none was enough."""
        return {
            "columns": {
                column.heading: {
                    "run": str(column.directory) if column.directory else None,
                    "backend": column.metrics.backend,
                    "basis": column.basis,
                    "score": column.metrics.score.as_dict(),
                }
                for column in self.columns
            },
            "rows": [
                {
                    "measure": row.measure,
                    "where": row.where,
                    "better": BETTER.get(row.style.better),
                    "values": dict(row.values),
                }
                for row in self.rows
            ],
        }


def compare_run(run: Run | str | Path, bases: Sequence[str] | None = None) -> Comparison:
    """Bases of one run side by side.

    Args:
        run: in memory, or a directory.
        bases: which of its bases, in this order; by default all of them.

    Raises:
        UsageError: if a directory is no finished run, or the run has no such basis.
    """
    run = as_run(run)
    names = [run.chosen(name) for name in (run.basis_names if bases is None else bases)]
    columns = [Column(name, name, run.metrics, run.directory) for name in names]
    return _comparison("bases side by side", [run], columns)


def compare_runs(runs: Sequence[Run | str | Path], *, basis: str | None = None) -> Comparison:
    """Several runs side by side, or all bases of a single one.

    Args:
        runs: in memory, or directories; each once.
        basis: which to compare; by default all bases of a single run, the main ones of several.

    Raises:
        UsageError: if there is no run, one is given twice, a directory is no finished run, or a
            run has no such basis.
    """
    opened = [as_run(run) for run in runs]
    if not opened:
        raise UsageError("There is no run to compare: give one or more.")
    names = [run.chosen(basis) for run in opened]
    if len(opened) == 1:
        return compare_run(opened[0], names if basis else None)
    headings = _headings(opened)
    shared = set(names)
    if len(shared) > 1:
        headings = [f"{heading} {name}" for heading, name in zip(headings, names, strict=True)]
    columns = [
        Column(heading, name, run.metrics, run.directory)
        for heading, name, run in zip(headings, names, opened, strict=True)
    ]
    what = "runs side by side" + (f", {names[0]} basis" if len(shared) == 1 else "")
    return _comparison(what, opened, columns)


def _comparison(what: str, runs: Sequence[Run], columns: Sequence[Column]) -> Comparison:
    backends = ", ".join(dict.fromkeys(run.metrics.backend for run in runs))
    rows = comparison_rows(columns)
    return Comparison(f"{backends}: {what}", tuple(runs), tuple(columns), tuple(rows))


def _headings(runs: Sequence[Run]) -> list[str]:
    """The last parts of each directory, as few as tell all apart; others by a number."""
    paths: list[Path] = []
    for number, run in enumerate(runs, start=1):
        # A run in memory that was not written has no place, and two may have one backend.
        path = run.directory.resolve() if run.directory else Path(f"{run.title} {number}")
        if path in paths or any(run is other for other in runs[: number - 1]):
            raise UsageError(f"The run '{run.title}' is given twice: name each run once.")
        paths.append(path)
    most = max(len(path.parts) for path in paths)
    tails = (["/".join(path.parts[-length:]) for path in paths] for length in range(1, most + 1))
    return next(names for names in tails if len(set(names)) == len(names))


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print all rows, a measure named once."""
    tell(console, comparison.title, style="bold")
    headings = [column.heading for column in comparison.columns]
    table = PlainTable(["measure", "where", *map(in_line, headings)], keys=2, heading_style="")
    before = None
    for row in comparison.rows:
        best = [place for place, heading in enumerate(headings, start=2) if heading in row.best]
        cells = map(row.text, headings)
        name = row.measure if row.measure != before else ""
        table.add_row(name, row.where.replace("->", " → "), *cells, bold=best)
        before = row.measure
    show(console, table)
