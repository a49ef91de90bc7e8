"""The skip + convolution section y_t = Σ_δ x_{r(t,δ)} S_δ + φ(Σ_δ x_{r(t,δ)} A_δ) B.

One convolution with its non-linearity and, in S and B, what runs beside it and after it; positions
are pixels, coordinates channels. Which input each offset δ of the window reads is a table, so that
strides, padding, dilation and any number of dimensions are one formula. Its Jacobian is that of a
skip + pointwise non-linearity, so that slopes and their second moments are all that is summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libgraph.sections.chunks import chunks
from libgraph.sections.closed_form import ClosedForm
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import Effects, LinearMap, Seen
from libgraph.sections.skip_mlp import average_slopes, slopes_between
from libgraph.sections.unchanging import unchanging

Part = tuple[Tensor | slice, Tensor, Tensor, Tensor]
"""Coordinates that some outputs see, and A, B and S between them, transposed."""


class Convolution(ClosedForm):
    """y_t = Σ_δ x_{r(t,δ)} S_δ + φ(Σ_δ x_{r(t,δ)} A_δ) B at every output position t.

    Outside of the grid there is nothing, not even the constant 1. A bias therefore belongs in the
    constant's row of one offset that no window has outside, as `conv_factors` puts it.

    Args:
        skip: S `(K, d_in, d_out)`, one matrix per offset of the window.
        inner: A `(K, d_in, d_hidden)`.
        outer: B `(d_hidden, d_out)`.
        reads: r `(t, K)`, the input position that each offset reads, -1 outside of the grid.
        activation: φ, applied to each hidden unit by itself.

    Raises:
        ValueError: if a window reads an input position twice.
    """

    readers = ("inner",)
    writers = ("outer",)
    skip: Tensor
    inner: Tensor
    outer: Tensor
    reads: Tensor

    def __init__(
        self,
        skip: Float[Tensor, "K d_in d_out"],
        inner: Float[Tensor, "K d_in d_hidden"],
        outer: Float[Tensor, "d_hidden d_out"],
        reads: Int[Tensor, "t K"],
        activation: Callable[[Tensor], Tensor] = torch.relu,
    ) -> None:
        super().__init__(*skip.shape[1:])
        # Two offsets that read the same position would make J_ts a sum, with cross terms.
        ordered = reads.sort(1).values
        twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).nonzero()
        if len(twice):
            t, offset = twice[0].tolist()
            raise ValueError(
                f"The window of output position {t} reads input position "
                f"{int(ordered[t, offset])} more than once."
            )
        self.register_buffer("skip", skip)
        self.register_buffer("inner", inner)
        self.register_buffer("outer", outer)
        self.register_buffer("reads", reads)
        self.activation = unchanging(activation)

    def extra_repr(self) -> str:
        """The activation."""
        return getattr(self.activation, "__name__", repr(self.activation))

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t d_out"]:
        """Σ_δ x_{r(t,δ)} S_δ + φ(Σ_δ x_{r(t,δ)} A_δ) B (docs/math.md §5)."""
        if self.watcher is None:
            return self._through(x, [self._part(slice(None), slice(None))])
        read = self._read(x)
        hidden = self.activation(self.product(read, "inner"))
        return read @ self.skip.flatten(0, 1) + self.product(hidden, "outer")

    def factor(self, name: str) -> Float[Tensor, "d_read d_written"]:
        """The weight of that name; of A the offsets' matrices one below the other."""
        return self.inner.flatten(0, 1) if name == "inner" else self.outer

    def transform(self, left: LinearMap, right: LinearMap) -> Convolution:
        """The same with S, A and B changed at their outer ends."""
        return Convolution(
            right(left(self.skip)),
            left(self.inner),
            right(self.outer),
            self.reads,
            self.activation,
        )

    def jacobian_gram(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "d_in d_in"]:
        """Σ_δ [N_δ S_δ S_δᵀ + K_δ + K_δᵀ + A_δ ((B Bᵀ) ∘ Σ_t dᵀd) A_δᵀ] (docs/math.md §5).

        K_δ = A_δ diag(Σ_t d) B S_δᵀ, and sums over t run where offset δ is inside the grid.
        """
        # Output positions with the same offsets inside share one moment, whatever the offset: far
        # from the border they are all alike, and no moment is taken once per offset.
        borders, border, count = torch.unique(
            self.reads >= 0, dim=0, return_inverse=True, return_counts=True
        )
        order, sizes = border.argsort(), count.tolist()
        hidden = self.outer.shape[0]
        first = x.new_zeros(len(borders), hidden, dtype=torch.float64)
        second = x.new_zeros(len(borders), hidden, hidden, dtype=torch.float64)
        for samples in self._chunks(x):
            slopes = self._slopes(x[samples], Quadrature.gradient())[:, order]
            for i, alike in enumerate(slopes.split(sizes, dim=1)):
                d = alike.flatten(0, 1)
                first[i] += d.sum(0, dtype=torch.float64)
                second[i] += (d.T @ d).double()
        skip, inner, outer = (factor.double() for factor in (self.skip, self.inner, self.outer))
        written = outer @ outer.T
        total = x.new_zeros(self.d_in, self.d_in, dtype=torch.float64)
        # And offsets that are inside at the same output positions share everything but factors.
        patterns, pattern = torch.unique(borders, dim=1, return_inverse=True)
        for i, inside in enumerate(patterns.double().T):
            s, a = skip[pattern == i], inner[pattern == i]
            cross = _contract((a * (inside @ first)) @ outer, s)
            middle = written * torch.einsum("g,gab->ab", inside, second)
            times = len(x) * (inside @ count.double())
            total = total + times * _contract(s, s) + cross + cross.T + _contract(a @ middle, a)
        return total

    def seen(self, decoder: Float[Tensor, "k d_in"]) -> Seen:
        """decoder S, where there is any, and decoder A, offsets after features."""
        skip = decoder @ self.skip[self._passing]
        return skip.transpose(0, 1), (decoder @ self.inner).transpose(0, 1)

    def effects(self, x: Float[Tensor, "n s d_in"], quadrature: Quadrature) -> Effects:
        """Σ_δ f_rj (decoder S_δ)_ji + Σ_a (Σ_δ f_rj (decoder A_δ)_ja) d_ta B_ai, r = r(t, δ).

        The pre-activation is linear in x, so a quadrature averages slopes (docs/math.md §5).
        """
        slopes = self._slopes(x, quadrature).flatten(0, 1)

        def effects(features: Tensor, seen: Seen) -> Tensor:
            skip, inner = seen
            # Features first: what they see is then not copied for each sample.
            read = self._read(features.permute(2, 0, 1).unsqueeze(-1)).flatten(1, 2)
            along = (read @ inner * slopes) @ self.outer
            along += read[..., self._passing] @ skip
            return along.reshape(len(seen[0]), len(x), -1, self.d_out).transpose(0, 1)

        return effects

    def linearize(self, x: Float[Tensor, "n s d_in"]) -> LinearMap:
        """Tangents in the window times S_δ + A_δ diag(d_t) B, summed over offsets."""
        return self._linear(self._slopes(x, Quadrature.gradient()))

    def linearize_between(
        self,
        start: Float[Tensor, "n s d_in"],
        x: Float[Tensor, "n s d_in"],
        quadrature: Quadrature,
    ) -> LinearMap:
        """Of a path it is exact whatever the rule: pre-activations are linear along it."""
        if quadrature.points == (1.0,):
            return self.linearize(x)
        ends = (self._hidden(start), self._hidden(x))
        return self._linear(slopes_between(self.activation, *ends, quadrature))

    def _linear(self, slopes: Float[Tensor, "n t d_hidden"]) -> LinearMap:
        by_sample = slopes.unsqueeze(1)
        skip, inner = self.skip.flatten(0, 1), self.inner.flatten(0, 1)

        def linear(tangents: Tensor) -> Tensor:
            read = self._read(tangents)
            return read @ skip + (read @ inner * by_sample) @ self.outer

        return linear

    def masked(
        self, x: Float[Tensor, "n s d_in"], keep: Bool[Tensor, "d_in d_out"]
    ) -> Float[Tensor, "n t d_out"]:
        """Map forward with output i seeing only the inputs that `keep[:, i]` names, others zero.

        Windows are copied once for all outputs, coordinates first and samples last, so that what
        an output keeps is a few long pieces of them.
        """
        patterns, owner = torch.unique(keep, dim=1, return_inverse=True)
        parts = [
            self._part(
                patterns[:, pattern].nonzero().squeeze(1), (owner == pattern).nonzero().squeeze(1)
            )
            for pattern in range(patterns.shape[1])
        ]
        return self._through(x, parts)[..., owner.argsort(stable=True).argsort()]

    def _part(self, rows: Tensor | slice, outputs: Tensor | slice) -> Part:
        """What some outputs see of some coordinates, as factors from the left."""
        inner = self.inner[:, rows].transpose(0, 1).flatten(0, 1).T
        skip = self.skip[self._passing][:, rows][..., outputs].transpose(0, 1).flatten(0, 1).T
        return rows, inner, self.outer[:, outputs].T, skip

    def _through(
        self, x: Float[Tensor, "n s d_in"], parts: Sequence[Part]
    ) -> Float[Tensor, "n t outputs"]:
        """The outputs of each part, one after the other."""
        results = []
        for samples in self._chunks(x):
            read = self._windows(x[samples])
            outputs: list[Tensor] = []
            for rows, inner, outer, skip in parts:
                kept = read if isinstance(rows, slice) else read.index_select(0, rows)
                hidden = self.activation(inner @ kept.flatten(0, 1))
                outputs.append(outer @ hidden + skip @ kept[:, self._passing].flatten(0, 1))
            joined = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
            results.append(joined.unflatten(1, (len(self.reads), -1)).permute(2, 1, 0))
        return torch.cat(results)

    def elements_per_effect(self, positions: int) -> int:
        """A window, hidden units or outputs at every output position, whichever are most."""
        return len(self.reads) * max(len(self.skip), max(self.outer.shape))

    def _chunks(self, x: Float[Tensor, "n s d_in"]) -> Iterator[slice]:
        """Samples whose windows are copied at a time."""
        widest = max(len(self.skip) * self.d_in, max(self.outer.shape))
        return chunks(len(x), len(self.reads) * widest, x)

    def _read(self, x: Float[Tensor, "*n s d"]) -> Float[Tensor, "*n t K*d"]:
        """What each output position's window reads, its offsets side by side, zero outside."""
        # The row of zeros comes first: a table for a larger grid is then an error and not zeros.
        padded = torch.nn.functional.pad(x, (0, 0, 1, 0))
        read = padded.index_select(-2, (self.reads + 1).flatten())
        joined: Tensor = read.unflatten(-2, self.reads.shape).flatten(-2)
        return joined

    def _windows(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "d_in K t*n"]:
        """The same with coordinates first and samples last."""
        # Padded in front, as above.
        padded = torch.nn.functional.pad(x.permute(2, 1, 0), (0, 0, 1, 0))
        read = padded.index_select(1, (self.reads.T + 1).flatten())
        joined: Tensor = read.unflatten(1, (self.reads.shape[1], -1)).flatten(2)
        return joined

    @cached_property
    def _passing(self) -> Int[Tensor, " offsets"]:
        """Offsets that anything passes without the non-linearity; often the constant's alone."""
        return self.skip.flatten(1).any(1).nonzero().squeeze(1)

    def _slopes(
        self, x: Float[Tensor, "n s d_in"], quadrature: Quadrature
    ) -> Float[Tensor, "n t d_hidden"]:
        """∫dα φ'(α h_t) with h_t = Σ_δ x_{r(t,δ)} A_δ."""
        return average_slopes(self.activation, self._hidden(x), quadrature)

    def _hidden(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t d_hidden"]:
        """h_t."""
        inner = self.inner.flatten(0, 1)
        return torch.cat([self._read(x[samples]) @ inner for samples in self._chunks(x)])


def _contract(
    a: Float[Tensor, "K d_in m"], b: Float[Tensor, "K d_in m"]
) -> Float[Tensor, "d_in d_in"]:
    """Σ_δ a_δ b_δᵀ."""
    return torch.einsum("kim,kjm->ij", a, b)
