"""Several finished runs in a row, such as checkpoints of one training: the story they tell.

Each run's figures come from its `metrics.json`; what only a comparison knows, how far its features
span what the last run's needed features span, is added. Where names of runs end in a number, such
as `step-000500`, that number is their place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.console import Console

from libgraph.comparison.difference import THRESHOLD, Difference, compare_sides, number
from libgraph.comparison.sides import Side, coordinates_of, side
from libgraph.errors import UsageError
from libgraph.runs.run import Printer, Run
from libgraph.runs.saved_run import as_run
from libgraph.runs.tables import plain_table, print_table, text_of
from libgraph.visible import in_line


@dataclass(frozen=True)
class RunFigures:
    """What is said of one run of a series; None where the run does not know.

    Args:
        name: of its directory.
        score_name: what the score is called.
        score: the whole model's on the test split.
        edges_needed: that keep the score, at the first Δ, over all layer pairs.
        effective_edges: participation ratios of the interactions, over all layer pairs.
        modules: how many.
        modularity: at γ = 1.
        within_concept: share of the modules' edge weight within one concept.
        overlap_last: overlap of leading features with those that the last run needs, mean over
            node layers.
    """

    name: str
    score_name: str
    score: float
    edges_needed: int | None
    effective_edges: float | None
    modules: int
    modularity: float | None
    within_concept: float | None
    overlap_last: float | None


@dataclass(frozen=True, eq=False)
class Series:
    """Runs one after the other: `print` shows them as tables.

    Args:
        sides: the runs, each in one of its bases.
        differences: what distinguishes each but the first from the one before.
    """

    sides: tuple[Side, ...]
    differences: tuple[Difference, ...]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.title}>"

    def __str__(self) -> str:
        """The tables that `libgraph diff` prints of several runs."""
        return text_of(lambda console: print_series(console, self))

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        """What a notebook shows of it."""
        printer.text(str(self))

    @cached_property
    def figures(self) -> tuple[RunFigures, ...]:
        """The figures of each run."""
        return tuple(run_figures(side, self.sides[-1]) for side in self.sides)

    @property
    def concept(self) -> str:
        """What concepts are called."""
        return self.sides[-1].metrics.concept

    @property
    def title(self) -> str:
        """Heading of a picture."""
        bases = " and ".join(dict.fromkeys(side.basis.upper() for side in self.sides))
        backend = self.sides[-1].metrics.backend
        return f"{backend}: {len(self.sides)} runs in the {bases} basis"

    def as_dict(self, *, figures: bool = True) -> dict[str, object]:
        """The same for scripts, as JSON knows it; docs/files.md says what is what.

        Args:
            figures: whether the figures of each run are in it.
        """
        runs: list[dict[str, object]] = [
            {"run": side.title, "basis": side.basis} for side in self.sides
        ]
        if figures:
            runs = [run | asdict(row) for run, row in zip(runs, self.figures, strict=True)]
        return {
            "runs": runs,
            "differences": [difference.as_dict() for difference in self.differences],
        }


def diff_series(
    runs: Sequence[Run | str | Path],
    *,
    bases: Sequence[str | None] | None = None,
    threshold: float = THRESHOLD,
    coordinates: str | None = None,
) -> Series:
    """Compare runs, each with the one before it.

    Args:
        runs: in memory, or directories, in their order.
        bases: one of each run; by default the main ones.
        threshold: |cosine| from which on features count as matched.
        coordinates: a linear basis of the first run in whose features directions are compared.

    Raises:
        UsageError: if there are fewer than two runs, or as many bases as there are not runs; and
            as `diff`.
        NumericalError: if a decoder is not finite.
    """
    names = [None] * len(runs) if bases is None else list(bases)
    if len(runs) < 2:
        raise UsageError("A series of one run says nothing: give another.")
    if len(names) != len(runs):
        raise UsageError(f"{len(names)} bases are not those of {len(runs)} runs: name one of each.")
    opened = [as_run(run) for run in runs]
    sides = tuple(side(run, name) for run, name in zip(opened, names, strict=True))
    within = coordinates_of(opened[0], coordinates)
    return Series(sides, tuple(compare_sides(a, b, threshold, within) for a, b in pairwise(sides)))


def run_figures(own: Side, last: Side) -> RunFigures:
    """The figures of one run.

    Args:
        own: what is compared of it.
        last: what is compared of the last run.

    Raises:
        UsageError: if it has no node layer in common with the last run.
    """
    figures = own.figures
    required = [next(iter(counts.values()), None) for counts in figures.edges_required.values()]
    needed = [count for count in required if count is not None]
    ratios = [measures.participation_ratio for measures in figures.sparsity.values() if measures]
    # A score no better than chance needs no feature, which says nothing of subspaces.
    overlaps = [
        layer.needed_overlap if layer.needed else layer.overlap
        for layer in compare_sides(own, last).layers
        if layer.rotated
    ]
    spanned = [overlap for overlap in overlaps if overlap is not None]
    partition = own.graph.partition
    return RunFigures(
        name=run_name(own.title),
        score_name=own.metrics.score.name,
        score=own.metrics.score.test,
        edges_needed=sum(needed) if needed and len(needed) == len(required) else None,
        effective_edges=float(np.sum(ratios)) if ratios else None,
        modules=partition.size if partition else 0,
        modularity=partition.modularity if partition else None,
        within_concept=figures.modules.within_concept,
        overlap_last=float(np.mean(spanned)) if spanned else None,
    )


def run_name(title: str) -> str:
    """Name of a run's directory, wherever one stands."""
    return Path(title).resolve().name


