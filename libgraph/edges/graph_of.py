"""From bases and edges, which are tensors, to the interaction graph, which knows no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from libgraph.edges.interactions import Edges
from libgraph.graph.arrays import Pair
from libgraph.graph.features import FeatureLabel, LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.partition import Partition
from libgraph.network.basis import Bases


def graph_of(
    bases: Bases,
    edges: Edges,
    *,
    epsilon: Mapping[Pair, float | None] | None = None,
    labels: Mapping[str, Sequence[FeatureLabel]] | None = None,
    partition: Partition | None = None,
) -> InteractionGraph:
    """The graph of features and their interactions; on the CPU, tensors in float64 are not copied.

    Args:
        bases: By node layer, from input to output.
        edges: Interactions in these bases.
        epsilon: By layer pair, ε; None, or nothing, where none is known.
        labels: By node layer, one for each feature; layers may be missing.
        partition: The modules, if they are known.

    Raises:
        DataError: If bases, edges, labels or modules do not fit together.
        NumericalError: If importance or edges are not finite, or edges negative.
    """
    labels = labels or {}
    return InteractionGraph(
        layers=tuple(
            LayerFeatures(
                name,
                basis.importance.cpu().numpy(),
                isolated=basis.isolated,
                rotated=basis.rotated,
                labels=tuple(labels[name]) if name in labels else None,
            )
            for name, basis in bases.items()
        ),
        edges={pair: matrix.cpu().numpy() for pair, matrix in edges.items()},
        epsilon={pair: value for pair, value in (epsilon or {}).items() if value is not None},
        partition=partition,
    )
