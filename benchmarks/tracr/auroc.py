"""How well the edges and nodes of compiled programs are found: AUROC against the truth.

    .venv/bin/python benchmarks/tracr/auroc.py                # all programs, four minutes
    .venv/bin/python benchmarks/tracr/auroc.py reverse sort --json auroc.json

The table has programs in rows and ways to score in columns: interactions at the activation (grad),
integrated from zero with 8 and 32 points (GL8, GL32) and with the constant held at 1 (held), and
the change when a component reads another value: zero, the mean, that of another input at the same
position (resam) or at any (shuf). docs/tracr.md says what counts as true, and what comes out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import click
import torch
from pydantic import BaseModel, RootModel
from recovery import HELD, Edge, Node, Setting, edge_methods, node_methods
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from libgraph.benchmark.compiled import names

ROUNDING = 1e-12
"""Effects smaller than this share of the largest in a program are rounding, and count as none."""

Scores = Mapping[Edge, float] | Mapping[Node, float]


def auroc(scores: Scores, true: Mapping[Edge, bool] | Mapping[Node, bool]) -> float:
    """Chance that a true candidate scores above a false one, ties counted half; NaN without both.

    By ranks: (R − p(p + 1)/2) / pq with p true and q false candidates, R the sum of the ranks of
    the true ones.
    """
    largest = max(map(abs, scores.values()))
    values = [0.0 if abs(s) <= ROUNDING * largest else s for s in map(scores.__getitem__, true)]
    positive = [bool(value) for value in true.values()]
    count = sum(positive)
    rest = len(positive) - count
    if not count or not rest:
        return math.nan
    ranks = sum(rank for rank, is_true in zip(rankdata(values), positive, strict=True) if is_true)
    return float((ranks - count * (count + 1) / 2) / (count * rest))


class Result(BaseModel):
    """How well one method finds a program's edges or nodes.

    Args:
        auroc: over all candidates.
        without_idle: over those on whose values something depends.
        missed: true ones that score no more than rounding.
        scores: by candidate.
    """

    auroc: float
    without_idle: float
    missed: list[str]
    scores: dict[str, float]


class Row(BaseModel):
    """One program, its numbers of candidates, and results by method."""

    program: str
    candidates: int
    true: int
    idle: int
    methods: dict[str, Result]


Kind = Literal["edges", "nodes"]
KINDS: tuple[Kind, ...] = ("edges", "nodes")
Record = RootModel[dict[Kind, list[Row]]]


def measure(setting: Setting, kind: Kind) -> Row:
    """One program's edges or nodes by every method."""
    methods = edge_methods() if kind == "edges" else node_methods()
    true = setting.truth.edges if kind == "edges" else setting.truth.nodes
    idle = setting.truth.idle & true.keys()
    moving = {candidate: true[candidate] for candidate in true if candidate not in idle}
    results = {}
    for name, method in methods.items():
        scores = method(setting)
        floor = ROUNDING * max(scores.values())
        results[name] = Result(
            auroc=auroc(scores, true),
            without_idle=auroc(scores, moving),
            missed=[label(c) for c in true if true[c] and scores[c] <= floor],
            scores={label(candidate): scores[candidate] for candidate in true},
        )
    return Row(
        program=setting.backend.description.name,
        candidates=len(true),
        true=sum(true.values()),
        idle=len(idle),
        methods=results,
    )


def label(candidate: Edge | Node) -> str:
    """`1: length.width -> length`, or `1: length.width` for a node."""
    return f"{candidate[0]}: {' -> '.join(candidate[1:])}"


SHORT = {
    "gradient": "grad",
    "gauss-legendre:8": "GL8",
    "gauss-legendre:32": "GL32",
    f"{HELD}, 1 held": "held",
    "cut: resample": "resam",
    "cut: shuffle": "shuf",
}


def table(rows: Sequence[Row], kind: str) -> Table:
    """AUROC by program and method, and means over the programs that have it."""
    methods = list(rows[0].methods)
    heads = [SHORT.get(name, name.removeprefix("cut: ")) for name in methods]
    title = f"AUROC of {kind}"
    columns = ["program", "true", "idle", *heads]
    shown = Table(*columns, title=title, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in rows:
        results = (row.methods[name].auroc for name in methods)
        share = f"{row.true}/{row.candidates}"
        shown.add_row(row.program, share, str(row.idle), *map(cell, results))
    for label, figure in (("mean", "auroc"), ("without idle", "without_idle")):
        values = (mean(getattr(row.methods[name], figure) for row in rows) for name in methods)
        shown.add_row(label, "", "", *map(cell, values), style="bold")
    return shown


def mean(values: Iterable[float]) -> float:
    """Of those that are numbers; NaN of none."""
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan


def cell(value: float) -> str:
    """Three digits; nothing to tell apart is a dash."""
    return "–" if math.isnan(value) else f"{value:.3f}"


@click.command()
@click.argument("programs", nargs=-1)
@click.option("--json", "file", type=click.Path(path_type=Path), help="write all figures there")
def main(programs: tuple[str, ...], file: Path | None) -> None:
    """Measure PROGRAMS, or all."""
    if unknown := sorted(set(programs) - set(names())):
        raise click.UsageError(f"Unknown: {', '.join(unknown)}. There are {', '.join(names())}.")
    torch.set_num_threads(1)
    console, began = Console(), time.monotonic()
    settings = [Setting.of(program) for program in programs or names()]
    record = {}
    for kind in KINDS:
        record[kind] = [measure(setting, kind) for setting in settings]
        console.print(table(record[kind], kind))
    console.print(f"{time.monotonic() - began:.0f} s", style="dim")
    if file is not None:
        # NaN, where there is nothing to tell apart, becomes null.
        text = Record(record).model_dump_json(indent=1)
        file.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
