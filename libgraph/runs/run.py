"""A run: what one analysis found, in memory or read back from its directory.

Whatever looks at results takes either: both have the figures, and bases, edges and graphs by name
of the basis, the main one being that of the modules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from libgraph.backend.contract import Backend
from libgraph.edges.edge_ablation import EdgeAblation
from libgraph.edges.interactions import Edges
from libgraph.errors import UsageError
from libgraph.graph.arrays import Pair
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.partition import Partition
from libgraph.modules.significance import Significance
from libgraph.network.basis import Bases
from libgraph.pipeline.options import AnalysisOptions
from libgraph.runs.metrics import Metrics, Required, SparsityFigures
from libgraph.runs.tables import print_metrics, text_of


def arrow(pair: Pair) -> str:
    """A layer pair as it is written in files: `ln1.0->ln2.0`."""
    return "->".join(pair)


@dataclass(frozen=True)
class Ablation:
    """What ablation found for one basis.

    Args:
        nodes: score by number of features kept, by node layer.
        edges: by layer pair.
    """

    nodes: Mapping[str, Mapping[int, float]]
    edges: Mapping[Pair, EdgeAblation]


class Sparsity(NamedTuple):
    """How sparse the edges of one basis are.

    Args:
        edges_required: edges that keep the score, by layer pair and tolerance Δ; empty where
            nothing was ablated.
        measures: without ablation, by layer pair; None where all edges are 0.
    """

    edges_required: Mapping[str, Required]
    measures: Mapping[str, SparsityFigures | None]


class Printer(Protocol):
    """As much of IPython's pretty printer as is used."""

    def text(self, text: str) -> object:
        """Show some text."""


class Run(ABC):
    """The results of an analysis that is finished.

    Where a basis may be named, it is the main one by default: that which was asked for.

    Attributes:
        metrics: what `metrics.json` holds.
        directory: where the results were written, if anywhere.
    """

    metrics: Metrics
    directory: Path | None

    def __str__(self) -> str:
        """The tables that `libgraph analyze` prints."""
        return text_of(lambda console: print_metrics(console, self.metrics))

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        """What a notebook shows of it."""
        printer.text(str(self))

    @property
    def basis(self) -> str:
        """Name of the main basis."""
        return self.metrics.modules.basis

    @property
    def basis_names(self) -> tuple[str, ...]:
        """Names of all bases."""
        return tuple(self.metrics.bases)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the node layers, from input to output."""
        return self.metrics.node_layers

    @property
    def concept(self) -> str:
        """What concepts in labels are called."""
        return self.metrics.concept

    @property
    def modules_known(self) -> bool:
        """Whether concepts are the true modules, and the modules found were measured by them."""
        return "homogeneity" in self.metrics.modules.model_fields_set

    @property
    def title(self) -> str:
        """What the run is called in tables: its directory, or its backend where it has none."""
        return str(self.directory or self.metrics.backend)

    @property
    def sparsity(self) -> dict[str, Sparsity]:
        """Edges required and measures of sparsity, by basis."""
        return {
            name: Sparsity(figures.edges_required, figures.sparsity)
            for name, figures in self.metrics.bases.items()
        }

    @property
    @abstractmethod
    def pairs(self) -> tuple[Pair, ...]:
        """The layer pairs."""

    @property
    @abstractmethod
    def partition(self) -> Partition | None:
        """The modules of the main basis."""

    @abstractmethod
    def bases(self, name: str | None = None) -> Bases:
        """Encoders, decoders and importance by node layer.

        Raises:
            UsageError: if the run has no such basis.
        """

    @abstractmethod
    def edges(self, name: str | None = None) -> Edges:
        """All interactions, ``[out, in]``, by layer pair.

        Raises:
            UsageError: if the run has no such basis.
        """

    @abstractmethod
    def errors(self, name: str | None = None) -> Edges:
        """Standard errors of the interactions in the same form; empty where those are exact.

        Raises:
            UsageError: if the run has no such basis.
        """

    @abstractmethod
    def ablation(self, name: str | None = None) -> Ablation | None:
        """What ablation found; None for a run without.

        Raises:
            UsageError: if the run has no such basis.
        """

    @abstractmethod
    def graph(self, name: str | None = None) -> InteractionGraph:
        """The graph of a basis, with all edges and ε, and with labels and modules where known.

        Raises:
            UsageError: if the run has no such basis.
        """

    def chosen(self, name: str | None) -> str:
        """That basis if the run has it, the main one for None.

        Raises:
            UsageError: if it has none of that name.
        """
        if name is not None and name not in self.metrics.bases:
            names = ", ".join(self.basis_names)
            raise UsageError(f"'{self.title}' has no basis '{name}': choose one of {names}.")
        return name or self.basis


@dataclass(frozen=True)
class BasisResult:
    """What an analysis found in one basis.

    Args:
        bases: by node layer.
        edges: interactions, by layer pair.
        errors: their standard errors; empty where they are exact.
        graph: with modules and labels.
        ablation: None without.
        halves: agreement of modules found on even and on odd samples, if asked for.
        significance: against rotated networks, if asked for.
    """

    bases: Bases
    edges: Edges
    errors: Edges
    graph: InteractionGraph
    ablation: Ablation | None = None
    halves: float | None = None
    significance: Significance | None = None


@dataclass(frozen=True, repr=False, eq=False)
class ComputedRun(Run):
    """A run in memory, from `analyze`.

    Args:
        backend: what was analysed.
        options: how.
        results: by name of the basis.
        metrics: what `metrics.json` holds.
        directory: where the results were written, if anywhere.
    """

    backend: Backend
    options: AnalysisOptions
    results: Mapping[str, BasisResult]
    metrics: Metrics
    directory: Path | None = None

    def __repr__(self) -> str:
        main, *beside = (name.upper() for name in self.basis_names)
        bases = f"{main} beside {', '.join(beside)}" if beside else main
        return f"<{type(self).__name__} of {self.backend!r}: {bases}>"

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The layer pairs."""
        return tuple(self.edges())

    @property
    def partition(self) -> Partition | None:
        """The modules of the main basis."""
        return self.graph().partition

    def bases(self, name: str | None = None) -> Bases:
        """Encoders, decoders and importance by node layer; see `Run.bases`."""
        return self.results[self.chosen(name)].bases

    def edges(self, name: str | None = None) -> Edges:
        """All interactions, ``[out, in]``, by layer pair; see `Run.edges`."""
        return self.results[self.chosen(name)].edges

    def errors(self, name: str | None = None) -> Edges:
        """Standard errors of the interactions; see `Run.errors`."""
        return self.results[self.chosen(name)].errors

    def ablation(self, name: str | None = None) -> Ablation | None:
        """What ablation found; see `Run.ablation`."""
        return self.results[self.chosen(name)].ablation

    def graph(self, name: str | None = None) -> InteractionGraph:
        """The graph of a basis, with labels and modules; see `Run.graph`."""
        return self.results[self.chosen(name)].graph
