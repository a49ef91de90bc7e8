"""What `libgraph diff` prints: two runs in detail, or several one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from libgraph.runs.tables import MOST_MODULES, count_the_rest, plain_table, print_table

if TYPE_CHECKING:
    from libgraph.comparison.difference import Difference, Side
    from libgraph.comparison.modules import ModulesDifference
    from libgraph.comparison.series import RunFigures


def print_difference(console: Console, found: Difference, a: Side, b: Side) -> None:
    """Print what distinguishes two runs.

    Args:
        console: where to.
        found: their difference.
        a: the first run.
        b: the second.
    """
    for letter, each in zip("AB", (a, b), strict=True):
        console.print(f"[bold]{letter}[/]: ", end="")
        console.print(
            f"{each.title}, {each.basis.upper()}", markup=False, highlight=False, soft_wrap=True
        )
    for name, sizes in found.others.items():
        have = (f"{size} coordinates" if size else "no such layer" for size in sizes)
        console.print(f"Not compared: {name} ({' in A, '.join(have)} in B)", highlight=False)
    console.print()
    title = f"Features, A / B; matched: |cosine| at least {found.threshold:g}"
    print_table(console, title, _features(found))
    print_table(console, "Overlap of the leading features, by their number", _leading(found))
    if found.pairs:
        print_table(console, "Kept edges between matched features", _edges(found))
    modules = found.modules
    title = f"Modules of A in B: agreement {_number(modules.agreement, '.2f')}"
    title += f" over {modules.features} matched features"
    title += f", {len(modules.lost)} lost, {len(modules.gained)} gained"
    print_table(console, title, _modules(modules))


def print_series(
    console: Console,
    rows: Sequence[RunFigures],
    found: Sequence[Difference],
    concept: str,
) -> None:
    """Print figures of several runs, and how each differs from the one before it.

    Args:
        console: where to.
        rows: one for each run.
        found: what distinguishes each but the first from the one before.
        concept: what concepts are called.
    """
    table = plain_table(
        "run", rows[-1].score_name, "edges\nneeded", "effective\nedges", "modules", "modularity",
        f"within\n{concept}", "like\nlast",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row.name,
            f"{row.score:.4f}",
            _number(row.edges_needed, "d"),
            _number(row.effective_edges, ".1f"),
            str(row.modules),
            _number(row.modularity, ".3f"),
            _number(row.within_concept, ".0%"),
            _number(row.overlap_last, ".2f"),
        )
    print_table(console, "Runs", table)
    table = plain_table(
        "run", "features\nmatched", "needed\nmatched", "edges\nin both", "lost", "gained",
        "modules\nagree", "lost", "gained",
    )  # fmt: skip
    for row, each in zip(rows[1:], found, strict=True):
        layers = [layer for layer in each.layers if layer.rotated]
        matched = sum(len(each.matched(layer.name).a) for layer in layers)
        needed = [layer for layer in layers if layer.needed is not None]
        found_again = sum(each.needed_matched(layer) or 0 for layer in needed)
        table.add_row(
            row.name,
            f"{matched} of {sum(min(layer.features) for layer in layers)}",
            f"{found_again} of {sum(layer.needed or 0 for layer in needed)}" if needed else "-",
            *(
                str(sum(getattr(pair, name) for pair in each.pairs))
                for name in ("both", "lost", "gained")
            ),
            f"{_number(each.modules.agreement, '.2f')} ({each.modules.features})",
            str(len(each.modules.lost)),
            str(len(each.modules.gained)),
        )
    threshold = found[0].threshold
    title = f"Each and the one before it; matched: |cosine| at least {threshold:g}"
    print_table(console, title, table)


def _features(found: Difference) -> Table:
    """Features, their subspaces and how many have a counterpart, per node layer."""
    columns = ["features", "overlap", "by chance", "matched"]
    ablated = any(layer.needed is not None for layer in found.layers)
    if ablated:
        columns += ["B needs", "overlap", "matched"]
    table = plain_table("node layer", *columns)
    for layer in found.layers:
        cells = (
            " / ".join(map(str, layer.features)),
            _number(layer.overlap, ".3f"),
            _number(layer.by_chance, ".3f"),
            str(len(found.matched(layer.name).a)),
            _number(layer.needed, "d"),
            _number(layer.needed_overlap, ".3f"),
            _number(found.needed_matched(layer), "d"),
        )
        table.add_row(layer.name, *cells[: len(columns)])
    return table


def _leading(found: Difference) -> Table:
    """Overlap of the leading k features, per node layer; unrotated ones have no leading ones."""
    layers = [layer for layer in found.layers if layer.rotated]
    counts = sorted({k for layer in layers for k in layer.leading})
    table = plain_table("node layer", *map(str, counts))
    for layer in layers:
        overlaps = (layer.leading.get(k) for k in counts)
        table.add_row(layer.name, *(_number(each, ".3f") for each in overlaps))
    return table


def _edges(found: Difference) -> Table:
    """Edges kept in both runs, lost and gained, per layer pair."""
    columns = ("both", "lost", "gained", "without\ncounterpart", "Jaccard", "rank\ncorrelation")
    table = plain_table("layer pair", *columns)
    for pair in found.pairs:
        table.add_row(
            " → ".join(pair.pair),
            *map(str, (pair.both, pair.lost, pair.gained)),
            " / ".join(map(str, pair.unmatched)),
            _number(pair.jaccard, ".2f"),
            _number(pair.rank_correlation, ".3f"),
        )
    return table


def _modules(modules: ModulesDifference) -> Table:
    """Which module of B each of A became."""
    table = plain_table("module", "features", "matched", "in B", "shared", "elsewhere", "nowhere")
    # The one column of words, and as long as there are modules.
    table.columns[5].no_wrap = False
    for fate in modules.fates[:MOST_MODULES]:
        others = sorted(fate.elsewhere.items(), key=lambda item: -item[1])
        table.add_row(
            *map(str, (fate.module, fate.size, fate.matched)),
            "lost" if fate.to is None else str(fate.to),
            str(fate.shared),
            ", ".join(f"{count} in {module}" for module, count in others) or "-",
            str(fate.nowhere),
        )
    count_the_rest(table, len(modules.fates))
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
