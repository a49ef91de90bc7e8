"""Matrices of a step from one node layer to the next, put together from maps that are found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from libgraph.cutting.convolutions import Window, merge
from libgraph.cutting.layouts import (
    Layout,
    Layouts,
    State,
    all_layouts,
)
from libgraph.cutting.maps import Affine, Found, find_map
from libgraph.cutting.stages import Stage
from libgraph.cutting.values import Value


class Assembly:
    """What sections of one step are made of.

    Args:
        source: the node layer before.
        stage: the step.
        layouts: of values.
    """

    def __init__(self, source: State, stage: Stage, layouts: Layouts) -> None:
        self.source, self.atoms, self.layouts = source, stage.atoms, layouts

    def to_target(
        self, target: State, constant: bool, beside: State | None, *, mean: bool = False
    ) -> list[Found] | None:
        """Maps to each value of the node layer after, from that before and from atoms."""
        maps = []
        for value, layout in zip(target.values, target.layouts, strict=True):
            if beside is not None and value in beside.values:
                start = sum(part.width for part in beside.layouts[: beside.values.index(value)])
                own = beside.layouts[beside.values.index(value)]
                if own != layout:
                    return None
                eye = torch.zeros(beside.width, layout.width, dtype=torch.float64)
                eye[start : start + layout.width] = torch.eye(layout.width, dtype=torch.float64)
                reads = torch.arange(layout.count).unsqueeze(1)
                zero = torch.zeros(1, self.source.width + 1, layout.width, dtype=torch.float64)
                maps.append(Found(Affine(reads, zero), eye))
                continue
            through = beside is not None and needs(self.source, [value], set(beside.values))
            found = find_map(self.source, value, layout, beside if through else None, mean=mean)
            if found is None:
                return None
            if beside is not None and not through:
                zeros = torch.zeros(beside.width, layout.width, dtype=torch.float64)
                found = Found(found.of_state, zeros)
            maps.append(found)
        return maps

    def constant(self, matrix: Tensor, constant: bool) -> Tensor:
        """A matrix with one more column, in which the constant goes on."""
        if not constant:
            return matrix
        column = matrix.new_zeros(*matrix.shape[:-1], 1)
        column[..., -1, 0] = 1
        return torch.cat([matrix, column], -1)

    def alike(self, wanted: Value, layout: Layout | None) -> Tensor | None:
        """The matrix of a map that is alike at every position."""
        if layout is None or layout.count != self.source.count:
            return None
        found = find_map(self.source, wanted, layout)
        if found is None or not found.of_state.positionwise:
            return None
        return found.of_state.matrix

    def ends(self, target: State, constant: bool, beside: State) -> tuple[Tensor, Tensor] | None:
        """S and B of a step that is alike at every position."""
        maps = self.to_target(target, constant, beside)
        if maps is None or not all(found.of_state.positionwise for found in maps):
            return None
        skip = torch.cat([found.of_state.matrix for found in maps], -1)
        outer = torch.cat([found.of_beside for found in maps], -1)
        return self.constant(skip, constant), pad(outer, (0, 1)) if constant else outer

    def side_by_side(self, parts: Sequence[Affine]) -> tuple[Tensor, Tensor] | None:
        """Several maps as one of the same windows, their outputs side by side."""
        total = sum(part.matrices.shape[2] for part in parts)
        windows, start = [], 0
        for part in parts:
            width = part.matrices.shape[2]
            placed = pad(part.matrices, (start, total - start - width))
            # What reads nothing may have the window of another grid.
            if bool(placed.any()) or (part is parts[-1] and not windows):
                windows.append(Window(part.reads, placed))
            start += width
        return merge(windows)

    def with_constant(self, reads: Tensor, matrices: Tensor, constant: bool) -> Tensor | None:
        """One more output, which is the constant, where an offset can carry it on."""
        if not constant:
            return matrices
        always = (reads >= 0).all(0).nonzero()
        if not len(always):
            return None
        matrices = pad(matrices, (0, 1))
        matrices[always[0, 0], -1, -1] = 1
        return matrices

    def target_layout(self, value: Value, target: State) -> Layout | None:
        """The layout of an atom: as the node layer after it holds it, or of as many positions."""
        if value in target.values:
            return target.layouts[target.values.index(value)]
        layout = self.layouts.of(value)
        if layout is not None and layout.count == target.count:
            return layout
        return next((part for part in all_layouts(value) if part.count == target.count), None)


def as_windows(part: Affine) -> Affine:
    """Sums over all positions to one as a window over them."""
    if part.pool is None or len(part.pool) != 1:
        return part
    matrices = part.pool[0, :, None, None] * part.matrix
    matrices[:, -1] = 0
    matrices[0, -1] = part.matrix[-1]
    return Affine(torch.arange(part.pool.shape[1]).unsqueeze(0), matrices)


def needs(source: State, values: Sequence[Value], taken: set[Value]) -> bool:
    """Whether values are made through one of these."""
    stack, seen = list(values), set(source.values)
    while stack:
        value = stack.pop()
        if value in taken:
            return True
        if value not in seen:
            seen.add(value)
            stack.extend(value.sources)
    return False
