"""Modules over a range of resolutions: which of them last, and which depend on the choice of γ.

Leiden's γ sets the size of modules, and nothing in the graph says which to take. A partition that
stays the same over a wide range of γ is one that the graph itself suggests; one that changes with
every step is not. Sources: Arenas, Fernández & Gómez (2008), doi:10.1088/1367-2630/10/5/053039;
Lambiotte, Delvenne & Barahona (2008), https://arxiv.org/abs/0812.1770.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from libgraph.errors import UsageError
from libgraph.graph.arrays import FloatArray, IndexArray
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.partition import Partition
from libgraph.modules.agreement import adjusted_mutual_information
from libgraph.modules.communities import best_partition
from libgraph.modules.leiden import Leiden
from libgraph.modules.objectives import WITHOUT_RESOLUTION, ObjectiveName
from libgraph.progress import Progress, silent

SAME = 0.95
"""Adjusted mutual information from which on two partitions count as the same."""


SHORTEST = 3
"""Resolutions that a plateau has at least: fewer come about by chance."""


@dataclass(frozen=True)
class ResolutionRow:
    """Modules at one resolution.

    Args:
        resolution: γ.
        modules: Their number.
        modularity: Weighted modularity at γ = 1.
        agreement: Of seeds, as in :class:`Partition`.
        similarity: Adjusted mutual information with the partition at the next larger γ; None for
            the last.
    """

    resolution: float
    modules: int
    modularity: float
    agreement: float
    similarity: float | None


@dataclass(frozen=True)
class Plateau:
    """A range of resolutions over which the partition stays the same.

    Args:
        lowest: Smallest γ.
        highest: Largest γ.
        resolution: The γ in it whose partition is most like all others; the middle one of those.
        modules: Number of modules there.
        similarity: Least adjusted mutual information between any two of its partitions.
    """

    lowest: float
    highest: float
    resolution: float
    modules: int
    similarity: float


@dataclass(frozen=True)
class Sweep:
    """Modules over a range of resolutions.

    Args:
        rows: By increasing γ.
        plateaus: By decreasing length; they do not overlap.
    """

    rows: tuple[ResolutionRow, ...]
    plateaus: tuple[Plateau, ...]


def resolutions(lowest: float = 0.1, highest: float = 10.0, count: int = 25) -> FloatArray:
    """Values of γ with equal ratios between them.

    Raises:
        UsageError: If the bounds are not positive and in order, or there are fewer than two values.
    """
    if not (0 < lowest < highest < np.inf) or count < 2:
        raise UsageError(
            f"{count} resolutions from {lowest} to {highest} are no range: choose at least two "
            "between positive numbers in order."
        )
    # Rounded as people read them: 0.1, 0.121, …; what is printed can be asked for again.
    return np.array([float(f"{gamma:.3g}") for gamma in np.geomspace(lowest, highest, count)])


def sweep_resolutions(
    graph: InteractionGraph,
    values: Sequence[float] | FloatArray | None = None,
    seed: int = 0,
    seeds: int = 5,
    objective: ObjectiveName = "layered",
    exact: bool = False,
    progress: Progress = silent,
) -> Sweep:
    """Find modules at every resolution, and the ranges over which they stay the same.

    A plateau is a range of at least ``SHORTEST`` values of γ in which any two partitions have an
    adjusted mutual information of ``SAME`` or more; the longest is taken first.

    Args:
        graph: The graph; a partition it may have is ignored.
        values: γ, increasing; those of :func:`resolutions` by default.
        seed: First seed of the runs at every γ.
        seeds: Runs at every γ.
        objective: One that has a γ, see ``libgraph.modules.objectives``.
        exact: Whether the partitions of leidenalg's exact profile take part, of modularity alone;
            seconds for a hundred edges, minutes for thousands.
        progress: Told after every γ.

    Raises:
        UsageError: If a resolution is not positive, values do not increase, there is no seed, or no
            exact profile of the objective.
    """
    gammas = [float(gamma) for gamma in (resolutions() if values is None else values)]
    if not gammas or any(a >= b for a, b in pairwise(gammas)):
        raise UsageError("The resolutions of a sweep do not increase: sort them, each one once.")
    leiden = Leiden(graph, objective)
    if objective in WITHOUT_RESOLUTION:
        raise UsageError(
            f"The objective '{objective}' has no resolution to sweep: choose another one."
        )
    known: list[IndexArray | None] = [None] * len(gammas)
    if exact:
        progress("resolutions", 0, len(gammas))
        known = leiden.profile(gammas, seed)
    partitions = []
    for done, (gamma, profile) in enumerate(zip(gammas, known, strict=True)):
        progress("resolutions", done, len(gammas))
        partitions.append(best_partition(leiden, gamma, seed, seeds, profile))
    progress("resolutions", len(gammas), len(gammas))
    similarity = _similarity(partitions)
    rows = tuple(
        ResolutionRow(
            resolution=gamma,
            modules=partition.size,
            modularity=partition.modularity,
            agreement=partition.agreement,
            similarity=float(similarity[i, i + 1]) if i + 1 < len(gammas) else None,
        )
        for i, (gamma, partition) in enumerate(zip(gammas, partitions, strict=True))
    )
    return Sweep(rows, tuple(_plateaus(rows, similarity)))


def _similarity(partitions: Sequence[Partition]) -> NDArray[np.float64]:
    """Adjusted mutual information between all of them, over the features that have a module."""
    members = []
    for partition in partitions:
        modules = np.concatenate([*partition.membership.values(), []])
        members.append(modules[modules >= 0].astype(np.int64))
    table = np.eye(len(members))
    for i, first in enumerate(members):
        for j in range(i):
            table[i, j] = table[j, i] = adjusted_mutual_information(first, members[j])
    return table


def _plateaus(rows: Sequence[ResolutionRow], similarity: NDArray[np.float64]) -> list[Plateau]:
    """The longest range in which all are alike, then the longest in what is left, and so on."""
    free = np.ones(len(rows), dtype=bool)
    plateaus = []
    for length in range(len(rows), SHORTEST - 1, -1):
        for start in range(len(rows) - length + 1):
            here = slice(start, start + length)
            block = similarity[here, here]
            if free[here].all() and (block >= SAME).all():
                free[here] = False
                # Of those that are equally like the others, the one in the middle.
                typical = np.flatnonzero(np.isclose(block.sum(axis=1), block.sum(axis=1).max()))
                nearest = np.argmin(np.abs(typical - (length - 1) / 2))
                middle = start + int(typical[nearest])
                plateaus.append(
                    Plateau(
                        lowest=rows[start].resolution,
                        highest=rows[start + length - 1].resolution,
                        resolution=rows[middle].resolution,
                        modules=rows[middle].modules,
                        similarity=float(block.min()),
                    )
                )
    return plateaus
