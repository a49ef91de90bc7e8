"""Affine maps between a node layer and a value, found by what they do to unit vectors.

A map is first supposed to be alike at every position; else that of convolutions, of a mean over
positions, of sums over positions, or of all positions at once. What is supposed is then held
against what the map makes of random numbers, so that nothing is taken for what it is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vjp, vmap

from libgraph.cutting.convolutions import (
    Window,
    first_convolutions,
    geometry,
    merge,
    ungrouped,
    with_bias,
)
from libgraph.cutting.layouts import Layout, State, layout_with
from libgraph.cutting.values import Program, Value, between, run_once
from libgraph.sections.grids import windows

AT_ONCE = 2**24
"""Numbers that probes may have at a time."""


MOST_DENSE = 2**25
"""Numbers of a map from all positions at once."""


AGREEMENT = 1e-9


class Affine(NamedTuple):
    """A map from `(n, s, d + 1)`, the constant last, to `(n, t, c)`.

    Attributes:
        reads: `(t, K)`, the position that each offset reads, -1 for none.
        matrices: `(K, d + 1, c)`.
        pool: P `(t, s)`, in place of what offsets read.
        mean: `(d + 1, c)`, what the mean over positions adds to each of them.
    """

    reads: Tensor
    matrices: Tensor
    pool: Tensor | None = None
    mean: Tensor | None = None

    @property
    def positionwise(self) -> bool:
        """Whether each position is by itself, and alike."""
        return self.pool is None and self.mean is None and is_own(self.reads)

    @property
    def matrix(self) -> Tensor:
        """Of a map that is alike at every position."""
        return self.matrices[0]


def is_own(reads: Tensor) -> bool:
    """Whether every position reads itself alone."""
    return reads.shape[1] == 1 and torch.equal(reads[:, 0], torch.arange(len(reads)))


class Found(NamedTuple):
    """A map from a node layer, and further ones from values beside it `(h, c)`."""

    of_state: Affine
    of_beside: Tensor


def find_map(
    state: State, wanted: Value, layout: Layout, beside: State | None = None, *, mean: bool = False
) -> Found | None:
    """How a value is made of a node layer, and of values beside it at each position.

    Args:
        state: the node layer.
        wanted: the value, affine in what it is computed of.
        layout: of the value.
        beside: values that are computed of the node layer in between.
        mean: whether a mean over positions may be in it.
    """
    try:
        found = _alike(state, wanted, layout, beside)
        found = found or _of_convolutions(state, wanted, layout, beside)
        if found is None and mean and beside is None:
            found = _with_mean(state, wanted, layout)
        if found is None and beside is None:
            found = _pooled(state, wanted, layout) or _dense(state, wanted, layout)
    except (ValueError, RuntimeError, IndexError):
        # Values that are needed and not there, or shapes that cannot be so.
        return None
    return found


def _rows_of(inputs: State, wanted: Value, layout: Layout) -> Callable[[Tensor], Tensor]:
    """The map of rows of the inputs to rows of the value."""
    program = Program(inputs.values, [wanted])

    def rows(x: Tensor) -> Tensor:
        (y,) = run_once(program, *inputs.to_tensors(x))
        return layout.to_rows(y)

    return rows


def _joined(state: State | None, beside: State | None) -> State:
    parts = [part for part in (state, beside) if part is not None]
    return State(
        [value for part in parts for value in part.values],
        [layout for part in parts for layout in part.layouts],
    )


def _close(actual: Tensor, expected: Tensor) -> bool:
    if actual.shape != expected.shape:
        return False
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    return (
        bool((actual - expected).abs().max() <= AGREEMENT * max(scale, 1e-30))
        if scale
        else (float(actual.abs().max() if actual.numel() else 0.0) == 0.0)
    )


def _random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _probe_alike(
    rows: Callable[[Tensor], Tensor], width: int, count: int
) -> tuple[Tensor, Tensor] | None:
    """Matrix `(width, c)` and bias `(c,)`, if the map is alike at every position."""
    at_zero = rows(torch.zeros(1, count, width, dtype=torch.float64))
    if at_zero.shape[1] != count:
        return None
    # First a cheap look, which most maps that are not alike fail.
    x = _random(1, count, width)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    y = rows(x)
    if not _close(rows(x[:, order]), y[:, order]):
        return None
    eye = torch.eye(width, dtype=torch.float64)
    parts = []
    for chunk in eye.split(max(1, AT_ONCE // max(1, count * max(width, at_zero.shape[2])))):
        response = rows(chunk.unsqueeze(1).expand(-1, count, -1).contiguous()) - at_zero
        parts.append(response[:, 0])
    matrix, bias = torch.cat(parts), at_zero[0, 0]
    return (matrix, bias) if _close(x @ matrix + bias, y) else None


def _alike(state: State, wanted: Value, layout: Layout, beside: State | None) -> Found | None:
    inputs = _joined(state, beside)
    if len({part.count for part in (state, beside) if part is not None}) > 1:
        return None
    if layout.count != state.count:
        return None
    probed = _probe_alike(_rows_of(inputs, wanted, layout), inputs.width, state.count)
    if probed is None:
        return None
    matrix, bias = probed
    own = torch.arange(state.count).unsqueeze(1)
    of_state = torch.cat([matrix[: state.width], bias.unsqueeze(0)])
    return Found(Affine(own, of_state.unsqueeze(0)), matrix[state.width :])


# Convolutions


def _of_convolutions(
    state: State, wanted: Value, layout: Layout, beside: State | None
) -> Found | None:
    known = [*state.values, *(beside.values if beside else ())]
    order = between(known, [wanted])
    anchors = first_convolutions(order)
    if not anchors:
        return None
    layouts = [layout_with(anchor, [1]) for anchor in anchors]
    if any(part is None or part.count != layout.count for part in layouts):
        return None
    after = State(anchors, [part for part in layouts if part is not None])
    try:
        inputs, with_state = _joined(after, beside), False
        rows = _rows_of(inputs, wanted, layout)
    except ValueError:
        if state.count != layout.count:
            return None
        inputs, with_state = _joined(_joined(after, beside), state), True
        rows = _rows_of(inputs, wanted, layout)
    probed = _probe_alike(rows, inputs.width, layout.count)
    if probed is None:
        return None
    matrix, bias = probed
    parts: list[Window] = []
    start = 0
    for anchor, part in zip(anchors, after.layouts, strict=True):
        window = _window(state, anchor, matrix[start : start + part.width])
        if window is None:
            return None
        parts.append(window)
        offset = anchor.args[2] if len(anchor.args) > 2 else None
        if offset is not None:
            bias = bias + offset.constant @ matrix[start : start + part.width]
        start += part.width
    width = beside.width if beside else 0
    of_beside, rest = matrix[start : start + width], matrix[start + width :]
    if with_state:
        own = torch.arange(state.count).unsqueeze(1)
        parts.append(Window(own, torch.cat([rest, torch.zeros_like(rest[:1])]).unsqueeze(0)))
    merged = merge(parts)
    if merged is None:
        return None
    reads, matrices = merged
    placed = with_bias(reads, matrices, bias)
    return None if placed is None else Found(Affine(reads, placed), of_beside)


def _window(state: State, anchor: Value, after: Tensor) -> Window | None:
    """What a convolution reads, and the matrix of each offset through to what is made of it."""
    source = anchor.args[0]
    layout = layout_with(source, [1])
    if layout is None or layout.batch != 0:
        return None
    found = _alike(state, source, layout, None) if source not in state.values else None
    if source in state.values:
        rows = state.width + 1
        start = sum(part.width for part in state.layouts[: state.values.index(source)])
        before = torch.zeros(rows, layout.width, dtype=torch.float64)
        before[start : start + layout.width] = torch.eye(layout.width, dtype=torch.float64)
        if state.layouts[state.values.index(source)] != layout:
            return None
    elif found is None:
        return None
    else:
        before = found.of_state.matrix
    weight = anchor.args[1].constant
    dims = weight.ndim - 2
    stride, padding, dilation, groups = geometry(anchor, dims)
    if padding is None:
        return None
    size = [layout.sizes[d] for d in layout.positions]
    reads = windows(size, list(weight.shape[2:]), stride, padding, dilation)
    dense = ungrouped(weight, groups)
    by_offset = dense.flatten(2).permute(2, 1, 0)
    return Window(reads, before @ by_offset @ after)


# Sums over positions


def _with_mean(state: State, wanted: Value, layout: Layout) -> Found | None:
    """y_t = x_t A + mean(x) A₀ + b."""
    count, width = state.count, state.width
    if layout.count != count:
        return None
    rows = _rows_of(state, wanted, layout)
    at_zero = rows(torch.zeros(1, count, width, dtype=torch.float64))
    eye = torch.eye(width, dtype=torch.float64)
    everywhere, once = [], []
    for chunk in eye.split(max(1, AT_ONCE // max(1, count * max(width, at_zero.shape[2])))):
        x = chunk.unsqueeze(1).expand(-1, count, -1).contiguous()
        everywhere.append((rows(x) - at_zero)[:, 0])
        x = torch.zeros_like(x)
        x[:, 0] = chunk
        once.append((rows(x) - at_zero)[:, 0])
    bias = at_zero[0, 0]
    both, first = torch.cat(everywhere), torch.cat(once)
    # A + A₀ at every position, A + A₀/s at the one that is not zero.
    if count == 1:
        return None
    mean = (both - first) * count / (count - 1)
    own = both - mean
    x = _random(2, count, width)
    if not _close(x @ own + x.mean(1, keepdim=True) @ mean + bias, rows(x)):
        return None
    matrix = torch.cat([own, bias.unsqueeze(0)])
    mean = torch.cat([mean, torch.zeros_like(mean[:1])])
    reads = torch.arange(count).unsqueeze(1)
    empty = torch.zeros(0, own.shape[1], dtype=torch.float64)
    return Found(Affine(reads, matrix.unsqueeze(0), mean=mean), empty)


def _pooled(state: State, wanted: Value, layout: Layout) -> Found | None:
    """y_t = Σ_s P_ts x_s A + b, the rows of P adding up to one."""
    count, width = state.count, state.width
    rows = _rows_of(state, wanted, layout)
    at_zero = rows(torch.zeros(1, count, width, dtype=torch.float64))
    direction = _random(width)
    everywhere = rows(direction.expand(1, count, width).contiguous()) - at_zero
    if not bool((everywhere - everywhere[:, :1]).abs().max() <= 1e-9 * everywhere.abs().max()):
        return None
    strongest = int(everywhere[0, 0].abs().argmax())
    response = everywhere[0, 0, strongest]
    if not float(response.abs()) > 0:
        return None
    columns = []
    per_sample = max(count * width, layout.count * at_zero.shape[2])
    for chunk in torch.arange(count).split(max(1, AT_ONCE // per_sample)):
        x = torch.zeros(len(chunk), count, width, dtype=torch.float64)
        x[torch.arange(len(chunk)), chunk] = direction
        columns.append((rows(x) - at_zero)[..., strongest] / response)
    pool = torch.cat(columns).T
    pool = torch.where(pool.abs() < 1e-13, 0.0, pool)
    eye = torch.eye(width, dtype=torch.float64)
    parts = []
    for chunk in eye.split(max(1, AT_ONCE // per_sample)):
        parts.append((rows(chunk.unsqueeze(1).expand(-1, count, -1).contiguous()) - at_zero)[:, 0])
    matrix, bias = torch.cat(parts), at_zero[0, 0]
    if not _close(at_zero, bias.expand_as(at_zero)):
        return None
    x = _random(2, count, width)
    if not _close(pool @ x @ matrix + bias, rows(x)):
        return None
    matrix = torch.cat([matrix, bias.unsqueeze(0)])
    empty = torch.zeros(0, matrix.shape[1], dtype=torch.float64)
    reads = torch.zeros(layout.count, 0, dtype=torch.long)
    return Found(Affine(reads, matrix.unsqueeze(0), pool), empty)


def _dense(state: State, wanted: Value, layout: Layout) -> Found | None:
    """One output position that reads each input position by a matrix of its own."""
    count, width = state.count, state.width
    if layout.count != 1 or count * width * layout.width > MOST_DENSE:
        return None
    program = Program(state.values, [wanted])

    def rows(x: Tensor) -> Tensor:
        (y,) = program(*state.to_tensors(x))
        return layout.to_rows(y)

    zeros = torch.zeros(1, count, width, dtype=torch.float64)
    with torch.enable_grad():
        at_zero, pull = vjp(rows, zeros)
    units = torch.eye(layout.width, dtype=torch.float64)[:, None, None]
    per_unit = count * width * max(1, math.prod(at_zero.shape))
    size = max(1, AT_ONCE // per_unit)
    slopes = torch.cat([vmap(lambda unit: pull(unit)[0])(part) for part in units.split(size)])
    matrices = slopes[:, 0].permute(1, 2, 0).detach()
    bias = at_zero[0, 0].detach()
    x = _random(2, count, width)
    if not _close(torch.einsum("nsd,sdc->nc", x, matrices) + bias, rows(x)[:, 0].detach()):
        return None
    matrices = torch.cat([matrices, torch.zeros_like(matrices[:, :1])], dim=1)
    matrices[0, -1] = bias
    empty = torch.zeros(0, layout.width, dtype=torch.float64)
    return Found(Affine(torch.arange(count).unsqueeze(0), matrices), empty)
