"""Sections for one step from a node layer to the next, and whether they compute the same.

A section with a closed form is tried where the maps that it needs are found; what it gives is then
compared with the module's own values, at its activations and away from them. Any other step is a
`Function`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from libgraph.cutting.assembly import Assembly, as_windows, needs
from libgraph.cutting.layouts import (
    Layout,
    State,
    all_layouts,
    heads_layout,
    layout_with,
    split_sizes,
)
from libgraph.cutting.maps import Affine, find_map, is_own
from libgraph.cutting.rotary import unturned
from libgraph.cutting.running import InverseRoot, Pointwise
from libgraph.cutting.sight import sight_of
from libgraph.cutting.stages import Atom
from libgraph.cutting.values import Program, Size, Value
from libgraph.sections import (
    Attention,
    Convolution,
    Division,
    GatedMLP,
    GroupSquare,
    Linear,
    Pooling,
    Section,
    SkipMLP,
    Variance,
)


class Builder(Assembly):
    """Makes the section of one step, with the arguments of an `Assembly`."""

    def section(self, target: State, constant: bool) -> Section | None:
        """A section with a closed form to a node layer, if one is found."""
        taken = {atom.value for atom in self.atoms}
        ahead = any(atom.value not in self.source.values for atom in self.atoms)
        try:
            Program(self.source.values, target.values)
            reached = not ahead or not needs(self.source, target.values, taken)
        except ValueError:
            return None
        atoms = () if reached else self.atoms
        makers: dict[str, Callable[..., Section | None]] = {
            "": self._affine,
            "pointwise": self._pointwise,
            "gated": self._gated,
            "square": self._square,
            "divide": self._divide,
            "attend": self._attend,
            "group": self._group,
        }
        kind = atoms[0].kind if atoms else ""
        if kind not in makers:
            return None
        try:
            return makers[kind](target, constant)
        except (ValueError, RuntimeError, IndexError, TypeError):
            # What fits no closed form is a function.
            return None

    # Affine

    def _affine(self, target: State, constant: bool) -> Section | None:
        maps = self.to_target(target, constant, None)
        if maps is None:
            return None
        parts = [found.of_state for found in maps]
        pool = parts[0].pool
        alike = (
            all(part.pool is not None and torch.equal(part.pool, pool) for part in parts)
            if (pool is not None)
            else False
        )
        parts = parts if alike else [as_windows(part) for part in parts]
        if alike and pool is not None:
            if not torch.allclose(pool.sum(1), torch.ones(len(pool), dtype=torch.float64)):
                return None
            matrix = torch.cat([part.matrix for part in parts], -1)
            return Pooling(pool, self.constant(matrix, constant))
        if any(part.pool is not None or part.mean is not None for part in parts):
            return None
        joined = self.side_by_side(parts)
        if joined is None:
            return None
        reads, matrices = joined
        if is_own(reads) and target.count == self.source.count:
            return Linear(self.constant(matrices[0], constant))
        matrices = self.with_constant(reads, matrices, constant)
        if matrices is None:
            return None
        inner = matrices.new_zeros(*matrices.shape[:2], 0)
        outer = matrices.new_zeros(0, matrices.shape[2])
        return Convolution(matrices, inner, outer, reads)

    # Functions of each number, and products

    def _pointwise(self, target: State, constant: bool) -> Section | None:
        layouts = [self.target_layout(atom.value, target) for atom in self.atoms]
        roots = [
            layout and _same(atom.inputs[0], layout)
            for atom, layout in zip(self.atoms, layouts, strict=True)
        ]
        if any(layout is None for layout in (*layouts, *roots)):
            return None
        beside = State([atom.value for atom in self.atoms], layouts)  # type: ignore[arg-type]
        maps = self.to_target(target, constant, beside)
        if maps is None:
            return None
        inputs = [
            find_map(self.source, atom.inputs[0], layout)  # type: ignore[arg-type]
            for atom, layout in zip(self.atoms, roots, strict=True)
        ]
        if any(found is None for found in inputs):
            return None
        skips = [as_windows(found.of_state) for found in maps]
        read = [as_windows(found.of_state) for found in inputs if found is not None]
        if any(part.pool is not None or part.mean is not None for part in (*skips, *read)):
            return None
        outer = torch.cat([found.of_beside for found in maps], -1)
        outer = pad(outer, (0, 1)) if constant else outer
        atom = self.atoms[0]
        assert atom.function is not None  # noqa: S101
        activation = Pointwise(atom.function, _called(atom))
        joined = self.side_by_side([*skips, *read])
        if joined is None:
            return None
        reads, matrices = joined
        width = sum(part.matrices.shape[2] for part in skips)
        skip, inner = matrices[..., :width], matrices[..., width:]
        if is_own(reads) and target.count == self.source.count:
            return SkipMLP(self.constant(skip[0], constant), inner[0], outer, activation)
        placed = self.with_constant(reads, skip, constant)
        if placed is None:
            return None
        return Convolution(placed, inner.contiguous(), outer, reads, activation)

    def _gated(self, target: State, constant: bool) -> Section | None:
        inner, gate, places = [], [], []
        for atom in self.atoms:
            layout = self.target_layout(atom.value, target)
            if layout is None:
                return None
            a, b = (self.alike(value, _same(value, layout)) for value in atom.inputs)
            if a is None or b is None:
                return None
            inner.append(a)
            gate.append(b)
            places.append(layout)
        ends = self.ends(target, constant, State([a.value for a in self.atoms], places))
        if ends is None:
            return None
        atom = self.atoms[0]
        activation: nn.Module = nn.Identity()
        if atom.function is not None:
            activation = Pointwise(atom.function, _called(atom))
        skip, outer = ends
        return GatedMLP(skip, torch.cat(inner, -1), torch.cat(gate, -1), outer, activation)

    # Norms

    def _square(self, target: State, constant: bool) -> Section | None:
        (atom,) = self.atoms
        (u,) = atom.inputs
        dims = {d % len(u.shape or ()) for d in atom.value.args[1]}
        for layout in all_layouts(u, first=self.layouts.of(u)):
            if layout.count != self.source.count or not dims <= set(_unfolded(layout, u)):
                continue
            stream = self.alike(u, layout)
            small = layout_with(atom.value, layout.coordinates)
            if stream is None or small is None:
                continue
            # Which coordinates are averaged together.
            numbers = torch.arange(small.width, dtype=torch.float64).reshape(1, 1, -1)
            spread = small.to_value(numbers.expand(1, small.count, -1)).expand(
                *(size.of(1) for size in u.shape or ())
            )
            owner = layout.to_rows(spread)[0, 0].long()
            if small.width > 1 and atom.value in target.values:
                held = target.layouts[target.values.index(atom.value)]
                small = held if held.count == small.count else small
            ends = self.ends(target, constant, State([atom.value], [small]))
            if ends is None:
                return None
            skip, outer = ends
            if small.width == 1:
                return Variance(skip, stream, outer)
            share = torch.zeros(layout.width, small.width, dtype=torch.float64)
            share[torch.arange(layout.width), owner] = small.width / layout.width
            return SkipMLP(skip, stream, share @ outer, torch.square)
        return None

    def _divide(self, target: State, constant: bool) -> Section | None:
        (atom,) = self.atoms
        u, v = atom.inputs
        for layout in all_layouts(u, first=self.target_layout(atom.value, target)):
            small = layout_with(v, layout.coordinates)
            if small is None or small.count != self.source.count:
                continue
            stream, variance = self.alike(u, layout), self.alike(v, small)
            if stream is None or variance is None:
                continue
            held = layout_with(atom.value, layout.coordinates)
            if held is None:
                continue
            ends = self.ends(target, constant, State([atom.value], [held]))
            if ends is None:
                return None
            skip, outer = ends
            if small.width == 1:
                return Division(skip, variance, stream, outer, atom.epsilon)
            wide = _expanded(v, u)
            inner = self.alike(wide, layout)
            if inner is None:
                return None
            return GatedMLP(skip, inner, stream, outer, InverseRoot(atom.epsilon))
        return None

    def _group(self, target: State, constant: bool) -> Section | None:
        (atom,) = self.atoms
        (u,) = atom.inputs
        groups = int(atom.value.args[1])
        layout, small = layout_with(u, [1]), layout_with(atom.value, [1])
        if layout is None or small is None or layout.count != self.source.count:
            return None
        found = find_map(self.source, u, layout, mean=True)
        if found is None or found.of_state.pool is not None:
            return None
        skips, means, outers = [], [], []
        for value, held in zip(target.values, target.layouts, strict=True):
            if value is atom.value:
                share = torch.zeros(layout.width, small.width, dtype=torch.float64)
                owner = torch.arange(layout.width) // (layout.width // groups)
                share[torch.arange(layout.width), owner] = groups / layout.width
                skips.append(torch.zeros(self.source.width + 1, small.width, dtype=torch.float64))
                means.append(skips[-1])
                outers.append(share)
                continue
            part = find_map(self.source, value, held, mean=True)
            if part is None or part.of_state.pool is not None or not is_own(part.of_state.reads):
                return None
            skips.append(part.of_state.matrix)
            means.append(_mean_of(part.of_state))
            outers.append(torch.zeros(layout.width, held.width, dtype=torch.float64))
        skip, mean = torch.cat(skips, -1), torch.cat(means, -1)
        outer = torch.cat(outers, -1)
        return GroupSquare(
            self.constant(skip, constant),
            pad(mean, (0, 1)) if constant else mean,
            found.of_state.matrix,
            _mean_of(found.of_state),
            pad(outer, (0, 1)) if constant else outer,
        )

    # Attention

    def _attend(self, target: State, constant: bool) -> Section | None:
        (atom,) = self.atoms
        q, k, v = atom.inputs
        _, _, _, mask, causal, scale = atom.value.args
        layout = heads_layout(atom.value)
        parts = [heads_layout(value) for value in (q, k, v)]
        if layout is None or any(part is None or part.count != self.source.count for part in parts):
            return None
        heads = layout.width // layout.sizes[-1]
        sight = sight_of(mask, bool(causal), self.source.count)
        if sight is None or layout.sizes[-1] != parts[0].sizes[-1]:  # type: ignore[union-attr]
            return None
        value = self.alike(v, parts[2])
        query, key = self.alike(q, parts[0]), self.alike(k, parts[1])
        rotary: Tensor | None = None
        if query is None or key is None:
            turned = unturned(self.source, (q, k), parts[:2])  # type: ignore[arg-type]
            if turned is None:
                return None
            (query, key), rotary = turned
        ends = self.ends(target, constant, State([atom.value], [layout]))
        if ends is None or value is None:
            return None
        skip, outer = ends
        width = parts[0].sizes[-1]  # type: ignore[union-attr]
        query = query * (scale * width**0.5)
        return Attention(skip, query, key, value, outer, heads=heads, mask=sight, rotary=rotary)


def _called(atom: Atom) -> str:
    """What an activation is called."""
    assert atom.function is not None  # noqa: S101
    name = atom.value.name.rpartition(".")[2] if atom.kind == "pointwise" else "gate"
    return f"{name.rstrip('_0123456789') or name}"


def _mean_of(part: Affine) -> Tensor:
    return torch.zeros_like(part.matrix) if part.mean is None else part.mean


def _same(value: Value, layout: Layout) -> Layout | None:
    """The layout of a value of the same shape."""
    split = split_sizes(value)
    if split is None or split[0] != layout.sizes or split[1] != layout.batch:
        return None
    return layout


def _unfolded(layout: Layout, value: Value) -> list[int]:
    """Coordinates as dimensions of the value itself."""
    shift = len(layout.sizes) - len(value.shape or ())
    return [d if d <= layout.batch else d - shift for d in layout.coordinates]


def _expanded(small: Value, like: Value) -> Value:
    shape = like.shape or ()
    sizes = [Size(s.times, s.plus) if s.times else s.plus for s in shape]
    expand = torch.ops.aten.expand.default
    return Value("expanded", expand, (small, sizes), shape=shape, depends=True)
