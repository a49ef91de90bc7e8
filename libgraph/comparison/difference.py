"""Two finished runs compared: checkpoints of one training, two seeds, two bases of one run.

Features are matched (`layers.py`); of the edges between matched features it is said which are kept
in both runs, lost and gained, and of the modules which of A became which of B. What has no
counterpart is counted and named, not guessed. Node layers are compared that have the same name and
as many coordinates in both.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from libgraph.comparison.edges import PairDifference, compare_edges
from libgraph.comparison.layers import LayerDifference, Matching, compare_layer
from libgraph.comparison.modules import ModulesDifference, compare_modules
from libgraph.comparison.sides import Side, coordinates_of, side
from libgraph.errors import UsageError
from libgraph.network.basis import Bases
from libgraph.runs.run import Printer, Run, arrow
from libgraph.runs.saved_run import as_run
from libgraph.runs.tables import MOST_MODULES, count_the_rest, plain_table, print_table, text_of
from libgraph.screen import PlainTable, tell

log = logging.getLogger("libgraph")

THRESHOLD = 0.9
"""|cosine| of two directions from which on features count as matched, unless told otherwise."""


@dataclass(frozen=True, eq=False)
class Difference:
    """What distinguishes two runs: `print` shows it as tables.

    Args:
        a: one run, in one of its bases.
        b: the other.
        threshold: |cosine| from which on features count as matched.
        layers: node layers that are in both.
        others: coordinates in A and in B of the other node layers, None where there is none.
        pairs: layer pairs that are in both.
        modules: what became of them.
    """

    a: Side
    b: Side
    threshold: float
    layers: tuple[LayerDifference, ...]
    others: Mapping[str, tuple[int | None, int | None]]
    pairs: tuple[PairDifference, ...]
    modules: ModulesDifference

    def __repr__(self) -> str:
        names = (f"{run.title}, {run.basis.upper()}" for run in (self.a, self.b))
        return f"<{type(self).__name__} of {' and '.join(names)}>"

    def __str__(self) -> str:
        """The tables that `libgraph diff` prints."""
        return text_of(lambda console: print_difference(console, self))

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        """What a notebook shows of it."""
        printer.text(str(self))

    def matched(self, name: str) -> Matching:
        """Features of a node layer that count as matched."""
        matching = next(layer.matching for layer in self.layers if layer.name == name)
        return matching.above(self.threshold)

    def needed_matched(self, layer: LayerDifference) -> int | None:
        """How many of the features that B needs have a counterpart anywhere in A."""
        if layer.needed is None:
            return None
        # Isolated features come first, the needed ones follow them.
        first = layer.isolated[1]
        return int((self.matched(layer.name).b < first + layer.needed).sum())

    def as_dict(self) -> dict[str, object]:
        """The same for scripts, as JSON knows it; docs/files.md says what is what."""
        return {
            "threshold": self.threshold,
            "layers": {layer.name: self._layer(layer) for layer in self.layers},
            "others": dict(self.others),
            "pairs": {
                arrow(edges.pair): {k: v for k, v in asdict(edges).items() if k != "pair"}
                for edges in self.pairs
            },
            "modules": asdict(self.modules),
        }

    def _layer(self, layer: LayerDifference) -> dict[str, object]:
        names = (
            "rotated",
            "features",
            "overlap",
            "by_chance",
            "needed",
            "needed_overlap",
            "leading",
            "closest",
            "closest_by_chance",
        )
        count = len(self.matched(layer.name).a)
        fewer = min(layer.features)
        return {
            **{name: getattr(layer, name) for name in names},
            "matched": count,
            "needed_matched": self.needed_matched(layer),
            "share_matched": count / fewer if fewer else None,
            "mean_cosine": layer.mean_cosine,
            "matches": {k: getattr(layer.matching, k).tolist() for k in ("a", "b", "cosine")},
        }


def diff(
    a: Run | str | Path,
    b: Run | str | Path,
    *,
    basis: str | None = None,
    basis_b: str | None = None,
    threshold: float = THRESHOLD,
    coordinates: str | None = None,
) -> Difference:
    """Compare two runs, or two bases of one.

    Directions are compared in the coordinates of the activations, which two trainings from
    different seeds do not share: see the overlap by chance.

    Args:
        a: one run, the earlier one where there is an order; in memory, or a directory.
        b: the other.
        basis: one that they have; by default the main one of each.
        basis_b: that of B; by default `basis`.
        threshold: |cosine| from which on features count as matched.
        coordinates: a linear basis of A in whose features directions are compared.

    Raises:
        UsageError: if a directory is no finished run, a run has no such basis, no node layer is in
            both, coordinates are not linear, or the threshold is no |cosine|.
        NumericalError: if a decoder is not finite.
    """
    first = as_run(a)
    return compare_sides(
        side(first, basis),
        side(as_run(b), basis_b or basis),
        threshold,
        coordinates_of(first, coordinates),
    )


def compare_sides(
    a: Side, b: Side, threshold: float = THRESHOLD, coordinates: Bases | None = None
) -> Difference:
    """Compare what `side` gives of two runs, in coordinates of `coordinates_of`; see `diff`."""
    if not 0 <= threshold <= 1:
        raise UsageError(f"A threshold of {threshold} is no |cosine|: choose one from 0 to 1.")
    sizes = [{name: len(basis.encoder) for name, basis in s.bases.items()} for s in (a, b)]
    common = [name for name, size in sizes[0].items() if sizes[1].get(name) == size]
    if not common:
        listed = (", ".join(f"{name} of {size}" for name, size in s.items()) for s in sizes)
        raise UsageError(
            f"'{a.title}' and '{b.title}' have no node layer of one name and size in common "
            f"({'; '.join(listed)}): compare runs of the same network."
        )
    within = {
        name: basis
        for name, basis in (coordinates or {}).items()
        if len(basis.encoder) == sizes[0].get(name)
    }
    lacking = [name for name in common if coordinates is not None and name not in within]
    if lacking:
        log.warning(
            "'%s' and '%s' are compared in their own coordinates at %s: the basis that was named "
            "for coordinates has none of these there.",
            a.title,
            b.title,
            ", ".join(lacking),
        )
    others = dict.fromkeys(name for s in sizes for name in s if name not in common)
    layers = tuple(
        compare_layer(name, a.bases[name], b.bases[name], b.needed.get(name), within.get(name))
        for name in common
    )
    matched = {layer.name: layer.matching.above(threshold) for layer in layers}
    pairs = [
        pair for pair in a.graph.edges if pair in b.graph.edges and {*pair} <= matched.keys()
    ]  # fmt: skip
    return Difference(
        a=a,
        b=b,
        threshold=threshold,
        layers=layers,
        others={name: (sizes[0].get(name), sizes[1].get(name)) for name in others},
        pairs=tuple(compare_edges(a.graph, b.graph, pair, matched) for pair in pairs),
        modules=compare_modules(a.graph, b.graph, matched),
    )


def print_difference(console: Console, difference: Difference) -> None:
    """Print what distinguishes two runs."""
    for letter, run in zip("AB", (difference.a, difference.b), strict=True):
        tell(console, (letter, "bold"), f": {run.title}, {run.basis.upper()}", whole=True)
    for name, sizes in difference.others.items():
        have = (f"{size} coordinates" if size else "no such layer" for size in sizes)
        tell(console, f"Not compared: {name} ({' in A, '.join(have)} in B)")
    console.print()
    title = f"Features, A / B; matched: |cosine| at least {difference.threshold:g}"
    print_table(console, title, _features(difference))
    if any(layer.latents for layer in difference.layers):
        title = "Cosine with the closest feature, mean over A's / over B's"
        print_table(console, title, _closest(difference))
    print_table(console, "Overlap of the leading features, by their number", _leading(difference))
    if difference.pairs:
        print_table(console, "Kept edges between matched features", _edges(difference))
    modules = difference.modules
    title = f"Modules of A in B: agreement {number(modules.agreement, '.2f')}"
    title += f" over {modules.features} matched features"
    title += f", {len(modules.lost)} lost, {len(modules.gained)} gained"
    print_table(console, title, _modules(modules))


def _features(difference: Difference) -> PlainTable:
    """Features, their subspaces and how many have a counterpart, per node layer."""
    columns = ["features", "overlap", "by chance", "matched"]
    if any(layer.needed is not None for layer in difference.layers):
        columns += ["B needs", "overlap", "matched"]
    table = plain_table("node layer", *columns)
    for layer in difference.layers:
        cells = (
            " / ".join(map(str, layer.features)),
            number(layer.overlap, ".3f"),
            number(layer.by_chance, ".3f"),
            str(len(difference.matched(layer.name).a)),
            number(layer.needed, "d"),
            number(layer.needed_overlap, ".3f"),
            number(difference.needed_matched(layer), "d"),
        )
        table.add_row(layer.name, *cells[: len(columns)])
    return table


def _closest(difference: Difference) -> PlainTable:
    """How near features are to one another where some are latents."""
    table = plain_table("node layer", "closest", "by chance", "one to one")
    for layer in difference.layers:
        if layer.latents:
            pairs = (layer.closest, layer.closest_by_chance)
            cells = [" / ".join(number(each, ".3f") for each in pair) for pair in pairs]
            table.add_row(layer.name, *cells, number(layer.mean_cosine, ".3f"))
    return table


def _leading(difference: Difference) -> PlainTable:
    """Overlap of the leading k features, per node layer; unrotated ones have no leading ones."""
    layers = [layer for layer in difference.layers if layer.rotated]
    counts = sorted({k for layer in layers for k in layer.leading})
    table = plain_table("node layer", *map(str, counts))
    for layer in layers:
        overlaps = (layer.leading.get(k) for k in counts)
        table.add_row(layer.name, *(number(overlap, ".3f") for overlap in overlaps))
    return table


def _edges(difference: Difference) -> PlainTable:
    """Edges kept in both runs, lost and gained, per layer pair."""
    columns = ("both", "lost", "gained", "without\ncounterpart", "Jaccard", "rank\ncorrelation")
    table = plain_table("layer pair", *columns)
    for edges in difference.pairs:
        table.add_row(
            " → ".join(edges.pair),
            *map(str, (edges.both, edges.lost, edges.gained)),
            " / ".join(map(str, edges.unmatched)),
            number(edges.jaccard, ".2f"),
            number(edges.rank_correlation, ".3f"),
        )
    return table


def _modules(modules: ModulesDifference) -> PlainTable:
    """Which module of B each of A became."""
    headings = ("module", "features", "matched", "in B", "shared", "elsewhere", "nowhere")
    # Where else features went is the one column of words, and as long as there are modules.
    table = PlainTable(headings, words={headings.index("elsewhere")})
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


def number(value: float | None, form: str) -> str:
    """A number in a table, or a dash where there is none."""
    return "-" if value is None else format(value, form)
