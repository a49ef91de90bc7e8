"""Units and heads that act as one, as `degeneracy.json` tells of them.

Groups within a tolerance are those to look at, and to try out by giving each one gate; free
directions are counted for groups that are exactly synchronised, less those that low rank leaves
free already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from libgraph.degeneracy.figures import HeadFigures, Skipped, UnitFigures
from libgraph.degeneracy.synchrony.directions import (
    GatedBlock,
    extra_directions,
    joint_directions,
)
from libgraph.degeneracy.synchrony.gates import UnitGroups, gate_statistics, ungated, unit_groups
from libgraph.degeneracy.synchrony.groups import Groups
from libgraph.degeneracy.synchrony.heads import HeadGroups, head_groups, head_statistics
from libgraph.degeneracy.synchrony.swaps import swap_loss, swapped
from libgraph.degeneracy.synchrony.watchers import named_sections
from libgraph.degeneracy.unit_graph import own_coordinates
from libgraph.degeneracy.weights.ranks import WeightRanks
from libgraph.edges.score import Scoring, base_score
from libgraph.progress import Progress
from libgraph.sections import GatedMLP, Linear, SkipMLP

MOST_DRAWN = 1024
"""Units whose distances are kept and drawn, at most."""


Ranks = Callable[[], Sequence[WeightRanks]]
"""Ranks of all weights, which are asked for only where groups are exact."""


class _Swap(NamedTuple):
    """What the groups' common gates, or patterns, do; None without groups."""

    share: float | None = None
    score: float | None = None
    base_score: float | None = None


@dataclass
class Synchrony:
    """What acts as one in a network.

    Args:
        scoring: the network, the data, and the score that says what swapping costs.
        tolerance: largest distance within a group.
        progress: told of every pass.
    """

    scoring: Scoring
    tolerance: float
    progress: Progress

    def units(self, ranks: Ranks) -> dict[str, UnitFigures | Skipped]:
        """Of every section with hidden units, by name."""
        network = self.scoring.network
        sections = dict(named_sections(network))
        figures: dict[str, UnitFigures | Skipped] = {}
        for name, statistics in gate_statistics(network, self.scoring.data, self.progress).items():
            close, same = unit_groups(statistics, self.tolerance), unit_groups(statistics)
            swap = self._swap(name, close)
            few = len(statistics.gate) <= MOST_DRAWN
            figures[name] = UnitFigures(
                units=len(statistics.gate),
                dead=close.dead,
                constant=close.constant,
                groups=close.groups,
                exact_groups=same.groups,
                extra=sum(same.extra),
                new=self._new_of_units(ranks, name, same, isinstance(sections[name], GatedMLP)),
                swap_share=swap.share,
                swap_score=swap.score,
                score=swap.base_score,
                order=close.order,
                distances=close.distances.tolist() if few else None,
            )
        for name, reason in ungated(network).items():
            figures[name] = Skipped(skipped=reason)
        return figures

    def heads(self, ranks: Ranks) -> dict[str, HeadFigures]:
        """Of every section of attention, by name."""
        figures = {}
        for name, statistics in head_statistics(
            self.scoring.network, self.scoring.data, self.progress
        ).items():
            close, same = head_groups(statistics, self.tolerance), head_groups(statistics)
            swap = self._swap(name, close)
            figures[name] = HeadFigures(
                heads=len(statistics.distances),
                groups=close.groups,
                exact_groups=same.groups,
                extra=sum(same.extra),
                new=self._new_of_heads(ranks, name, same),
                swap_share=swap.share,
                swap_score=swap.score,
                score=swap.base_score,
                order=close.order,
                distances=statistics.distances.tolist(),
            )
        return figures

    def _swap(self, name: str, groups: Groups) -> _Swap:
        if not groups.groups:
            return _Swap()
        network, data = self.scoring.network, self.scoring.data
        loss = swap_loss(network, data, {name: groups}, self.progress)
        with swapped(network, {name: groups}):
            score = base_score(network, self.scoring.backend, data)
        return _Swap(loss.share, score, self.scoring.base_score)

    def _new_of_units(self, ranks: Ranks, name: str, groups: UnitGroups, gated: bool) -> int | None:
        """Extra directions that low rank does not leave free already; None where not known."""
        if not groups.groups:
            return 0
        by_name = {of_weight.weight.name: of_weight for of_weight in ranks()}
        path = _path(name)
        inner = by_name.get(path + ("gate" if gated else "inner"))
        outer = by_name.get(path + "outer") or self._reader(by_name, name)
        if inner is None or outer is None:
            return None
        # Below the units there may be the constant's row.
        rows = slice(0, inner.weight.shape[1])
        if outer.weight.rows[rows].tolist() != list(range(inner.weight.shape[1])):
            return None
        block = GatedBlock(
            inner.weight.matrix.double(),
            outer.weight.matrix[rows].double(),
            inner.inputs.projection,
            inner.gradients.projection,
            outer.inputs.projection[rows][:, rows],
            outer.gradients.projection,
            groups.scale,
        )
        single = [[unit] for unit in range(len(groups.distances))]
        new = joint_directions(_with_singles(groups, single), block)
        if new is None and len(groups.groups) == 1:
            _, new = extra_directions(groups.groups[0], block)
        return new

    def _new_of_heads(self, ranks: Ranks, name: str, groups: HeadGroups) -> int | None:
        """The same of heads, whose values take several coordinates each."""
        if not sum(groups.extra):
            return 0
        by_name = {of_weight.weight.name: of_weight for of_weight in ranks()}
        path = _path(name)
        value, output = by_name.get(path + "value"), by_name.get(path + "output")
        count, width = len(groups.distances), groups.width
        if value is None or output is None:
            return None
        if value.weight.shape[1] != count * width or output.weight.shape[0] != count * width:
            return None
        block = GatedBlock(
            value.weight.matrix.double(),
            output.weight.matrix.double(),
            value.inputs.projection,
            value.gradients.projection,
            output.inputs.projection,
            output.gradients.projection,
        )
        by_head = torch.arange(count * width).reshape(count, width).tolist()
        return joint_directions(_with_singles(groups, by_head), block)

    def _reader(self, by_name: Mapping[str, WeightRanks], name: str) -> WeightRanks | None:
        """The only weight that reads units which are the next node layer's own coordinates."""
        pairs = self.scoring.network.pairs
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


def _path(section: str) -> str:
    """What names of a section's weights begin with."""
    return f"{section}." if " " in section else f"{section} "


def _with_singles(
    groups: Groups, coordinates: Sequence[Sequence[int]]
) -> list[list[Sequence[int]]]:
    """Coordinates of the members of each group, and of those that are in none."""
    inside = {member for group in groups.groups for member in group}
    alone = [[member] for member in range(len(coordinates)) if member not in inside]
    return [[coordinates[m] for m in group] for group in [*groups.groups, *alone]]
