"""A run in memory: what `analyze` gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from libgraph.backend.contract import Backend
from libgraph.edges.interactions import Edges
from libgraph.edges.reconstruction import Reconstructions
from libgraph.graph.arrays import Pair
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.partition import Partition
from libgraph.modules.significance import Significance
from libgraph.network.basis import Bases
from libgraph.pipeline.options import AnalysisOptions
from libgraph.runs.metrics import Metrics
from libgraph.runs.run import Ablation, Run

if TYPE_CHECKING:
    from libgraph.interventions.survey import LesionSurvey
    from libgraph.runs.examples import Examples


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
        kept: what its dictionaries keep, if it has any.
        missed: by layer pair, how far interactions of latents are from complete.
    """

    bases: Bases
    edges: Edges
    errors: Edges
    graph: InteractionGraph
    ablation: Ablation | None = None
    halves: float | None = None
    significance: Significance | None = None
    kept: Reconstructions | None = None
    missed: Mapping[Pair, float] = field(default_factory=dict)


@dataclass(frozen=True, repr=False, eq=False)
class ComputedRun(Run):
    """A run in memory, from `analyze`.

    Args:
        backend: what was analysed.
        options: how.
        results: by name of the basis.
        metrics: what `metrics.json` holds.
        directory: where the results were written, if anywhere.
        of_features: examples of the features of the main basis.
        survey: lesions of its features and modules, if asked for.
    """

    backend: Backend
    options: AnalysisOptions
    results: Mapping[str, BasisResult]
    metrics: Metrics
    directory: Path | None = None
    of_features: Examples | None = None
    survey: LesionSurvey | None = None

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

    def all_examples(self) -> Examples | None:
        """Examples of all features of the main basis; see `Run.all_examples`."""
        return self.of_features

    def lesions(self) -> LesionSurvey | None:
        """Scores without each feature and module; see `Run.lesions`."""
        return self.survey
