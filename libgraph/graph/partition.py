"""A partition: the features of a graph divided into modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from libgraph.graph.arrays import IndexArray


@dataclass(frozen=True, eq=False)
class Partition:
    """Features divided into modules numbered 0, 1, … by decreasing number of features.

    Args:
        membership: By layer, module of each feature, shape ``(features,)``; -1 for features that
            take no part in clustering or have no edge.
        resolution: The γ that was optimised: larger values give smaller modules.
        quality: What the objective says of it at that γ.
        modularity: Weighted modularity at γ = 1, whatever γ was optimised: layered, or of the whole
            graph, as the objective is.
        agreement: Mean adjusted mutual information over all pairs of seeds: 1 if all found the
            same partition, 0 if they agree no more than by chance.
        seed: The first seed.
        seeds: How many seeds were tried.
        consensus: Whether it is what the seeds agree on, and not the best of them.
        objective: What was optimised, see ``libgraph.modules.objectives``.
    """

    membership: Mapping[str, IndexArray]
    resolution: float
    quality: float
    modularity: float
    agreement: float
    seed: int
    seeds: int
    consensus: bool = False
    objective: str = "modularity"

    @property
    def size(self) -> int:
        """Number of modules."""
        return 1 + max((int(m.max(initial=-1)) for m in self.membership.values()), default=-1)
