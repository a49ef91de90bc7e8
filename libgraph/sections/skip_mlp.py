"""The skip + pointwise non-linearity section y = x S + φ(x A) B: an MLP block and its residual.

The Jacobian S + A diag(φ'(xA)) B depends on the data only through the slopes φ', so the Jacobian
Gram needs their first two moments and the interactions one batched product per sample. The
pre-activation is linear in x, so integrated gradients only average slopes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import jvp

from libgraph.sections.carrying import Carrier
from libgraph.sections.chunks import chunk_length, chunks
from libgraph.sections.closed_form import SignedForm
from libgraph.sections.kept_inputs import KeptInputs, growing_products
from libgraph.sections.mask_tree import MaskTree, pays
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import Effects, LinearMap, Section, Seen
from libgraph.sections.unchanging import unchanging


class SkipMLP(SignedForm):
    """y = x S + φ(x A) B at every position.

    Args:
        skip: S `(d_in, d_out)`; its last row holds the output bias.
        inner: A `(d_in, d_hidden)`; its last row holds the hidden bias.
        outer: B `(d_hidden, d_out)`.
        activation: φ, applied to each hidden unit by itself; one that works in place gets copies.
    """

    positionwise = True
    readers: tuple[str, ...] = ("inner",)
    writers = ("outer",)
    skip: Tensor
    inner: Tensor
    outer: Tensor

    def __init__(
        self,
        skip: Float[Tensor, "d_in d_out"],
        inner: Float[Tensor, "d_in d_hidden"],
        outer: Float[Tensor, "d_hidden d_out"],
        activation: Callable[[Tensor], Tensor] = torch.relu,
    ) -> None:
        super().__init__(*skip.shape)
        self.register_buffer("skip", skip)
        self.carry = Carrier()
        self.register_buffer("inner", inner)
        self.register_buffer("outer", outer)
        self.activation = unchanging(activation)

    def extra_repr(self) -> str:
        """The activation."""
        return getattr(self.activation, "__name__", repr(self.activation))

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n s d_out"]:
        """x S + φ(x A) B."""
        return self._written(x, self.activation(self.product(x, "inner")))

    def transform(self, left: LinearMap, right: LinearMap) -> SkipMLP:
        """The same with S, A and B changed at their outer ends."""
        return SkipMLP(right(left(self.skip)), left(self.inner), right(self.outer), self.activation)

    def jacobian_gram(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "d_in d_in"]:
        """N SSᵀ + K + Kᵀ + A ((B Bᵀ) ∘ Σ dᵀd) Aᵀ with K = A diag(Σ d) B Sᵀ (docs/math.md §5)."""
        inner, outer, skip = (factor.double() for factor in (self._in, self._out, self.skip))
        units = len(outer)
        first, second = inner.new_zeros(units), inner.new_zeros(units, units)
        x = x.flatten(0, -2)
        # Adding a moment up costs as much as a row for each unit: chunks have at least so many.
        for rows in x.split(max(units, chunk_length(units, x))):
            slopes = self._slopes(rows, Quadrature.gradient())
            first += slopes.sum(0, dtype=torch.float64)
            for some in chunks(units, units, second):
                second[some] += slopes[:, some].T @ slopes
        cross = (inner * first) @ (outer @ skip.T)
        # Of all units by all units there is one matrix: in large models nothing is larger.
        for some in chunks(units, units, second):
            second[some] *= outer[some] @ outer.T
        hidden = inner @ second @ inner.T
        return len(x) * skip @ skip.T + cross + cross.T + hidden

    def seen(self, decoder: Float[Tensor, "k d_in"]) -> Seen:
        """decoder S and decoder A."""
        return decoder @ self.skip, decoder @ self._in

    def effects(self, x: Float[Tensor, "n s d_in"], quadrature: Quadrature) -> Effects:
        """f_j ((decoder S)_ji + Σ_a (decoder A)_ja d_a B_ai) (docs/math.md §5)."""
        slopes = self._slopes(x, quadrature).unflatten(0, x.shape[:2]).unsqueeze(1)

        def effects(features: Tensor, seen: Seen) -> Tensor:
            skip, inner = (factor[None, :, None] for factor in seen)
            along: Tensor = self._moved(inner, slopes) @ self.outer + skip
            return features.transpose(1, 2).unsqueeze(-1) * along

        return effects

    def interactions(
        self,
        x: Float[Tensor, "n s d_in"],
        features: Float[Tensor, "n s k"],
        decoder: Float[Tensor, "k d_in"],
        quadrature: Quadrature,
    ) -> Float[Tensor, "d_out k"]:
        """Σ_t f_j² (Ŝ_ji + Σ_a d_a Â_ja B_ai)², factors multiplied out where positions are more.

        For a feature Â_ja B_ai are as many numbers as an output has units, d_a Â_ja as many as
        positions have: the fewer are made.
        """
        rows = x.shape[:-1].numel()
        if len(self.readers) > 1 or rows <= self.d_out:
            return super().interactions(x, features, decoder, quadrature)
        slopes = self._slopes(x.reshape(-1, 1, self.d_in), quadrature)
        features = features.reshape(rows, -1)
        skip, inner = self.seen(decoder)
        units = len(self.outer)
        total = x.new_zeros(len(decoder), self.d_out, dtype=torch.float64)
        for chosen in chunks(len(decoder), units * self.d_out, x):
            factor = inner[chosen].T.unsqueeze(2) * self.outer.unsqueeze(1)
            constant, by_feature = skip[chosen].flatten(), factor.flatten(1)
            for some in chunks(rows, len(constant), x):
                along = torch.addmm(constant, slopes[some], by_feature)
                effect = along.unflatten(1, factor.shape[1:])
                effect.mul_(features[some, chosen].unsqueeze(2))
                total[chosen] += effect.square_().sum(0)
        return total.T

    def signed_effects(
        self,
        x: Float[Tensor, "n s d_in"],
        quadrature: Quadrature,
        signs: Float[Tensor, "r n s"],
    ) -> Effects:
        """(decoder S)_ji Σ_t φ_rt f_tj + Σ_a (decoder A)_ja (Σ_t φ_rt f_tj d_ta) B_ai."""
        slopes = self._slopes(x, quadrature).unflatten(0, x.shape[:2])
        by_sample = signs.transpose(0, 1).unsqueeze(1)

        def effects(features: Tensor, seen: Seen) -> Tensor:
            skip, inner = (factor[None, :, None] for factor in seen)
            signed = by_sample * features.transpose(1, 2).unsqueeze(2)
            summed = (signed.flatten(1, 2) @ slopes).unflatten(1, signed.shape[1:3])
            constant = signed.sum(-1, keepdim=True) * skip
            effect: Tensor = self._moved(inner, summed) @ self.outer + constant
            return effect

        return effects

    def linearize(self, x: Float[Tensor, "n s d_in"]) -> LinearMap:
        """Tangents times S + A diag(d) B."""
        return self._linear(self._slopes(x, Quadrature.gradient()).unflatten(0, x.shape[:2]))

    def linearize_along(self, x: Float[Tensor, "n s d_in"], quadrature: Quadrature) -> LinearMap:
        """Slopes averaged, and multiplied out once for all points of the rule."""
        return self._linear(self._slopes(x, quadrature).unflatten(0, x.shape[:2]))

    def linearize_between(
        self,
        start: Float[Tensor, "n s d_in"],
        x: Float[Tensor, "n s d_in"],
        quadrature: Quadrature,
    ) -> LinearMap:
        """Of a path it is exact whatever the rule: pre-activations are linear along it."""
        if quadrature.points == (1.0,):
            return self.linearize(x)
        return self._linear(
            slopes_between(self.activation, start @ self.inner, x @ self.inner, quadrature)
        )

    def _linear(self, slopes: Float[Tensor, "n s d_slopes"]) -> LinearMap:
        each, read = slopes.unsqueeze(1), self._in
        return lambda tangents: (
            self._moved(tangents @ read, each) @ self.outer + tangents @ self.skip
        )

    def elements_per_effect(self, positions: int) -> int:
        """How far units move, or outputs, whichever are more."""
        return positions * max(self.outer.shape)

    def elements_per_signed_effect(self, positions: int, draws: int) -> int:
        """The same of every draw, or its signs."""
        return draws * max(positions, len(self.readers) * len(self.outer), self.d_out)

    def masked(
        self, x: Float[Tensor, "n s d_in"], keep: Bool[Tensor, "d_in d_out"]
    ) -> Float[Tensor, "n s d_out"]:
        """Pre-activations added up along a tree of masks, x (S ∘ keep) in one product."""
        reading = [getattr(self, name) for name in self.readers]
        rows = x.reshape(-1, 1, self.d_in)
        if not keep.shape[1] or not pays(len(rows), sum(f.shape[1] for f in reading), x):
            return super().masked(x, keep)
        tree = MaskTree.of(keep)
        outer = self.outer.T[tree.columns]
        hidden = x.new_empty(self.d_out, len(rows))
        for columns, some, read in tree.products(rows, reading):
            torch.mm(outer[columns], self._hidden(*read).T, out=hidden[columns, some])
        y = rows.squeeze(1) @ torch.where(keep, self.skip, 0)
        y[:, tree.columns] += hidden.T
        by_position: Tensor = y.unflatten(0, x.shape[:2])
        return by_position

    def from_kept(self, kept: KeptInputs) -> Float[Tensor, "p n s m"]:
        """Batched products with the rows of A and S and the columns of B and S."""
        x = kept.x.transpose(1, 2).flatten(1, 2)
        read = (x @ getattr(self, name)[kept.rows] for name in self.readers)
        y = self._hidden(*read) @ self.outer.T[kept.columns].mT + x @ kept.block(self.skip)
        by_position: Tensor = y.unflatten(1, kept.x.shape[2:0:-1]).transpose(1, 2)
        return by_position

    def elements_per_mask(self, positions: int, inputs: int) -> int:
        """Hidden units, or what is kept."""
        return positions * max(inputs, self.inner.shape[1])

    def nested(
        self, x: Float[Tensor, "n s d_in"], sizes: Sequence[int]
    ) -> Iterator[Float[Tensor, "n s d_out"]]:
        """Ever more of x A and x S."""
        reading = [getattr(self, name) for name in self.readers]
        for skip, *read in growing_products(x, [self.skip, *reading], sizes):
            yield skip + self._hidden(*read) @ self.outer

    def _written(self, x: Tensor, hidden: Tensor) -> Float[Tensor, "n s d_out"]:
        """x S and what hidden units write."""
        written = self.product(hidden, "outer")
        if self.watcher is None:
            return self.carry.onto(written, x, self.skip)
        # Whoever watches may have kept it.
        return self.carry(x, self.skip) + written

    def _hidden(self, *read: Float[Tensor, "*q d_hidden"]) -> Float[Tensor, "*q d_hidden"]:
        """Hidden units, from products with the factors that read: φ(x A)."""
        return self.activation(*read)

    def _moved(self, read: Tensor, slopes: Tensor) -> Float[Tensor, "... d_hidden"]:
        """How far hidden units move: what their slopes read, times these."""
        return read * slopes

    def units(self, x: Float[Tensor, "n s d_in"]) -> tuple[Tensor, Tensor, Tensor]:
        """A, the slopes `(n, s, a)` and B of J = S + A diag(d) B, for those who need J's parts."""
        return self._in, self._slopes(x, Quadrature.gradient()).unflatten(0, x.shape[:2]), self._out

    @property
    def _in(self) -> Float[Tensor, "d_in d_slopes"]:
        """What each slope's unit reads: J = S + _in diag(slopes) _out."""
        return self.inner

    @property
    def _out(self) -> Float[Tensor, "d_slopes d_out"]:
        """What each slope's unit writes."""
        return self.outer

    def _slopes(
        self, x: Float[Tensor, "n s d_in"], quadrature: Quadrature
    ) -> Float[Tensor, "m d_slopes"]:
        """∫dα φ'(α x A), one row per sample and position."""
        return average_slopes(self.activation, (x @ self.inner).flatten(0, -2), quadrature)


