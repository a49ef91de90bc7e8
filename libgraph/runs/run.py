"""A run: what one analysis found, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libgraph.backend.contract import Backend
from libgraph.edges.edge_ablation import EdgeAblation
from libgraph.edges.interactions import Edges
from libgraph.graph.arrays import Pair
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.network.basis import Bases
from libgraph.pipeline.options import AnalysisOptions
from libgraph.runs.tables import metrics_text


@dataclass(frozen=True)
class Ablation:
    """What ablation found for one basis.

    Args:
        nodes: score by number of features kept, by node layer.
        edges: by layer pair.
    """

    nodes: Mapping[str, Mapping[int, float]]
    edges: Mapping[Pair, EdgeAblation]


@dataclass(frozen=True)
class Run:
    """Results of an analysis.

    Args:
        backend: what was analysed.
        options: how.
        bases: by name of the basis and of the node layer.
        edges: by name of the basis and layer pair.
        errors: standard errors of the edges, in the same form; empty where edges are exact.
        ablation: by name of the basis; empty if there was none.
        graphs: by name of the basis, with modules and labels.
        metrics: what `metrics.json` holds.
        directory: where the results were written, if anywhere.
    """

    backend: Backend
    options: AnalysisOptions
    bases: Mapping[str, Bases]
    edges: Mapping[str, Edges]
    errors: Mapping[str, Edges]
    ablation: Mapping[str, Ablation]
    graphs: Mapping[str, InteractionGraph]
    metrics: Mapping[str, Any]
    directory: Path | None = None

    def __repr__(self) -> str:
        main, *beside = (name.upper() for name in self.options.bases)
        bases = f"{main} beside {', '.join(beside)}" if beside else main
        return f"<{type(self).__name__} of {self.backend!r}: {bases}>"

    def __str__(self) -> str:
        """The tables that `libgraph analyze` prints."""
        return metrics_text(self.metrics, self.backend.concept)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What a notebook shows of it."""
        printer.text(str(self))

    @property
    def graph(self) -> InteractionGraph:
        """The graph of the basis asked for."""
        return self.graphs[self.options.main]

    @property
    def sparsity(self) -> dict[str, dict[str, Any]]:
        """Edges required and measures of sparsity by layer pair, by basis."""
        return {
            name: {"edges_required": entry["edges_required"], **entry["sparsity"]}
            for name, entry in self.metrics["bases"].items()
        }


def arrow(pair: Pair) -> str:
    """A layer pair as it is written in files: `ln1.0->ln2.0`."""
    return "->".join(pair)
