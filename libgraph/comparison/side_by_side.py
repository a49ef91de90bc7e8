"""Bases of a run, or runs, side by side: the figures of `metrics.json` by which they compare.

A column is a basis of a run; a row is a measure at a node layer, at a layer pair or in total. Runs
of earlier versions lack some figures, and bases some measures: those values are left out, and rows
without any. A value of None means that there is none to give: no number of edges was enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Value = float | int | None


TOTAL = "total"


LOWER_IS_BETTER = {"cross-entropy", "relative error"}


SPARSITY = {
    "effective edges": ("participation_ratio", "{:.1f}", -1),
    "Hoyer": ("hoyer", "{:.3f}", 1),
    "Gini": ("gini", "{:.4f}", 1),
    "top 1 % share": ("top_share", "{:.3f}", 1),
}
"""Name in `metrics.json`, how it is printed, and whether more is sparser, of each measure."""


@dataclass(frozen=True)
class Column:
    """What is compared: a basis of a run.

    Args:
        heading: what it is called beside the others.
        basis: its name.
        metrics: what `metrics.json` of the run says.
        run: where that is, if anywhere.
    """

    heading: str
    basis: str
    metrics: Mapping[str, Any]
    run: Path | None = None

    def part(self, *names: str) -> Mapping[str, Any]:
        """Figures of the basis; nothing where the run has none."""
        found = self.metrics["bases"][self.basis]
        for name in names:
            found = found.get(name) or {}
        return dict(found)

    @property
    def score(self) -> float:
        """Score of the whole model."""
        return float(self.metrics["score"]["test"])

    @property
    def score_name(self) -> str:
        """What that measures."""
        return str(self.metrics["score"]["name"])

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger score is a better one; runs of earlier versions do not say."""
        known = self.metrics["score"].get("higher_is_better")
        return self.score_name not in LOWER_IS_BETTER if known is None else bool(known)


@dataclass(frozen=True)
class Row:
    """A measure at one place, for every column that has it.

    Args:
        measure: what.
        where: node layer, layer pair as `a->b`, or `total`.
        values: by heading of the column.
        form: how to print a value.
        better: 1 where more is better, -1 where less is, 0 where neither.
        none: how to print None.
    """

    measure: str
    where: str
    values: Mapping[str, Value]
    form: str = "{}"
    better: int = 0
    none: str = "-"

    def text(self, heading: str) -> str:
        """The value of a column as it is printed."""
        if heading not in self.values:
            return "-"
        value = self.values[heading]
        return self.none if value is None else self.form.format(value)

    @property
    def best(self) -> set[str]:
        """Headings of the best values, as printed; none where no value is better than another."""
        known = {heading: value for heading, value in self.values.items() if value is not None}
        texts = {self.text(heading) for heading in self.values}
        if not self.better or not known or len(texts) < 2:
            return set()
        first = max(known, key=lambda heading: self.better * known[heading])
        return {heading for heading in known if self.text(heading) == self.text(first)}


def tolerances(columns: Iterable[Column]) -> list[str]:
    """Every Δ that edges were counted for, or features, as `metrics.json` writes it."""
    found = {
        delta: None
        for part in ("edges_required", "features_required")
        for column in columns
        for by_delta in column.part(part).values()
        for delta in by_delta
    }
    return list(found)


def comparison_rows(columns: Sequence[Column]) -> list[Row]:
    """All rows, in the order in which they are printed."""
    rows = [*_scores(columns), *_required(columns), *_sparsity(columns), *_areas(columns)]
    return [row for row in (*rows, *_modules(columns)) if row.values]


def _scores(columns: Sequence[Column]) -> Iterator[Row]:
    for name in dict.fromkeys(column.score_name for column in columns):
        here = [column for column in columns if column.score_name == name]
        values: dict[str, Value] = {column.heading: column.score for column in here}
        yield Row(f"test {name}", TOTAL, values, "{:.4f}", 1 if here[0].higher_is_better else -1)