class GatedMLP(SkipMLP):
    """y = x S + (φ(x A) ∘ x G) B at every position: SwiGLU, GeGLU and their like.

    Its Jacobian is S + A diag(φ'(xA) ∘ xG) B + G diag(φ(xA)) B, that of a `SkipMLP` with the two
    kinds of units side by side.

    Args:
        skip: S `(d_in, d_out)`; its last row holds the output bias.
        inner: A `(d_in, d_hidden)`, what φ acts on.
        gate: G `(d_in, d_hidden)`, what it is multiplied by.
        outer: B `(d_hidden, d_out)`.
        activation: φ.
    """

    readers = ("inner", "gate")
    gate: Tensor

    def __init__(
        self,
        skip: Float[Tensor, "d_in d_out"],
        inner: Float[Tensor, "d_in d_hidden"],
        gate: Float[Tensor, "d_in d_hidden"],
        outer: Float[Tensor, "d_hidden d_out"],
        activation: Callable[[Tensor], Tensor] = torch.nn.functional.silu,
    ) -> None:
        super().__init__(skip, inner, outer, activation)
        self.register_buffer("gate", gate)

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n s d_out"]:
        """x S + (φ(x A) ∘ x G) B."""
        hidden = self._hidden(self.product(x, "inner"), self.product(x, "gate"))
        return self._written(x, hidden)

    def transform(self, left: LinearMap, right: LinearMap) -> GatedMLP:
        """The same with S, A, G and B changed at their outer ends."""
        return GatedMLP(
            right(left(self.skip)),
            left(self.inner),
            left(self.gate),
            right(self.outer),
            self.activation,
        )

    def _hidden(self, *read: Float[Tensor, "*q d_hidden"]) -> Float[Tensor, "*q d_hidden"]:
        """φ(x A) ∘ x G."""
        inner, gate = read
        return self.activation(inner) * gate

    def _moved(self, read: Tensor, slopes: Tensor) -> Float[Tensor, "... d_hidden"]:
        """Both kinds of slopes move the same units."""
        (inner, gate), (slope, value) = (part.chunk(2, dim=-1) for part in (read, slopes))
        return torch.addcmul(inner * slope, gate, value)

    def linearize_between(
        self,
        start: Float[Tensor, "n s d_in"],
        x: Float[Tensor, "n s d_in"],
        quadrature: Quadrature,
    ) -> LinearMap:
        """By the rule: products of pre-activations are not linear along the path."""
        return Section.linearize_between(self, start, x, quadrature)

    @property
    def _in(self) -> Float[Tensor, "d_in d_slopes"]:
        return torch.cat([self.inner, self.gate], dim=1)

    @property
    def _out(self) -> Float[Tensor, "d_slopes d_out"]:
        return torch.cat([self.outer, self.outer])

    def _slopes(
        self, x: Float[Tensor, "n s d_in"], quadrature: Quadrature
    ) -> Float[Tensor, "m d_slopes"]:
        """∫dα φ'(αxA) ∘ αxG beside ∫dα φ(αxA)."""
        hidden, gate = (x @ self.inner).flatten(0, -2), (x @ self.gate).flatten(0, -2)
        ones = torch.ones_like(hidden)
        slopes = hidden.new_zeros(len(hidden), 2 * hidden.shape[1])
        for point, weight in zip(quadrature.points, quadrature.weights, strict=True):
            value, slope = jvp(self.activation, (point * hidden,), (ones,))[:2]
            slopes += weight * torch.cat([slope * point * gate, value], dim=1)
        return slopes


