"""Interactions where one end is a dictionary: only pairs that are active together are computed.

R_ts,ji = g_j(t) z_i(s) (D_i J̄_ts C_j), with J̄ the Jacobian averaged along the path and g_j(t)
whether latent j is active at t; the error of the layer before adds g_j(t) ε(s) J̄_ts C_j. What all
of them add up to is compared with how pre-activations change along the path (docs/math.md §10).

A positionwise section takes the active latents of each position through its Jacobian, one that
mixes positions those that are active anywhere in a few samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libgraph.network.basis import Basis
from libgraph.network.dictionary import Dictionary
from libgraph.sections.chunks import chunk_length, chunks
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import Section


class PairSums(NamedTuple):
    """What is added up over positions of the layer after.

    Args:
        edges: Σ_t (Σ_s R_ts,ji)² as `[j, i]`, in float64.
        missed: Σ (Σ_i R_ji − change of j)², over active j, and
        change: Σ (change of j)²: how complete the interactions are.
    """

    edges: Float[Tensor, "out in"]
    missed: Float[Tensor, ""]
    change: Float[Tensor, ""]


class _Chosen(NamedTuple):
    """Features that are active at each position, by falling activation, those that are not last."""

    places: Int[Tensor, "n *t a"]
    values: Float[Tensor, "n *t a"]


@dataclass(frozen=True)
class LatentPairs:
    """Two neighbouring node layers, at least one of which has latents.

    Args:
        section: between them, in neither's features.
        source: of the layer before.
        target: of the layer after.
        quadrature: of the path from zero.
    """

    section: Section
    source: Basis
    target: Basis
    quadrature: Quadrature

    @cached_property
    def through(self) -> Section:
        """The section, to what features after it read."""
        return self.target.read_after(self.section)

    def sums(self, x: Float[Tensor, "n s d_in"], y: Float[Tensor, "n t d_out"]) -> PairSums:
        """Of a batch, from its activations before and after the section."""
        found = _Sums(self, x)
        if self._without_latents:
            self._add_all(found, x, y)
        elif self.through.positionwise:
            x, y = (rows.reshape(-1, 1, rows.shape[-1]) for rows in (x, y))
            rows = self._most_rows(x) + self._most_columns(y)
            for samples in chunks(len(x), rows * max(x.shape[-1], y.shape[-1]), x):
                self._add_at_positions(found, x[samples], y[samples])
        else:
            width = self.through.elements_per_effect(x.shape[1])
            for samples in chunks(len(x), width * self._most_rows(x), x):
                self._add_across_positions(found, x[samples], y[samples])
        return PairSums(found.edges, found.missed, found.change)

    # Features on either side

    @property
    def _without_latents(self) -> bool:
        """Whether there are errors alone beside linear features."""
        return all(basis.always == len(basis) for basis in (self.source, self.target))

    def _add_all(
        self, found: _Sums, x: Float[Tensor, "n s d_in"], y: Float[Tensor, "n t d_out"]
    ) -> None:
        """Linear features as everywhere; the error is one tangent, and all together are x."""
        source, reader = self.source, self.target.reader
        section = self.through.rebase(encoder=reader)
        f = _latents(source, x)
        found.edges += section.interactions(x, f, source.decoder, self.quadrature).double()
        linear = self.through.linearize_along(x, self.quadrature)
        if isinstance(source, Dictionary):
            error = linear(source.left(x, f).unsqueeze(1)).squeeze(1) @ reader
            found.edges[:, source.error_place] += error.double().square().sum((0, 1))
        total = linear(x.unsqueeze(1)).squeeze(1)
        self._compare(found, _columns(self.target, y), total @ reader, None, x, y)

    def _most_rows(self, x: Tensor) -> int:
        return self.source.always + (_most_active(self.source, x) + 1)

    def _most_columns(self, y: Tensor) -> int:
        return self.target.always + _most_active(self.target, y)

    def _add_at_positions(
        self, found: _Sums, x: Float[Tensor, "n 1 d_in"], y: Float[Tensor, "n 1 d_out"]
    ) -> None:
        """Every position takes its own active latents."""
        source = self.source
        f = _latents(source, x)[:, 0]
        first = source.always
        active = _chosen(f[:, first:])
        fixed = torch.arange(first, device=x.device).expand(len(f), -1)
        places = torch.cat([fixed, active.places + first], dim=1)
        values = torch.cat([f[:, :first], active.values], dim=1)
        tangents = values.unsqueeze(-1) * source.decoder[places]
        if isinstance(source, Dictionary):
            # The error stands in its own place, where features have a zero.
            tangents[:, source.error_place] = source.left(x[:, 0], f)
        linear = self.through.linearize_along(x, self.quadrature)
        moved = linear(tangents.unsqueeze(2)).squeeze(2)
        columns = _columns(self.target, y[:, 0])
        fixed_effects = moved @ self.target.reader[:, : columns.first]
        by_row = found.edges.new_zeros(len(source), columns.first)
        by_row.index_add_(0, places.flatten(), fixed_effects.double().square().flatten(0, 1))
        found.edges[: columns.first] += by_row.T
        effects = moved @ self.target.reader.T[columns.places].mT * columns.open.unsqueeze(1)
        ends = columns.places.unsqueeze(1) * len(source) + places.unsqueeze(2)
        found.edges.view(-1).index_add_(0, ends.flatten(), effects.double().square().flatten())
        self._compare(found, columns, fixed_effects.sum(1), effects.sum(1), x, y[:, 0])

    def _add_across_positions(
        self, found: _Sums, x: Float[Tensor, "n s d_in"], y: Float[Tensor, "n t d_out"]
    ) -> None:
        """All samples of the chunk take the latents that are active in any of them."""
        source, target = self.source, self.target
        f = _latents(source, x)
        rows = f.flatten(0, 1).any(0).nonzero()[:, 0]
        columns = _columns(target, y)
        chosen = columns.places.flatten(0, 1).flatten()
        readers = target.reader.T[columns.places].mT
        totals = y.new_zeros(*y.shape[:2], columns.first), torch.zeros_like(columns.open).to(y)

        def add(moved: Float[Tensor, "n k t d_out"], into: Tensor) -> None:
            fixed_effects = moved @ target.reader[:, : columns.first]
            found.edges[: columns.first, into] += fixed_effects.double().square().sum((0, 2)).T
            effects = (moved.transpose(1, 2) @ readers) * columns.open.unsqueeze(2)
            by_column = found.edges.new_zeros(len(target), len(into))
            by_column.index_add_(0, chosen, effects.double().square().transpose(2, 3).flatten(0, 2))
            found.edges[:, into] += by_column
            totals[0].add_(fixed_effects.sum(1))
            totals[1].add_(effects.sum(2))

        effects_of = self.through.effects(x, self.quadrature)
        seen = self.through.seen(source.decoder[rows])
        # Beside the effects there are those on the active latents after, twice.
        elements = len(x) * (
            self.through.elements_per_effect(x.shape[1]) + 3 * columns.open[0].numel()
        )
        for part in chunks(len(rows), elements, x):
            add(effects_of(f[..., rows[part]], tuple(factor[part] for factor in seen)), rows[part])
        if isinstance(source, Dictionary):
            error = source.left(x, f).unsqueeze(1)
            linear = self.through.linearize_along(x, self.quadrature)
            add(linear(error), torch.tensor([source.error_place], device=x.device))
        self._compare(found, columns, *totals, x, y)

    def _compare(
        self,
        found: _Sums,
        columns: _Columns,
        fixed: Float[Tensor, "*n a"],
        gated: Float[Tensor, "*n b"] | None,
        x: Float[Tensor, "n s d_in"],
        y: Float[Tensor, "*n d_out"],
    ) -> None:
        """What interactions add up to, and what pre-activations changed from the path's start."""
        start = self.through(torch.zeros_like(x[:1]))
        read = self.target.read(y)
        change = read - start.reshape(-1, *read.shape[1:])
        reader = self.target.reader
        of_fixed = change @ reader[:, : columns.first]
        pairs = [(fixed, of_fixed)]
        if gated is not None:
            pairs.append((gated, self._of_gated(change, columns)))
        for total, actual in pairs:
            found.missed += (total - actual).double().square().sum()
            found.change += actual.double().square().sum()

    def _of_gated(
        self, change: Float[Tensor, "*n d_out"], columns: _Columns
    ) -> Float[Tensor, "*n b"]:
        """Of the latents that are active."""
        reader = self.target.reader
        return (change.unsqueeze(-2) @ reader.T[columns.places].mT).squeeze(-2) * columns.open


