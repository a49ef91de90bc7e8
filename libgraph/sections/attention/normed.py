"""Attention whose queries and keys are normalised before they are compared (Qwen3, Gemma 3).

What a norm does to a query depends on the query, so that the constant factors of attention's closed
forms are none here. Automatic differentiation makes its Grams and interactions.

Source: docs/math.md §5.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.sections.attention.heads import AttentionMask, Heads, Projections
from libgraph.sections.section import LinearMap, Section

HeadNorm = tuple[Tensor, float]
"""The scale of an RMSNorm, of one head or of all side by side, and its ε."""


class NormedAttention(Section):
    """Attention with RMSNorms over each head's queries and keys, or over all heads' at once.

    Args:
        skip: S `(d_in, d_out)`; its last row holds the output bias.
        query: Q `(d_in, heads·d_head)`; last row the bias, as for K and V.
        key: K `(d_in, key_heads·d_head)`.
        value: V `(d_in, key_heads·d_head)`.
        output: O `(heads·d_head, d_out)`.
        heads: number of heads.
        mask: as for `Attention`.
        rotary: as for `Attention`; positions turn what is normalised.
        scale: what scores are multiplied by, beside 1/√d_head.
        soft_cap: as for `Attention`.
        query_norm: of queries; None for none.
        key_norm: of keys; None for none.
    """

    readers = ("query", "key", "value")
    writers = ("output",)
    query_scale: Tensor | None
    key_scale: Tensor | None

    def __init__(
        self,
        skip: Float[Tensor, "d_in d_out"],
        query: Float[Tensor, "d_in h"],
        key: Float[Tensor, "d_in g"],
        value: Float[Tensor, "d_in g"],
        output: Float[Tensor, "h d_out"],
        *,
        heads: int,
        mask: AttentionMask | None = None,
        rotary: Float[Tensor, " planes"] | None = None,
        scale: float = 1.0,
        soft_cap: float | None = None,
        query_norm: HeadNorm | None = None,
        key_norm: HeadNorm | None = None,
    ) -> None:
        super().__init__(*skip.shape)
        self.plain = _Plain(
            skip, query, key, value, output,
            heads=heads, mask=mask, rotary=rotary, soft_cap=soft_cap,
        )  # fmt: skip
        self.scale = scale
        self.epsilons = tuple(None if n is None else n[1] for n in (query_norm, key_norm))
        self.register_buffer("query_scale", None if query_norm is None else query_norm[0])
        self.register_buffer("key_scale", None if key_norm is None else key_norm[0])

    def extra_repr(self) -> str:
        """What scores are multiplied by, and the ε of the norms."""
        return f"scale={self.scale}, epsilons={self.epsilons}"

    def factor(self, name: str) -> Float[Tensor, "d_read d_written"]:
        """The weight of that name."""
        matrix: Tensor = getattr(self.plain, name)
        return matrix

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t d_out"]:
        """Attend."""
        plain = self.plain
        queries = plain.queries(x)
        attended = plain.attended(self._project(x), queries).transpose(1, 2).flatten(-2)
        return x[:, queries.start - plain.before :] @ plain.skip + self.product(attended, "output")

    def transform(self, left: LinearMap, right: LinearMap) -> NormedAttention:
        """The same with all factors changed at their outer ends."""
        plain = self.plain
        norms = [
            None if scale is None or epsilon is None else (scale, epsilon)
            for scale, epsilon in zip(
                (self.query_scale, self.key_scale), self.epsilons, strict=True
            )
        ]
        section = NormedAttention(
            right(left(plain.skip)),
            left(plain.query),
            left(plain.key),
            left(plain.value),
            right(plain.output),
            heads=plain.heads,
            mask=plain.mask,
            rotary=plain.rotary,
            scale=self.scale,
            soft_cap=plain.soft_cap,
            query_norm=norms[0],
            key_norm=norms[1],
        )
        section.plain.prefix_key = plain.prefix_key
        section.plain.prefix_value = plain.prefix_value
        return section

    def with_prefix(self, x: Float[Tensor, "p d_in"]) -> NormedAttention:
        """The same after positions with these activations, as for `Attention`."""
        section = self.transform(lambda factor: factor, lambda factor: factor)
        section.plain.prefix_key = x @ self.plain.key
        section.plain.prefix_value = x @ self.plain.value
        return section

    def _project(self, x: Float[Tensor, "n s d_in"]) -> Projections:
        """Queries and keys normalised, then turned; values as they are."""
        plain = self.plain
        width = plain.query.shape[1] // plain.heads
        q, k, v = (self.product(x, name) for name in ("query", "key", "value"))
        if plain.prefix_key is not None and plain.prefix_value is not None:
            q = plain.after_prefix(q)
            k = torch.cat([plain.prefix_key.expand(len(x), -1, -1), k], dim=1)
            v = torch.cat([plain.prefix_value.expand(len(x), -1, -1), v], dim=1)
        q = _normalised(q, self.query_scale, self.epsilons[0], width)
        k = _normalised(k, self.key_scale, self.epsilons[1], width)
        q, k, v = (vectors.unflatten(-1, (-1, width)).transpose(1, 2) for vectors in (q, k, v))
        shared = q.shape[1] // k.shape[1]
        if shared > 1:
            k, v = (vectors.repeat_interleave(shared, dim=1) for vectors in (k, v))
        positions = torch.arange(k.shape[2], device=x.device)
        q = self.scale * width**-0.5 * q
        return Projections(q, plain.turn(q, positions), plain.turn(k, positions), v)


class _Plain(Heads):
    """The factors, and what is the same without norms."""

    def forward(self, x: Tensor) -> Tensor:
        """Nobody asks for it."""
        raise NotImplementedError


def _normalised(
    x: Float[Tensor, "n s h"], scale: Tensor | None, epsilon: float | None, width: int
) -> Float[Tensor, "n s h"]:
    """Divided by the root of the mean square, of each head where the scale is one head wide."""
    if scale is None or epsilon is None:
        return x
    if len(scale) == width:
        parts = x.unflatten(-1, (-1, width))
        root = (parts.square().mean(-1, keepdim=True) + epsilon).rsqrt()
        normalised: Tensor = (parts * root * scale).flatten(-2)
        return normalised
    return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * scale