STEP = 1e-7
"""Steps of a pre-activation, relative to its size, up to which a secant is too rough."""


def slopes_between(
    activation: Callable[[Tensor], Tensor],
    start: Float[Tensor, "*m a"],
    end: Float[Tensor, "*m a"],
    quadrature: Quadrature,
) -> Float[Tensor, "*m a"]:
    """∫dα φ'(a + α (b − a)) = (φ(b) − φ(a)) / (b − a); by the rule where a and b nearly meet."""
    step = end - start
    near = step.abs() <= STEP * (start.abs() + end.abs())
    secant = (activation(end.clone()) - activation(start.clone())) / step.masked_fill(near, 1)
    if not bool(near.any()):
        return secant
    ones, slopes = torch.ones_like(step), torch.zeros_like(step)
    for point, weight in zip(quadrature.points, quadrature.weights, strict=True):
        slopes += weight * jvp(activation, (start + point * step,), (ones,))[1]
    return torch.where(near, slopes, secant)


def average_slopes(
    activation: Callable[[Tensor], Tensor], hidden: Float[Tensor, "*m a"], quadrature: Quadrature
) -> Float[Tensor, "*m a"]:
    """∫dα φ'(α h) of every entry h of `hidden`. Source: docs/math.md §5."""
    ones, slopes = torch.ones_like(hidden), torch.zeros_like(hidden)
    for point, weight in zip(quadrature.points, quadrature.weights, strict=True):
        slopes += weight * jvp(activation, (point * hidden,), (ones,))[1]
    return slopes
