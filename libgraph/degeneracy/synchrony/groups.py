"""Groups of units or heads that act as one, from distances between each two.

Complete linkage, so that in a group no two are further apart than the tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from libgraph.errors import UsageError

SUMMATION = 256
"""Means over data are rounded by less than this times what float64 can tell from 1."""


@dataclass(frozen=True, eq=False)
class Groups:
    """What acts as one, of things with a distance between each two.

    Args:
        groups: members of each group of at least two, the largest group first.
        order: all of them, in the order in which the linkage puts them: groups are not torn.
        distances: between each two.
    """

    groups: list[list[int]]
    order: list[int]
    distances: Float[Tensor, "units units"] = field(repr=False)

    @property
    def membership(self) -> Int[Tensor, " units"]:
        """The number of each one's group, -1 for those that are in none."""
        numbers = torch.full((len(self.distances),), -1)
        for number, members in enumerate(self.groups):
            numbers[members] = number
        return numbers

    @property
    def medoids(self) -> list[int]:
        """Of each group the member with the least sum of distances to the others."""
        sums = (self.distances[members][:, members].sum(0) for members in self.groups)
        return [group[int(s.argmin())] for group, s in zip(self.groups, sums, strict=True)]

    @property
    def sources(self) -> tuple[list[int], list[int]]:
        """All members of groups, and beside each the medoid of its group."""
        members = [member for group in self.groups for member in group]
        pairs = zip(self.groups, self.medoids, strict=True)
        return members, [medoid for group, medoid in pairs for _ in group]

    @property
    def extra(self) -> list[int]:
        """Free directions of each group beyond those of its members by themselves."""
        return [len(group) ** 2 - len(group) for group in self.groups]


def complete_linkage(
    distances: Float[Tensor, "n n"], threshold: float, use: Bool[Tensor, " n"]
) -> tuple[list[list[int]], list[int]]:
    """Groups of at least two with no distance above the threshold, and an order of all.

    What is not used comes last in the order.
    """
    used = use.nonzero().squeeze(1).cpu().numpy()
    rest = (~use).nonzero().squeeze(1).tolist()
    if len(used) < 2:
        return [], [*used.tolist(), *rest]
    between = distances.cpu().numpy()[np.ix_(used, used)]
    tree = linkage(squareform(between, checks=False), method="complete")
    labels = fcluster(tree, threshold, criterion="distance")
    by_label = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[by_label])) + 1
    groups = [used[part].tolist() for part in np.split(by_label, starts) if len(part) > 1]
    groups.sort(key=lambda group: (-len(group), group))
    return groups, [*used[leaves_list(tree)].tolist(), *rest]


def check_tolerance(name: str, value: float) -> None:
    """Raise a `UsageError` unless it is a number of at least zero."""
    if not value >= 0:
        raise UsageError(f"The tolerance '{name}' must be at least 0, not {value}.")