def _required(columns: Sequence[Column]) -> Iterator[Row]:
    """Features kept, features needed for the first Δ, and edges needed for every Δ."""
    deltas = tolerances(columns)
    yield from _places("features kept", columns, lambda c: c.part("features"), better=-1)
    for part, name, some in (
        ("features_required", "features needed", deltas[:1]),
        ("edges_required", "edges needed", deltas),
    ):
        for delta in some:

            def counts(column: Column, part: str = part, delta: str = delta) -> Mapping[str, Value]:
                found = column.part(part)
                return {place: by[delta] for place, by in found.items() if delta in by}

            measure = f"{name}, Δ {float(delta):g}"
            yield from _places(measure, columns, counts, better=-1, none="more")


def _places(
    measure: str,
    columns: Sequence[Column],
    counts: Callable[[Column], Mapping[str, Value]],
    **how: Any,
) -> Iterator[Row]:
    """A row for each place, and one for their sum, which is None where one of them is."""
    by_place = {column.heading: counts(column) for column in columns}
    yield from _rows(measure, by_place, **how)
    totals: dict[str, Value] = {}
    for heading, found in by_place.items():
        if len(found) > 1:
            numbers = [value for value in found.values() if value is not None]
            totals[heading] = sum(numbers) if len(numbers) == len(found) else None
    yield Row(measure, TOTAL, totals, **how)


def _sparsity(columns: Sequence[Column]) -> Iterator[Row]:
    for measure, (name, form, better) in SPARSITY.items():
        by_place: dict[str, dict[str, Value]] = {}
        totals: dict[str, Value] = {}
        for column in columns:
            found = column.part("sparsity")
            by_place[column.heading] = {
                pair: each[name] if each else None for pair, each in found.items()
            }
            if name in (total := column.part("sparsity_total")) and len(found) > 1:
                totals[column.heading] = total[name]
        yield from _rows(measure, by_place, form=form, better=better)
        yield Row(measure, TOTAL, totals, form, better)


def _areas(columns: Sequence[Column]) -> Iterator[Row]:
    for kind, measure in (("nodes", "area, features"), ("edges", "area, edges")):
        by_place = {column.heading: column.part("area", kind) for column in columns}
        better = 1 if columns[0].higher_is_better else -1
        alike = len({column.score_name for column in columns}) == 1
        yield from _rows(measure, by_place, form="{:.3f}", better=better if alike else 0)


def _modules(columns: Sequence[Column]) -> Iterator[Row]:
    """What is known of modules as a whole; their table is for `libgraph communities`."""
    concept = columns[0].metrics.get("concept", "concept")
    # Modularity is no measure of quality from one graph to another: fewer edges have more of it.
    measures = {
        "modules": (("count",), "{}", 0),
        "modularity": (("modularity",), "{:.3f}", 0),
        "seeds agree": (("agreement",), "{:.2f}", 1),
        "halves agree": (("halves",), "{:.2f}", 1),
        f"within one {concept}": (("within_concept",), "{:.0%}", 1),
        "homogeneity": (("homogeneity",), "{:.2f}", 1),
        "more than chance, z": (("significance", "z"), "{:.1f}", 1),
        "more than chance, p": (("significance", "p"), "{:.2g}", -1),
    }
    for measure, (path, form, better) in measures.items():
        values = {}
        for column in columns:
            value = column.part("modules", *path[:-1]).get(path[-1])
            if value is not None:
                values[column.heading] = value
        yield Row(measure, TOTAL, values, form, better)


def _rows(measure: str, by_place: Mapping[str, Mapping[str, Value]], **how: Any) -> Iterator[Row]:
    for place in dict.fromkeys(place for found in by_place.values() for place in found):
        values = {heading: found[place] for heading, found in by_place.items() if place in found}
        yield Row(measure, place, values, **how)
