"""The figures of `metrics.json` by which bases of a run, or runs, compare.

A column is a basis of a run; a row is a measure at a node layer, at a layer pair or in total. Runs
of earlier versions lack some figures, and bases some measures: those values are left out, and rows
without any. A value of None means that there is none to give: no number of edges was enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from libgraph.runs.metrics import BasisFigures, Metrics, ModulesFigures, Required

Value = float | int | None


TOTAL = "total"


class Style(NamedTuple):
    """How a measure is shown.

    Args:
        form: how to print a value.
        better: 1 where more is better, -1 where less is, 0 where neither.
        none: how to print None.
    """

    form: str = "{}"
    better: int = 0
    none: str = "-"


PLAIN = Style()


SPARSITY = {
    "effective edges": ("participation_ratio", Style("{:.1f}", -1)),
    "Hoyer": ("hoyer", Style("{:.3f}", 1)),
    "Gini": ("gini", Style("{:.4f}", 1)),
    "top 1 % share": ("top_share", Style("{:.3f}", 1)),
}
"""Name in `metrics.json` of each measure, and whether more is sparser."""


@dataclass(frozen=True)
class Column:
    """What is compared: a basis of a run.

    Args:
        heading: what it is called beside the others.
        basis: its name.
        metrics: what `metrics.json` of the run says.
        directory: of the run, if any.
    """

    heading: str
    basis: str
    metrics: Metrics
    directory: Path | None = None

    @property
    def figures(self) -> BasisFigures:
        """What was measured in the basis."""
        return self.metrics.bases[self.basis]


@dataclass(frozen=True)
class Row:
    """A measure at one place, for every column that has it.

    Args:
        measure: what.
        where: node layer, layer pair as `a->b`, or `total`.
        values: by heading of the column.
        style: how to show them.
    """

    measure: str
    where: str
    values: Mapping[str, Value]
    style: Style = PLAIN

    def text(self, heading: str) -> str:
        """The value of a column as it is printed."""
        if heading not in self.values:
            return "-"
        value = self.values[heading]
        return self.style.none if value is None else self.style.form.format(value)

    @property
    def best(self) -> set[str]:
        """Headings of the best values, as printed; none where no value is better than another."""
        better = self.style.better
        numbers = {heading: value for heading, value in self.values.items() if value is not None}
        texts = {self.text(heading) for heading in self.values}
        if not better or not numbers or len(texts) < 2:
            return set()
        first = max(numbers, key=lambda heading: better * numbers[heading])
        return {heading for heading in numbers if self.text(heading) == self.text(first)}


def tolerances(columns: Iterable[Column]) -> list[float]:
    """Every Δ that edges were counted for, or features."""
    figures = [column.figures for column in columns]
    required = [basis.edges_required for basis in figures]
    required += [basis.features_required for basis in figures]
    counts = [by_delta for by_place in required for by_delta in by_place.values()]
    return list(dict.fromkeys(delta for by_delta in counts for delta in by_delta))


def comparison_rows(columns: Sequence[Column]) -> list[Row]:
    """All rows, in the order in which they are printed."""
    rows = [*_scores(columns), *_required(columns), *_sparsity(columns), *_areas(columns)]
    return [row for row in (*rows, *_modules(columns)) if row.values]


def _scores(columns: Sequence[Column]) -> Iterator[Row]:
    for name in dict.fromkeys(column.metrics.score.name for column in columns):
        having = [column for column in columns if column.metrics.score.name == name]
        values: dict[str, Value] = {column.heading: column.metrics.score.test for column in having}
        yield Row(f"test {name}", TOTAL, values, Style("{:.4f}", having[0].metrics.score.better))


def _required(columns: Sequence[Column]) -> Iterator[Row]:
    """Features kept, features needed for the first Δ, and edges needed for every Δ."""
    deltas = tolerances(columns)
    style = Style(better=-1, none="more")
    yield from _places("features kept", columns, lambda figures: figures.features, Style(better=-1))
    for delta in deltas[:1]:
        needed = partial(_features_needed, delta=delta)
        yield from _places(f"features needed, Δ {delta:g}", columns, needed, style)
    for delta in deltas:
        needed = partial(_edges_needed, delta=delta)
        yield from _places(f"edges needed, Δ {delta:g}", columns, needed, style)


def _features_needed(figures: BasisFigures, delta: float) -> dict[str, int | None]:
    return _at(figures.features_required, delta)


def _edges_needed(figures: BasisFigures, delta: float) -> dict[str, int | None]:
    return _at(figures.edges_required, delta)


def _at(required: Mapping[str, Required], delta: float) -> dict[str, int | None]:
    """What one tolerance requires, by place."""
    return {place: counts[delta] for place, counts in required.items() if delta in counts}


def _places(
    measure: str,
    columns: Sequence[Column],
    counts: Callable[[BasisFigures], Mapping[str, int | None]],
    style: Style,
) -> Iterator[Row]:
    """A row for each place, and one for their sum, which is None where one of them is."""
    by_column = {column.heading: counts(column.figures) for column in columns}
    yield from _rows(measure, by_column, style)
    totals: dict[str, Value] = {}
    for heading, by_place in by_column.items():
        if len(by_place) > 1:
            numbers = [count for count in by_place.values() if count is not None]
            totals[heading] = sum(numbers) if len(numbers) == len(by_place) else None
    yield Row(measure, TOTAL, totals, style)


def _sparsity(columns: Sequence[Column]) -> Iterator[Row]:
    for measure, (name, style) in SPARSITY.items():
        by_column: dict[str, dict[str, Value]] = {}
        totals: dict[str, Value] = {}
        for column in columns:
            by_pair = column.figures.sparsity
            by_column[column.heading] = {
                pair: getattr(measures, name) if measures else None
                for pair, measures in by_pair.items()
            }
            if (total := column.figures.sparsity_total) is not None and len(by_pair) > 1:
                totals[column.heading] = getattr(total, name)
        yield from _rows(measure, by_column, style)
        yield Row(measure, TOTAL, totals, style)


def _areas(columns: Sequence[Column]) -> Iterator[Row]:
    alike = len({column.metrics.score.name for column in columns}) == 1
    style = Style("{:.3f}", columns[0].metrics.score.better if alike else 0)
    nodes = {column.heading: column.figures.area.nodes for column in columns}
    edges = {column.heading: column.figures.area.edges for column in columns}
    yield from _rows("area, features", nodes, style)
    yield from _rows("area, edges", edges, style)


def _modules(columns: Sequence[Column]) -> Iterator[Row]:
    """What is known of modules as a whole; their table is for `libgraph communities`."""
    # Runs of one kind share what their modules are held against; others have only this in common.
    kinds = {column.metrics.concept for column in columns}
    concept = kinds.pop() if len(kinds) == 1 else "concept"
    # Modularity is no measure of quality from one graph to another: fewer edges have more of it.
    measures: dict[str, tuple[Callable[[ModulesFigures], Value], Style]] = {
        "modules": (lambda modules: modules.count, Style()),
        "modularity": (lambda modules: modules.modularity, Style("{:.3f}")),
        "seeds agree": (lambda modules: modules.agreement, Style("{:.2f}", 1)),
        "halves agree": (lambda modules: modules.halves, Style("{:.2f}", 1)),
        f"within one {concept}": (lambda modules: modules.within_concept, Style("{:.0%}", 1)),
        "homogeneity": (lambda modules: modules.homogeneity, Style("{:.2f}", 1)),
        "more than chance, z": (lambda modules: _chance(modules, "z"), Style("{:.1f}", 1)),
        "more than chance, p": (lambda modules: _chance(modules, "p"), Style("{:.2g}", -1)),
    }
    for measure, (value_of, style) in measures.items():
        values = {column.heading: value_of(column.figures.modules) for column in columns}
        known = {heading: value for heading, value in values.items() if value is not None}
        yield Row(measure, TOTAL, known, style)


def _chance(modules: ModulesFigures, name: str) -> Value:
    """A figure of the modules' significance, where it was measured."""
    value: Value = getattr(modules.significance, name, None)
    return value


def _rows(
    measure: str, by_column: Mapping[str, Mapping[str, Value]], style: Style
) -> Iterator[Row]:
    for place in dict.fromkeys(place for by_place in by_column.values() for place in by_place):
        values = {
            heading: by_place[place] for heading, by_place in by_column.items() if place in by_place
        }
        yield Row(measure, place, values, style)