def places(names: Sequence[str]) -> list[int] | None:
    """The numbers that names end in; None if one has none, or two have the same."""
    endings = [re.search(r"\d+$", name) for name in names]
    numbers = [int(ending.group()) for ending in endings if ending]
    return numbers if len(numbers) == len(set(numbers)) == len(names) else None


def print_series(console: Console, series: Series) -> None:
    """Print figures of several runs, and how each differs from the one before it."""
    rows, differences = series.figures, series.differences
    table = plain_table(
        "run", in_line(rows[-1].score_name), "edges\nneeded", "effective\nedges", "modules",
        "modularity", f"within\n{in_line(series.concept)}", "like\nlast",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row.name,
            f"{row.score:.4f}",
            number(row.edges_needed, "d"),
            number(row.effective_edges, ".1f"),
            str(row.modules),
            number(row.modularity, ".3f"),
            number(row.within_concept, ".0%"),
            number(row.overlap_last, ".2f"),
        )
    print_table(console, "Runs", table)
    table = plain_table(
        "run", "features\nmatched", "needed\nmatched", "edges\nin both", "lost", "gained",
        "modules\nagree", "lost", "gained",
    )  # fmt: skip
    for row, difference in zip(rows[1:], differences, strict=True):
        table.add_row(row.name, *_changes(difference))
    threshold = differences[0].threshold
    title = f"Each and the one before it; matched: |cosine| at least {threshold:g}"
    print_table(console, title, table)


def _changes(difference: Difference) -> list[str]:
    """The cells of one difference: features, edges and modules."""
    layers = [layer for layer in difference.layers if layer.rotated]
    matched = sum(len(difference.matched(layer.name).a) for layer in layers)
    needed = [layer for layer in layers if layer.needed is not None]
    found_again = sum(difference.needed_matched(layer) or 0 for layer in needed)
    modules = difference.modules
    return [
        f"{matched} of {sum(min(layer.features) for layer in layers)}",
        f"{found_again} of {sum(layer.needed or 0 for layer in needed)}" if needed else "-",
        *(
            str(sum(getattr(edges, name) for edges in difference.pairs))
            for name in ("both", "lost", "gained")
        ),
        f"{number(modules.agreement, '.2f')} ({modules.features})",
        str(len(modules.lost)),
        str(len(modules.gained)),
    ]
