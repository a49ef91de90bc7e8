"""Which dimensions of a value are samples, positions and coordinates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from libgraph.cutting.kinds import CONVOLUTIONS, name_of
from libgraph.cutting.values import Value, users_of


@dataclass(frozen=True)
class Layout:
    """How a value `(…)` and its rows `(n, s, c)` are made of each other.

    Args:
        sizes: of its dimensions, with what is folded into that of samples split off behind it.
        batch: the dimension of samples.
        positions: dimensions that are positions, in order.
        coordinates: dimensions that are coordinates, in order.
    """

    sizes: tuple[int, ...]
    batch: int
    positions: tuple[int, ...]
    coordinates: tuple[int, ...]
    folded: bool = False

    @property
    def count(self) -> int:
        """Positions."""
        return math.prod(self.sizes[d] for d in self.positions)

    @property
    def width(self) -> int:
        """Coordinates."""
        return math.prod(self.sizes[d] for d in self.coordinates)

    def to_rows(self, x: Tensor) -> Tensor:
        """`(…)` to `(n, s, c)`."""
        sizes = list(self.sizes)
        sizes[self.batch] = -1
        split = x.reshape(sizes)
        n = split.shape[self.batch]
        order = (self.batch, *self.positions, *self.coordinates)
        return split.permute(order).reshape(n, self.count, self.width)

    def to_value(self, rows: Tensor) -> Tensor:
        """`(n, s, c)` to `(…)`."""
        order = (self.batch, *self.positions, *self.coordinates)
        sizes = [len(rows), *(self.sizes[d] for d in order[1:])]
        inverse = [order.index(d) for d in range(len(order))]
        x = rows.reshape(sizes).permute(inverse)
        if self.folded:
            x = x.flatten(self.batch, self.batch + 1)
        return x


def split_sizes(value: Value) -> tuple[tuple[int, ...], int, bool] | None:
    """Sizes with samples split off, where samples are, and whether something was folded in."""
    batch = value.batch
    if batch is None or value.shape is None:
        return None
    times = value.shape[batch].times
    sizes = [size.plus for size in value.shape]
    sizes[batch] = 0
    if times > 1:
        sizes.insert(batch + 1, times)
    return tuple(sizes), batch, times > 1


def layout_with(value: Value, coordinates: Iterable[int]) -> Layout | None:
    """The layout with these dimensions, of the value or split off, as coordinates."""
    split = split_sizes(value)
    if split is None:
        return None
    sizes, batch, folded = split
    chosen = tuple(coordinates)
    rest = tuple(d for d in range(len(sizes)) if d != batch and d not in chosen)
    return Layout(sizes, batch, rest, chosen, folded)


class Layouts:
    """Finds the layout of each value: what reads or writes it says where its channels are.

    Args:
        values: of a graph, in order.
        positions: dimensions that are positions, for values by name; in place of what is found.
    """

    def __init__(
        self, values: Sequence[Value], positions: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.named = dict(positions or {})
        self.channel: dict[Value, int] = {}
        users = users_of(values)
        self.heads = _of_heads(values, users)
        for _ in range(3):
            for value in values:
                self._from_sources(value)
            for value in reversed(values):
                self._from_users(value, users[value])

    def of(self, value: Value) -> Layout | None:
        """The layout of a value; None where samples are in no one dimension."""
        split = split_sizes(value)
        if split is None:
            return None
        sizes, batch, _ = split
        names = {value.name, *value.outputs_of}
        for name in names & self.named.keys():
            rank = len(value.shape or ())
            dims = {d % rank for d in self.named[name]}
            return layout_with(value, [d for d in range(rank) if d != batch and d not in dims])
        others = [d for d in range(len(sizes)) if d != batch]
        if not others:
            return layout_with(value, [])
        if name_of(value) in ("mean_square", "every_channel"):
            source = self.of(value.args[0])
            if source is not None and len(source.sizes) == len(sizes):
                return layout_with(value, source.coordinates)
        if value in self.heads and (layout := heads_layout(value)) is not None:
            return layout
        channel = self.channel.get(value)
        if channel is None or channel == batch:
            channel = others[0] if len(others) > 2 and batch == 0 else others[-1]
        else:
            channel += len(sizes) - len(value.shape or ()) if channel > batch else 0
        folded = [batch + 1] if len(sizes) > len(value.shape or ()) else []
        return layout_with(value, [*(d for d in folded if d != channel), channel])

    def _from_sources(self, value: Value) -> None:
        name, shape = name_of(value), value.shape
        if value in self.channel or not shape:
            return
        rank = len(shape)
        if (
            name in CONVOLUTIONS
            or name.startswith(("avg_pool", "adaptive_avg", "max_pool", "adaptive_max"))
            or name in ("group_centre", "group_square", "every_channel", "upsample_nearest2d")
        ):
            self.channel[value] = 1
        elif name in ("linear", "embedding", "attend") or name in (
            "centre",
            "mean_square",
            "divide",
        ):
            self.channel[value] = rank - 1
        else:
            for source in value.sources:
                if source.shape == shape and source in self.channel:
                    self.channel[value] = self.channel[source]
                    return

    def _from_users(self, value: Value, users: Sequence[Value]) -> None:
        if value in self.channel or not value.shape:
            return
        rank = len(value.shape)
        for user in users:
            name = name_of(user)
            if name in CONVOLUTIONS or name in ("group_centre", "group_square"):
                self.channel[value] = 1
            elif (name == "linear" and user.args[0] is value) or name in ("centre", "mean_square"):
                self.channel[value] = rank - 1
            elif user.shape == value.shape and user in self.channel:
                self.channel[value] = self.channel[user]
            else:
                continue
            return


def heads_layout(value: Value) -> Layout | None:
    """Positions in the last dimension but one, heads side by side."""
    split = split_sizes(value)
    if split is None:
        return None
    sizes, batch, _ = split
    at = len(sizes) - 2
    if batch >= at:
        return None
    return layout_with(value, [d for d in range(len(sizes)) if d not in (batch, at)])


def _of_heads(values: Sequence[Value], users: Mapping[Value, list[Value]]) -> set[Value]:
    """Queries, keys and values of attention, and what they are made of number by number."""
    found: set[Value] = set()
    for value in reversed(values):
        if name_of(value) == "attend":
            found |= {value, *(part for part in value.args[:3] if isinstance(part, Value))}
        if value in found:
            found |= {s for s in value.sources if s.shape == value.shape}
    return found


def all_layouts(value: Value, first: Layout | None = None) -> list[Layout]:
    """Layouts of a value, by which of its dimensions are positions."""
    split = split_sizes(value)
    if split is None:
        return []
    sizes, batch, _ = split
    others = [d for d in range(len(sizes)) if d != batch]
    found = [] if first is None else [first]
    for number in range(2 ** len(others)):
        chosen = [d for i, d in enumerate(others) if number >> i & 1]
        layout = layout_with(value, chosen)
        if chosen and layout is not None and layout not in found:
            found.append(layout)
    return found


class State:
    """Values side by side, with the constant: what a node layer holds.

    Args:
        values: with one layout each, of equally many positions.
        layouts: of the values.
    """

    def __init__(self, values: Sequence[Value], layouts: Sequence[Layout]) -> None:
        self.values = tuple(values)
        self.layouts = tuple(layouts)

    @property
    def width(self) -> int:
        """Coordinates, the constant left out."""
        return sum(layout.width for layout in self.layouts)

    @property
    def count(self) -> int:
        """Positions."""
        return self.layouts[0].count

    def to_rows(self, tensors: Sequence[Tensor], constant: bool = True) -> Tensor:
        """Tensors to `(n, s, width + 1)`."""
        rows = [layout.to_rows(x) for layout, x in zip(self.layouts, tensors, strict=True)]
        if constant:
            rows.append(rows[0].new_ones(*rows[0].shape[:2], 1))
        return torch.cat(rows, dim=-1)

    def to_tensors(self, rows: Tensor) -> list[Tensor]:
        """`(n, s, width)` or one more to tensors."""
        parts = rows[..., : self.width].split([layout.width for layout in self.layouts], dim=-1)
        return [layout.to_value(part) for layout, part in zip(self.layouts, parts, strict=True)]


def state_of(values: Sequence[Value], layouts: Layouts, count: int | None = None) -> State | None:
    """Values as one node layer, if they are real and have equally many positions.

    Args:
        values: side by side.
        layouts: of each of them alone.
        count: of positions that there may be, where they do not agree by themselves.
    """
    found = [None if value.complex else layouts.of(value) for value in values]
    known = [layout for layout in found if layout is not None]
    if len(known) < len(found):
        return None
    if len({layout.count for layout in known}) == 1:
        return State(values, known)
    if count is None:
        return None
    fitting = []
    for value, layout in zip(values, known, strict=True):
        last = layout.coordinates[-1:]
        others = [
            o for o in all_layouts(value) if o.count == count and set(last) <= {*o.coordinates}
        ]
        if layout.count != count and not others:
            return None
        fitting.append(layout if layout.count == count else others[0])
    return State(values, fitting)