class _Sums:
    """`PairSums` that grow."""

    def __init__(self, pairs: LatentPairs, like: Tensor) -> None:
        self.edges = like.new_zeros(len(pairs.target), len(pairs.source), dtype=torch.float64)
        self.missed = like.new_zeros((), dtype=torch.float64)
        self.change = like.new_zeros((), dtype=torch.float64)


class _Columns(NamedTuple):
    """Features after the section: the first ones always, of the others those that are active."""

    first: int
    places: Int[Tensor, "*n b"]
    open: Bool[Tensor, "*n b"]


def _columns(target: Basis, y: Float[Tensor, "*n d_out"]) -> _Columns:
    first = target.always
    active = _chosen(_latents(target, y)[..., first:])
    return _Columns(first, active.places + first, active.values > 0)


def _latents(basis: Basis, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
    """Features, without the lengths of errors."""
    return basis.latents(x) if isinstance(basis, Dictionary) else basis.features(x)


def _chosen(z: Float[Tensor, "*n k"]) -> _Chosen:
    """The latents that are active anywhere, as many as are so at one position at most."""
    if not z.shape[-1]:
        return _Chosen(torch.zeros_like(z, dtype=torch.int64), z)
    most = int((z > 0).sum(-1).max()) if len(z) else 0
    values, places = z.topk(most, dim=-1)
    return _Chosen(places, values)


def _most_active(basis: Basis, x: Float[Tensor, "n s d"]) -> int:
    """How many latents are active at a position of the first samples at most; a guess for more."""
    if basis.always == len(basis):
        return 0
    few = x[: chunk_length(x.shape[1] * len(basis), x)]
    return int((_latents(basis, few)[..., basis.always :] > 0).sum(-1).max())
