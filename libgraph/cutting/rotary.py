"""Rotary positions: queries and keys that turn by angles in proportion to their position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from libgraph.cutting.layouts import Layout, State, layout_with, split_sizes
from libgraph.cutting.maps import _alike
from libgraph.cutting.values import Program, Value, between, run_once

AGREEMENT = 1e-9


def unturned(
    state: State, values: Sequence[Value], layouts: Sequence[Layout]
) -> tuple[tuple[Tensor, Tensor], Tensor] | None:
    """Matrices of queries and keys before they turn, planes together, and the planes' angles."""
    matrices, known = [], None
    for value, layout in zip(values, layouts, strict=True):
        found = _turning(state, value, layout)
        if found is None:
            return None
        before, turns = found
        plane = _planes(turns)
        if plane is None or (known is not None and not _agree(known, plane)):
            return None
        known = plane if known is None else known
        order, _ = known
        width = turns.shape[-1]
        heads = before.shape[1] // width
        columns = torch.cat([order + width * head for head in range(heads)])
        # What the first position does to all is part of the matrix.
        start = torch.block_diag(*[turns[0]] * heads)
        matrices.append((before @ start)[:, columns])
    assert known is not None  # noqa: S101
    return (matrices[0], matrices[1]), known[1]


def _turning(state: State, value: Value, layout: Layout) -> tuple[Tensor, Tensor] | None:
    """What is turned, as a matrix `(d + 1, h·e)`, and what each position does `(s, e, e)`."""
    order = between(state.values, [value])
    width = layout.sizes[-1]
    for anchor in reversed(order):
        if anchor.shape is None or not anchor.depends or not anchor.floating:
            continue
        place = _like_heads(anchor, layout)
        if place is None:
            continue
        try:
            found = _alike(state, anchor, place, None)
            program = Program([anchor], [value])
        except (ValueError, RuntimeError):
            continue
        if found is None:
            continue
        eye = torch.eye(layout.width, dtype=torch.float64).unsqueeze(1)
        rows = eye.expand(-1, layout.count, -1).contiguous()
        turned = layout.to_rows(run_once(program, place.to_value(rows))[0]).permute(1, 0, 2)
        heads = layout.width // width
        blocks = turned.reshape(layout.count, heads, width, heads, width)
        first = blocks[:, 0, :, 0]
        whole = torch.stack([torch.block_diag(*[part] * heads) for part in first])
        if not bool((whole - turned).abs().max() <= AGREEMENT):
            continue
        return found.of_state.matrix, first
    return None


def _like_heads(anchor: Value, layout: Layout) -> Layout | None:
    """A layout of a value with the same heads and positions, in whatever order they come."""
    split = split_sizes(anchor)
    if split is None or anchor.shape is None:
        return None
    sizes, batch, _ = split
    if sorted(sizes) == sorted(layout.sizes) and len(sizes) == len(layout.sizes) == 4:
        heads = layout.sizes[layout.coordinates[0]]
        for at in range(len(sizes) - 1):
            others = [d for d in range(len(sizes)) if d not in (batch, at)]
            fits = sizes[at] == layout.count and sizes[-1] == layout.sizes[-1]
            if at != batch and fits and sizes[others[0]] == heads:
                return layout_with(anchor, others)
    if len(sizes) == 3 and sizes[-1] == layout.width and sizes[1] == layout.count:
        return layout_with(anchor, [2])
    return None


def _planes(turns: Tensor) -> tuple[Tensor, Tensor] | None:
    """The order in which planes are neighbours, and their angles, if all turns are those."""
    start = torch.linalg.inv(turns[0])
    if len(turns) < 2:
        return None
    step = start @ turns[1]
    width = step.shape[0]
    left = list(range(width))
    order: list[int] = []
    angles: list[float] = []
    at_rest: list[int] = []
    while left:
        i = left.pop(0)
        partners = [j for j in left if abs(float(step[i, j])) > 1e-12]
        if not partners:
            at_rest.append(i)
            continue
        if len(partners) > 1:
            return None
        j = partners[0]
        left.remove(j)
        order += [i, j]
        angles.append(float(torch.atan2(step[i, j], step[i, i])))
    if len(at_rest) % 2:
        return None
    order += at_rest
    angles += [0.0] * (len(at_rest) // 2)
    found = torch.tensor(order), torch.tensor(angles, dtype=torch.float64)
    return found if _fits(start @ turns, *found) else None


def _fits(turns: Tensor, order: Tensor, angles: Tensor) -> bool:
    at = torch.arange(len(turns), dtype=torch.float64)[:, None] * angles
    expected = torch.zeros_like(turns)
    i, j = order[::2], order[1::2]
    expected[:, i, i], expected[:, j, j] = at.cos(), at.cos()
    expected[:, i, j], expected[:, j, i] = at.sin(), -at.sin()
    return bool((turns - expected).abs().max() <= 1e-8)


def _agree(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(first[0], second[0]) and torch.allclose(first[1], second[1], atol=1e-9)
