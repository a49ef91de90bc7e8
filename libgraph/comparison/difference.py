"""Two finished runs compared: checkpoints of one training, two seeds, two bases of one run.

Features are matched (`libgraph/matching.py`); of the edges between matched features it is said
which are kept in both runs, lost and gained, and of the modules which of A became which of B. What
has no counterpart is counted and named, not guessed. Node layers are compared that have the same
name and as many coordinates in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from libgraph.comparison.edges import PairDifference, compare_edges
from libgraph.comparison.layers import LayerDifference, Matching, compare_layer
from libgraph.comparison.modules import ModulesDifference, compare_modules
from libgraph.errors import UsageError
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.communities import find_communities
from libgraph.network.basis import Bases
from libgraph.runs.run import arrow
from libgraph.runs.saved_run import SavedRun

THRESHOLD = 0.9


@dataclass(frozen=True, eq=False)
class Side:
    """A run as it is compared: in one of its bases.

    Args:
        title: how the run is called.
        basis: name of the basis.
        graph: with modules.
        bases: by node layer.
        needed: features that keep the score, isolated ones included, by node layer; may be empty.
    """

    title: str
    basis: str
    graph: InteractionGraph
    bases: Bases
    needed: Mapping[str, int | None]


@dataclass(frozen=True, eq=False)
class Difference:
    """All that :func:`compare` found.

    Args:
        threshold: |cosine| from which on features count as matched.
        layers: node layers that are in both.
        others: coordinates in A and in B of the other node layers, None where there is none.
        pairs: layer pairs that are in both.
        modules: what became of them.
    """

    threshold: float
    layers: tuple[LayerDifference, ...]
    others: dict[str, tuple[int | None, int | None]]
    pairs: tuple[PairDifference, ...]
    modules: ModulesDifference

    def matched(self, name: str) -> Matching:
        """Features of a node layer that count as matched."""
        layer = next(each for each in self.layers if each.name == name)
        return layer.matching.above(self.threshold)

    def needed_matched(self, layer: LayerDifference) -> int | None:
        """How many of the features that B needs have a counterpart anywhere in A."""
        if layer.needed is None:
            return None
        # Isolated features come first, the needed ones follow them.
        first = layer.isolated[1]
        return int((self.matched(layer.name).b < first + layer.needed).sum())

    def metrics(self) -> dict[str, Any]:
        """The same for scripts, as JSON knows it."""
        return {
            "threshold": self.threshold,
            "layers": {layer.name: self._layer(layer) for layer in self.layers},
            "others": self.others,
            "pairs": {
                arrow(each.pair): {k: v for k, v in asdict(each).items() if k != "pair"}
                for each in self.pairs
            },
            "modules": asdict(self.modules),
        }

    def _layer(self, layer: LayerDifference) -> dict[str, Any]:
        names = (
            "rotated",
            "features",
            "overlap",
            "by_chance",
            "needed",
            "needed_overlap",
            "leading",
        )
        count = len(self.matched(layer.name).a)
        fewer = min(layer.features)
        return {
            **{name: getattr(layer, name) for name in names},
            "matched": count,
            "needed_matched": self.needed_matched(layer),
            "share_matched": count / fewer if fewer else None,
            "matches": {k: getattr(layer.matching, k).tolist() for k in ("a", "b", "cosine")},
        }


def side(saved: SavedRun, basis: str | None = None) -> Side:
    """What is compared of a run; modules of a basis that has none saved are found as for the other.

    Args:
        saved: the run.
        basis: one that it has; by default the one it was asked for.

    Raises:
        UsageError: if it has no such basis, or its files do not belong together.
    """
    name = basis or saved.basis
    graph, bases = saved.graph(name), saved.bases(name)
    for layer in graph.layers:
        each = bases[layer.name]
        if each.decoder.ndim != 2 or each.decoder.shape != each.encoder.T.shape or (
            len(each) != layer.size
        ):  # fmt: skip
            raise UsageError(
                f"The bases of '{saved.path}' do not fit its node layer {layer.name}: analyse "
                "again with force=True."
            )
    if graph.partition is None:
        like = saved.partition
        how = (like.resolution, like.seed, like.seeds) if like else ()
        graph = graph.with_partition(find_communities(graph, *how))
    required = saved.metrics["bases"][name].get("features_required") or {}
    needed = {layer: next(iter(found.values()), None) for layer, found in required.items()}
    return Side(str(saved.path), name, graph, bases, needed)


def compare(a: Side, b: Side, threshold: float = THRESHOLD) -> Difference:
    """Compare two runs.

    Args:
        a: one run, the earlier one where there is an order.
        b: the other.
        threshold: |cosine| from which on features count as matched.

    Raises:
        UsageError: if no node layer is in both, or the threshold is no |cosine|.
        NumericalError: if a decoder is not finite.
    """
    if not 0 <= threshold <= 1:
        raise UsageError(f"A threshold of {threshold} is no |cosine|: choose one from 0 to 1.")
    sizes = [{name: len(basis.encoder) for name, basis in s.bases.items()} for s in (a, b)]
    common = [name for name, size in sizes[0].items() if sizes[1].get(name) == size]
    if not common:
        listed = (", ".join(f"{name} of {size}" for name, size in each.items()) for each in sizes)
        raise UsageError(
            f"'{a.title}' and '{b.title}' have no node layer of one name and size in common "
            f"({'; '.join(listed)}): compare runs of the same network."
        )
    others = {name: None for each in sizes for name in each if name not in common}
    layers = tuple(
        compare_layer(name, a.bases[name], b.bases[name], b.needed.get(name)) for name in common
    )
    matched = {layer.name: layer.matching.above(threshold) for layer in layers}
    pairs = [
        pair for pair in a.graph.edges if pair in b.graph.edges and {*pair} <= matched.keys()
    ]  # fmt: skip
    return Difference(
        threshold=threshold,
        layers=layers,
        others={name: (sizes[0].get(name), sizes[1].get(name)) for name in others},
        pairs=tuple(compare_edges(a.graph, b.graph, pair, matched) for pair in pairs),
        modules=compare_modules(a.graph, b.graph, matched),
    )
