"""Modules that runs of Leiden agree on, instead of the best of them.

Runs from many seeds are counted: how often is a pair of features in one module? The graph of those
shares is clustered again, from as many seeds, until all runs find the same partition. Features that
every run keeps together are one vertex of that graph, which stays small however many there are.
Source: Lancichinetti & Fortunato (2012), doi:10.1038/srep00336.
"""

from __future__ import annotations

import numpy as np

from libgraph.errors import UsageError
from libgraph.graph.arrays import FloatArray, IndexArray
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.partition import Partition
from libgraph.modules.agreement import mean_agreement
from libgraph.modules.engines import improved
from libgraph.modules.leiden import Leiden, renumber
from libgraph.modules.objectives import ObjectiveName

MOST_GROUPS = 3000
"""Groups of features that all runs keep together; their pairs are held in memory."""


THRESHOLD = 0.5
"""Share of runs that have to put two groups together for them to be joined by an edge."""


MOST_ROUNDS = 20


def consensus_communities(
    graph: InteractionGraph,
    resolution: float = 1.0,
    seed: int = 0,
    seeds: int = 20,
    objective: ObjectiveName = "layered",
) -> Partition:
    """Find the partition that runs of Leiden agree on.

    Its ``agreement`` is that of the first runs, which are those of
    :func:`find_communities`; its ``quality`` is below that of the best of them
    or equal.

    Args:
        graph: The graph; a partition it may have is ignored.
        resolution: γ of the runs.
        seed: First seed; the runs use ``seed, seed + 1, …``.
        seeds: Number of runs.
        objective: What they optimise, see ``libgraph.modules.objectives``.

    Raises:
        UsageError: If the resolution is not positive, there is no seed, or runs differ so much that
            they leave more than ``MOST_GROUPS`` groups.
    """
    leiden = Leiden(graph, objective)
    runs = leiden.runs(resolution, seed, seeds)
    members = np.full(len(leiden.connected), -1, dtype=np.int64)
    if leiden.connected.any():
        agreed = _agreed(np.stack(runs)[:, leiden.connected], seed)
        members[leiden.connected] = agreed
        members = renumber(members, leiden.connected)
    return Partition(
        membership=leiden.by_layer(members),
        resolution=resolution,
        quality=leiden.quality(members, resolution),
        modularity=leiden.modularity(members),
        agreement=mean_agreement(runs),
        seed=seed,
        seeds=seeds,
        consensus=True,
        objective=objective,
    )


def _agreed(runs: IndexArray, seed: int) -> IndexArray:
    """The partition that the rows of `runs`, shape ``(runs, features)``, agree on."""
    for _ in range(MOST_ROUNDS):
        groups, group, sizes = np.unique(runs, axis=1, return_inverse=True, return_counts=True)
        group = group.ravel()
        if groups.shape[1] > MOST_GROUPS:
            raise UsageError(
                f"Modules of {len(runs)} seeds leave {groups.shape[1]} groups that all keep "
                f"together, more than {MOST_GROUPS}: there is no consensus, choose fewer seeds."
            )
        # As many modules as groups in every run: all have found the same.
        if (runs.max(axis=1) + 1 == groups.shape[1]).all():
            break
        shares = _shares(groups)
        shares[shares < THRESHOLD] = 0
        runs = _cluster(shares, sizes, seed, len(runs))[:, group]
    agreed: IndexArray = runs[0]
    return agreed


def _shares(groups: IndexArray) -> FloatArray:
    """Share of runs with both groups in one module, shape ``(groups, groups)``."""
    together = np.zeros((groups.shape[1],) * 2, dtype=np.float64)
    for run in groups:
        together += run[:, None] == run[None, :]
    return together / len(groups)


def _cluster(shares: FloatArray, sizes: IndexArray, seed: int, seeds: int) -> IndexArray:
    """Leiden at γ = 1 on the graph of shares, shape ``(seeds, groups)``.

    A group of s features stands for s vertices with edges of weight 1 between them, so two groups
    are joined by s s' times their share, and the degree of one counts the pairs inside. γ stays 1,
    because a larger one would break modules apart that all runs agree on.
    """
    import igraph

    weights = shares * np.outer(sizes, sizes)
    degree = weights.sum(axis=1) - sizes
    row, column = np.nonzero(np.triu(weights, 1))
    network = igraph.Graph(n=len(sizes))
    network.add_edges(np.stack([row, column], axis=1))
    shared, sizes_of = weights[row, column], degree.tolist()
    total = max(float(degree.sum()), 1.0)

    def iterate(members: IndexArray) -> IndexArray:
        # Modularity written as a Potts model, to which edges inside of groups are no loss.
        clusters = network.community_leiden(
            objective_function="CPM",
            weights=shared.tolist(),
            node_weights=sizes_of,
            resolution=1 / total,
            n_iterations=1,
            initial_membership=members.tolist(),
        )
        return np.asarray(clusters.membership, dtype=np.int64)

    def quality(members: IndexArray) -> float:
        inside = float(shared[members[row] == members[column]].sum())
        together = np.bincount(members, weights=degree)
        expected = (together**2).sum() - (degree**2).sum()
        return (2 * inside - float(expected) / total) / total

    runs = range(seed, seed + seeds)
    return np.stack([improved(len(sizes), iterate, quality, -1, number) for number in runs])
