"""Modules of an interaction graph: Leiden on the clustering weights.

Leiden is random, so it runs from several seeds; the best partition is kept and the agreement of
all of them is reported beside it, because modules that another seed would not find mean little.
Numbering is by size, so the same graph and seed always give the same numbers. The runs themselves
are in `leiden`, modules that most runs agree on in `consensus`.
"""

from __future__ import annotations

import numpy as np

from libgraph.graph.arrays import IndexArray
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.partition import Partition
from libgraph.modules.agreement import mean_agreement
from libgraph.modules.leiden import Leiden
from libgraph.modules.objectives import ObjectiveName
from libgraph.modules.problem import Engine


def find_communities(
    graph: InteractionGraph,
    resolution: float = 1.0,
    seed: int = 0,
    seeds: int = 10,
    objective: ObjectiveName = "layered",
    engine: Engine | None = None,
) -> Partition:
    """Find the partition of largest quality over several runs of Leiden.

    Each run iterates until nothing improves, or twice above
    ``libgraph.modules.leiden.CONVERGED_EDGES`` edges. Features without edges belong to no module.

    Args:
        graph: The graph; a partition it may have is ignored.
        resolution: γ.
        seed: First seed; the runs use ``seed, seed + 1, …``.
        seeds: Number of runs.
        objective: What is optimised, see ``libgraph.modules.objectives``.
        engine: The library that does it; see :class:`libgraph.modules.leiden.Leiden`.

    Raises:
        UsageError: If the resolution is not positive, or none that the objective has, if there is
            no seed, no such objective, or none that the engine knows.
    """
    return best_partition(Leiden(graph, objective, engine), resolution, seed, seeds)


def best_partition(
    leiden: Leiden, resolution: float, seed: int, seeds: int, known: IndexArray | None = None
) -> Partition:
    """What :func:`find_communities` finds, on a graph that is prepared already.

    Args:
        leiden: The graph.
        resolution: γ.
        seed: The first seed.
        seeds: How many.
        known: A partition that may be better than those.
    """
    memberships = leiden.runs(resolution, seed, seeds)
    candidates = memberships if known is None else [*memberships, known]
    qualities = [leiden.quality(membership, resolution) for membership in candidates]
    best = int(np.argmax(qualities))
    return Partition(
        membership=leiden.by_layer(candidates[best]),
        resolution=resolution,
        quality=qualities[best],
        modularity=leiden.modularity(candidates[best]),
        agreement=mean_agreement(memberships),
        seed=seed,
        seeds=seeds,
        objective=leiden.objective,
    )
