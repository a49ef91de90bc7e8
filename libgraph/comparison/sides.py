"""The two sides of a difference: a run, in one of its bases, with modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from libgraph.errors import UsageError
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.communities import find_communities
from libgraph.network.basis import Bases
from libgraph.runs.metrics import BasisFigures, Metrics
from libgraph.runs.run import Run


@dataclass(frozen=True, eq=False)
class Side:
    """A run as it is compared: in one of its bases.

    Args:
        title: how the run is called.
        basis: name of the basis.
        graph: with modules.
        bases: by node layer.
        metrics: of the run.
    """

    title: str
    basis: str
    graph: InteractionGraph
    bases: Bases
    metrics: Metrics

    @property
    def figures(self) -> BasisFigures:
        """What was measured in the basis."""
        return self.metrics.bases[self.basis]

    @property
    def needed(self) -> Mapping[str, int | None]:
        """Features that keep the score, isolated ones included, by node layer, at the first Δ."""
        required = self.figures.features_required
        return {layer: next(iter(counts.values()), None) for layer, counts in required.items()}


def side(run: Run, basis: str | None = None) -> Side:
    """What is compared of a run; modules of a basis that has none saved are found as for the other.

    Args:
        run: in memory, or read back.
        basis: one that it has; by default its main one.

    Raises:
        UsageError: if it has no such basis, or its files do not belong together.
    """
    name = run.chosen(basis)
    graph, bases = run.graph(name), run.bases(name)
    for layer in graph.layers:
        encoder, decoder = bases[layer.name].encoder, bases[layer.name].decoder
        if encoder.shape[1:] != (layer.size,) or decoder.shape != encoder.T.shape:
            raise UsageError(
                f"The bases of '{run.title}' do not fit its node layer {layer.name}: analyse again "
                "with force=True."
            )
    if graph.partition is None:
        main = run.partition
        how = (main.resolution, main.seed, main.seeds, main.objective) if main else ()
        graph = graph.with_partition(find_communities(graph, *how))
    return Side(run.title, name, graph, bases, run.metrics)


def coordinates_of(run: Run, basis: str | None) -> Bases | None:
    """The bases of a run in whose features directions are compared; None for none.

    Raises:
        UsageError: if it has no such basis, or its features are not linear.
    """
    if basis is None:
        return None
    bases = run.bases(run.chosen(basis))
    curved = [name for name, each in bases.items() if not each.linear]
    if curved:
        raise UsageError(
            f"Features of '{basis}' are latents at {', '.join(curved)}, and no coordinates: name a "
            "linear basis of the run, such as pca or, where bases were compared, lib."
        )
    return bases
