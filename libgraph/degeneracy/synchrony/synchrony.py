"""Units and heads that act as one, as `degeneracy.json` tells of them.

Groups within a tolerance are those to look at, and to try out by giving each one gate; free
directions are counted for groups that are exactly synchronised, less those that low rank leaves
free already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from libgraph.backend.contract import Backend
from libgraph.backend.data import Data
from libgraph.degeneracy.synchrony.gates import (
    UnitGroups,
    extra_directions,
    gate_statistics,
    joint_directions,
    ungated,
    unit_groups,
)
from libgraph.degeneracy.synchrony.groups import Groups
from libgraph.degeneracy.synchrony.heads import (
    HeadGroups,
    head_groups,
    head_statistics,
    swap_loss,
    swapped,
)
from libgraph.degeneracy.synchrony.watchers import named_sections
from libgraph.degeneracy.unit_graph import own_coordinates
from libgraph.degeneracy.weights.ranks import WeightRanks
from libgraph.edges.score import base_score
from libgraph.network.network import Network
from libgraph.progress import Progress
from libgraph.sections import GatedMLP, Linear, SkipMLP

Part = dict[str, Any]


MOST_DRAWN = 1024
"""Units whose distances are kept and drawn, at most."""


@dataclass
class Synchrony:
    """What acts as one in a network.

    Args:
        network: which.
        backend: whose score says what swapping costs.
        data: on what.
        tolerance: largest distance within a group.
        progress: told of every pass.
    """

    network: Network
    backend: Backend
    data: Data
    tolerance: float
    progress: Progress

    def units(self, ranks: Callable[[], list[WeightRanks]]) -> Part:
        """Of every section with hidden units, by name; ranks are needed where groups are exact."""
        statistics = gate_statistics(self.network, self.data, self.progress)
        sections = dict(named_sections(self.network))
        result: Part = {}
        for name, each in statistics.items():
            close = unit_groups(each, self.tolerance)
            same = unit_groups(each)
            result[name] = {
                "units": len(each.gate),
                "dead": close.dead,
                "constant": close.constant,
                "groups": close.groups,
                "exact_groups": same.groups,
                "extra": sum(same.extra),
                "new": self._new(ranks, name, same, isinstance(sections[name], GatedMLP)),
                **self._swap(name, close),
                "order": close.order,
                "distances": close.distances.tolist() if len(each.gate) <= MOST_DRAWN else None,
            }
        for name, reason in ungated(self.network).items():
            result[name] = {"skipped": reason}
        return result

    def heads(self, ranks: Callable[[], list[WeightRanks]]) -> Part:
        """Of every section of attention, by name."""
        result: Part = {}
        for name, each in head_statistics(self.network, self.data, self.progress).items():
            close, same = head_groups(each, self.tolerance), head_groups(each)
            result[name] = {
                "heads": len(each.distances),
                "groups": close.groups,
                "exact_groups": same.groups,
                "extra": sum(same.extra),
                "new": self._new_of_heads(ranks, name, same),
                **self._swap(name, close),
                "order": close.order,
                "distances": each.distances.tolist(),
            }
        return result

    def _swap(self, name: str, groups: Any) -> Part:
        """What the groups' common gates, or patterns, do to outputs and score."""
        if not groups.groups:
            return {"swap_share": None, "swap_score": None, "score": None}
        found = swap_loss(self.network, self.data, {name: groups}, self.progress)
        with swapped(self.network, {name: groups}):
            score = base_score(self.network, self.backend, self.data)
        return {"swap_share": found.share, "swap_score": score, "score": self.score}

    @cached_property
    def score(self) -> float:
        """Of the network as it is, on the same samples."""
        return base_score(self.network, self.backend, self.data)

    def _new(
        self, ranks: Callable[[], list[WeightRanks]], name: str, groups: UnitGroups, gated: bool
    ) -> int | None:
        """Extra directions that low rank does not leave free already; None where not known."""
        if not groups.groups:
            return 0
        by_name = {each.weight.name: each for each in ranks()}
        path = f"{name}." if " " in name else f"{name} "
        inner = by_name.get(path + ("gate" if gated else "inner"))
        outer = by_name.get(path + "outer") or self._reader(by_name, name)
        if inner is None or outer is None:
            return None
        # Below the units there may be the constant's row.
        rows = slice(0, inner.weight.shape[1])
        matrix, projection = outer.weight.matrix, outer.inputs.projection
        if outer.weight.rows[rows].tolist() != list(range(inner.weight.shape[1])):
            return None
        between: tuple[Tensor, ...] = (
            inner.weight.matrix.double(),
            matrix[rows].double(),
            inner.inputs.projection,
            inner.gradients.projection,
            projection[rows][:, rows],
            outer.gradients.projection,
        )
        single = [[unit] for unit in range(len(groups.distances))]
        found = joint_directions(_with_singles(groups, single), *between, scale=groups.scale)
        if found is None and len(groups.groups) == 1:
            found = extra_directions(groups.groups[0], *between, scale=groups.scale)[1]
        return found

    def _new_of_heads(
        self, ranks: Callable[[], list[WeightRanks]], name: str, groups: HeadGroups
    ) -> int | None:
        """The same of heads, whose values take several coordinates each."""
        if not sum(groups.extra):
            return 0
        by_name = {each.weight.name: each for each in ranks()}
        path = f"{name}." if " " in name else f"{name} "
        value, output = by_name.get(path + "value"), by_name.get(path + "output")
        count, width = len(groups.distances), groups.width
        if value is None or output is None:
            return None
        if value.weight.shape[1] != count * width or output.weight.shape[0] != count * width:
            return None
        return joint_directions(
            _with_singles(groups, torch.arange(count * width).reshape(count, width).tolist()),
            value.weight.matrix.double(),
            output.weight.matrix.double(),
            value.inputs.projection,
            value.gradients.projection,
            output.inputs.projection,
            output.gradients.projection,
        )

    def _reader(self, by_name: Mapping[str, WeightRanks], name: str) -> WeightRanks | None:
        """The only weight that reads units which are the next node layer's own coordinates."""
        pairs = self.network.pairs
        names = [f"{a.name}->{b.name}" for a, b, _ in pairs]
        number = names.index(name) if name in names else len(pairs)
        if number + 1 >= len(pairs):
            return None
        writer, after = (pairs[i][2] for i in (number, number + 1))
        if not isinstance(writer, SkipMLP) or not own_coordinates(writer):
            return None
        if not isinstance(after, Linear | SkipMLP) or len(after.readers) > 1:
            return None
        if isinstance(after, SkipMLP) and bool(after.skip[: len(writer.outer)].any()):
            return None
        return by_name.get(f"{names[number + 1]} {after.readers[0]}")


def _with_singles(groups: Groups, coordinates: list[list[int]]) -> list[list[list[int]]]:
    """Coordinates of the members of each group, and of those that are in none."""
    inside = {member for group in groups.groups for member in group}
    alone = [[member] for member in range(len(coordinates)) if member not in inside]
    return [[coordinates[m] for m in group] for group in [*groups.groups, *alone]]
