"""Multi-head attention with its residual stream, biases folded into the constant coordinate.

y_t = x_t S + Σ_h z_t^h O_h with z_t = Σ_s a_ts v_s, a = softmax(q kᵀ/√d_h), and q = xQ, k = xK,
v = xV. Its Jacobian is made of a few constant factors and of what attention does at hand
(docs/math.md §5):

    J_ts = δ_ts (S + Σ_h Q_h Γ_t^h O_h) + Σ_h (a_ts V_h + K_h q_tᵀ w_ts/√d_h) O_h,
    w_ts = a_ts (v_s − z_t),  Γ_t = Σ_s k_sᵀ w_ts/√d_h,

so that sums of its products need head-sized blocks (`gram`), never a Jacobian.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from libgraph.sections.attention import gram as attention_gram
from libgraph.sections.attention import signs as attention_signs
from libgraph.sections.attention.heads import Pattern, Projections
from libgraph.sections.chunks import chunks
from libgraph.sections.closed_form import SignedForm
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import Effects, LinearMap, Seen


class Attention(SignedForm):
    """y_t = x_t S + Σ_h Σ_s a^h_ts x_s V_h O_h.

    Args:
        skip: S `(d_in, d_out)`; its last row holds the output bias.
        query: Q `(d_in, heads·d_head)`, heads side by side; last row the bias, as for K and V.
        key: K `(d_in, key_heads·d_head)`; fewer key heads than heads are shared by neighbours.
        value: V `(d_in, key_heads·d_head)`.
        output: O `(heads·d_head, d_out)`.
        heads: number of heads.
        causal: whether a position sees itself and earlier ones only.
        window: how many positions, itself included, a position sees back; None for all.
        last_only: whether only the last position goes on (y then has one position).
        rotary: angles `(d_head/2,)` by which queries and keys turn from one position to the next
            in the planes of coordinates (0, 1), (2, 3), …; None for none, 0 for a plane at rest.
        prefix: keys and values `(p, key_heads·d_head)` of positions before the first one that are
            the same for all samples: attended to, but no input; None for none.
    """

    readers = ("query", "key", "value")
    writers = ("output",)
    skip: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    rotary: Tensor | None
    prefix_key: Tensor | None
    prefix_value: Tensor | None

    def __init__(
        self,
        skip: Float[Tensor, "d_in d_out"],
        query: Float[Tensor, "d_in h"],
        key: Float[Tensor, "d_in g"],
        value: Float[Tensor, "d_in g"],
        output: Float[Tensor, "h d_out"],
        *,
        heads: int,
        causal: bool = True,
        window: int | None = None,
        last_only: bool = False,
        rotary: Float[Tensor, " planes"] | None = None,
        prefix: tuple[Float[Tensor, "p g"], Float[Tensor, "p g"]] | None = None,
    ) -> None:
        super().__init__(*skip.shape)
        self.register_buffer("skip", skip)
        self.register_buffer("query", query)
        self.register_buffer("key", key)
        self.register_buffer("value", value)
        self.register_buffer("output", output)
        self.register_buffer("rotary", rotary)
        self.register_buffer("prefix_key", prefix[0] if prefix is not None else None)
        self.register_buffer("prefix_value", prefix[1] if prefix is not None else None)
        self.heads = heads
        self.causal = causal
        self.window = window
        self.last_only = last_only

    def extra_repr(self) -> str:
        """Heads and mask."""
        mask = f"causal={self.causal}, window={self.window}, last_only={self.last_only}"
        return f"heads={self.heads}, {mask}"

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t d_out"]:
        """Attend; queries are computed only for the positions that go on."""
        queries = self.queries(x)
        _, z = self._attend(self.project(x), queries)
        attended = z.transpose(1, 2).flatten(-2)
        return x[:, queries.start - self.before :] @ self.skip + self.product(attended, "output")

    def attention_pattern(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n h t s"]:
        """How each position that goes on shares its attention out, the prefix first."""
        return self._attend(self.project(x), self.queries(x))[0]

    def transform(self, left: LinearMap, right: LinearMap) -> Attention:
        """The same with all factors changed at their outer ends."""
        return Attention(
            right(left(self.skip)),
            left(self.query),
            left(self.key),
            left(self.value),
            right(self.output),
            heads=self.heads,
            causal=self.causal,
            window=self.window,
            last_only=self.last_only,
            rotary=self.rotary,
            prefix=self._prefix,
        )

    def with_prefix(self, x: Float[Tensor, "p d_in"]) -> Attention:
        """The same after positions with these activations, as a constant."""
        changed = self.transform(lambda factor: factor, lambda factor: factor)
        changed.prefix_key, changed.prefix_value = x @ self.key, x @ self.value
        return changed

    def jacobian_gram(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "d_in d_in"]:
        """𝓛 (Σ_ts X_ts 𝒬 X_tsᵀ) 𝓛ᵀ with 𝓛 = [I | Q | K | V] and 𝒬 = [S; O][S; O]ᵀ."""
        middle = attention_gram.middle(self, x)
        eye = torch.eye(self.d_in, dtype=x.dtype, device=x.device)
        left = torch.cat([eye, self.query, *self.key_and_value], dim=1).double()
        return left @ middle @ left.T

    def seen(self, decoder: Float[Tensor, "k d_in"]) -> Seen:
        """Ŝ `(k, d_out)` and Q̂, K̂, V̂ `(k, h, e)`."""
        factors = (self.query, *self.key_and_value)
        return decoder @ self.skip, *((decoder @ f).unflatten(1, (self.heads, -1)) for f in factors)

    def effects(self, x: Float[Tensor, "n s d_in"], quadrature: Quadrature) -> Effects:
        """R_t = f_t ∘ Ŝ + Σ_h [f_t ∘ Q̂Γ_t + (a_t f) ∘ V̂ + κ_t ∘ g_t] O_h.

        Ŝ, Q̂, K̂, V̂ are the factors seen from the features, κ_t = K̂ q_t/√d_h and
        g_t = Σ_s a_ts f_s (v_s − z_t). R_t is linear in the Jacobian, so a quadrature averages it.
        """
        queries = self.queries(x)
        path = []
        for point, weight in zip(quadrature.points, quadrature.weights, strict=True):
            p = self.project(point * x)
            path.append((weight, p, self.pattern(p, queries)))

        def effects(features: Tensor, seen: Seen) -> Tensor:
            skip, *factors = seen
            q_hat, k_hat, v_hat = (factor.transpose(0, 1) for factor in factors)
            features = self.after_prefix(features)
            own = features[:, queries]
            through = x.new_zeros(())
            for weight, p, at in path:
                attended = at.a @ features.unsqueeze(1)
                asked = (q_hat @ at.gamma.flatten(-2)).unflatten(-1, (own.shape[1], -1))
                through = through + weight * (
                    own[:, None, :, :, None] * asked.transpose(2, 3)
                    + attended.unsqueeze(-1) * v_hat.unsqueeze(1)
                    + self._levered(p, at, queries, features, k_hat)
                )
            joined = through.permute(0, 2, 3, 1, 4).flatten(3)
            effect = joined @ self.output + own.unsqueeze(-1) * skip
            return effect.transpose(1, 2)

        return effects

    def signed_effects(
        self,
        x: Float[Tensor, "n s d_in"],
        quadrature: Quadrature,
        signs: Float[Tensor, "r n t"],
    ) -> Effects:
        """Σ_t φ_rt R_t, with the sum over t taken first (`attention_signs`)."""
        return attention_signs.signed_effects(self, x, quadrature, signs)

    def _levered(
        self, p: Projections, at: Pattern, queries: slice, features: Tensor, k_hat: Tensor
    ) -> Float[Tensor, "n h t k e"]:
        """κ_t ∘ g_t: what features do by changing where attention goes."""
        if self.rotary is None:
            carried = (features[:, None, :, :, None] * p.v.unsqueeze(3)).flatten(-2)
            pulled: Tensor = (at.a @ carried).unflatten(-1, (features.shape[-1], -1))
            attended = at.a @ features.unsqueeze(1)
            lever = p.q[:, :, queries] @ k_hat.transpose(1, 2)
            return lever.unsqueeze(-1) * (pulled - attended.unsqueeze(-1) * at.z.unsqueeze(3))
        # Turning keys leave no lever that all positions share: weights by query, feature and key.
        positions = torch.arange(features.shape[1], device=features.device)
        turned = self.turn(k_hat.unsqueeze(2), positions)
        lever = torch.einsum("hkse,nhte->nhtks", turned, p.q[:, :, queries])
        moved = at.a.unsqueeze(3) * lever * features.transpose(1, 2)[:, None, None]
        pulled = (moved.flatten(2, 3) @ p.v).unflatten(2, moved.shape[2:4])
        return pulled - moved.sum(-1, keepdim=True) * at.z.unsqueeze(3)

    def _elements_per_effect(self, positions: int) -> int:
        wide = max(self.output.shape)
        return positions * (wide if self.rotary is None else max(wide, self.heads * positions))

    def _elements_per_sum(self, positions: int, draws: int) -> int:
        return attention_signs.elements_per_sum(self, positions, draws)

    def diagonal_product(
        self,
        x: Float[Tensor, "n t d_in"],
        weights: Float[Tensor, "n t a"],
        vectors: Float[Tensor, "a d_out"],
    ) -> Float[Tensor, "d_in a"]:
        """Σ_x Σ_t J_tt v_a weights_ta for every a: what a parallel positionwise branch meets."""
        query, (key, value) = self.query, self.key_and_value
        factors = [f.unflatten(1, (self.heads, -1)) for f in (query, key, value)]
        reads = self.output.unflatten(0, (self.heads, -1)) @ vectors.T
        total = (self.skip @ vectors.T).double() * weights.double().sum((0, 1))
        size = query.shape[1]
        per_query = size * max(size // self.heads, vectors.shape[0])
        for samples in chunks(len(x), per_query * x.shape[1], x):
            p = self.project(x[samples])
            for chosen in chunks(x.shape[1], per_query * (samples.stop - samples.start), x):
                queries = slice(self.before + chosen.start, self.before + chosen.stop)
                at, w = self.pattern(p, queries), weights[samples, chosen]
                turned = torch.einsum("nhftr,nta->hfra", at.gamma, w)
                seen = torch.einsum("nhtr,hra->nhta", at.own_w, reads) * w.unsqueeze(1)
                plain_q = p.plain_q[:, :, queries]
                blocks = (
                    torch.einsum("hfra,hra->hfa", turned, reads),
                    torch.einsum("nhtf,nhta->hfa", plain_q, seen),
                    torch.einsum("nht,nta->ha", at.own, w).unsqueeze(1) * reads,
                )
                for factor, block in zip(factors, blocks, strict=True):
                    total += torch.einsum("dhf,hfa->da", factor, block).double()
        return total

    # Projections and patterns

    @property
    def key_and_value(self) -> tuple[Float[Tensor, "d_in h"], Float[Tensor, "d_in h"]]:
        """K and V of each head, shared ones repeated."""
        return self._every_head(self.key), self._every_head(self.value)

    @property
    def before(self) -> int:
        """Number of positions before the first."""
        return 0 if self.prefix_key is None else len(self.prefix_key)

    @property
    def _prefix(self) -> tuple[Tensor, Tensor] | None:
        if self.prefix_key is None or self.prefix_value is None:
            return None
        return self.prefix_key, self.prefix_value

    def after_prefix(self, features: Float[Tensor, "n s k"]) -> Float[Tensor, "n p_s k"]:
        """Features with those before the first position, which are none."""
        return pad(features, (0, 0, self.before, 0))

    def queries(self, x: Float[Tensor, "n s d_in"]) -> slice:
        """The positions that go on, counted from the beginning of the prefix."""
        stop = self.before + x.shape[1]
        return slice(stop - 1 if self.last_only else self.before, stop)

    def turn(self, e: Float[Tensor, "... s e"], positions: Tensor) -> Float[Tensor, "... s e"]:
        """Turn vectors by the angles that belong to these positions; negative ones turn back."""
        if self.rotary is None:
            return e
        angles = positions.to(self.rotary).unsqueeze(-1) * self.rotary
        cos, sin = angles.cos(), angles.sin()
        a, b = e[..., ::2], e[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)

    def project(self, x: Float[Tensor, "n s d_in"]) -> Projections:
        """Queries, keys and values of all positions, those of the prefix first (queries 0)."""
        width = self.query.shape[1] // self.heads
        shared = self.query.shape[1] // self.key.shape[1]
        positions = torch.arange(self.before + x.shape[1], device=x.device)
        q, k, v = (self.product(x, name) for name in ("query", "key", "value"))
        if self._prefix is not None:
            q = self.after_prefix(q)
            k, v = (
                torch.cat([before.expand(len(x), -1, -1), each], dim=1)
                for before, each in zip(self._prefix, (k, v), strict=True)
            )
        q, k, v = (each.unflatten(-1, (-1, width)).transpose(1, 2) for each in (q, k, v))
        k, v = (each.repeat_interleave(shared, dim=1) for each in (k, v))
        plain_q = width**-0.5 * q
        return Projections(plain_q, self.turn(plain_q, positions), self.turn(k, positions), v)

    def pattern(self, p: Projections, queries: slice) -> Pattern:
        """Patterns and what the Jacobian needs of them, for the queries at these positions."""
        a, z = self._attend(p, queries)
        own = a.diagonal(queries.start, -2, -1)
        own_w = own.unsqueeze(-1) * (p.v[:, :, queries] - z)
        return Pattern(a, z, own, own_w, self._gamma(p, a, z, queries))

    def _gamma(
        self, p: Projections, a: Tensor, z: Tensor, queries: slice
    ) -> Float[Tensor, "n h e t e"]:
        """Γ_t = Σ_s a_ts k_sᵀ (v_s − z_t)/√d_head, turned back to the plain query's place."""
        keys = p.k.transpose(-1, -2).unsqueeze(3)
        parts = []
        # Some coordinates of the keys at a time: all of them would be queries × keys × d_head.
        for part in chunks(keys.shape[2], a.numel(), a):
            keyed = a.unsqueeze(2) * keys[:, :, part]
            mixed = (keyed.flatten(2, 3) @ p.v).unflatten(2, keyed.shape[2:4])
            parts.append(mixed - keyed.sum(-1, keepdim=True) * z.unsqueeze(2))
        gamma: Tensor = p.plain_q.shape[-1] ** -0.5 * torch.cat(parts, dim=2)
        if self.rotary is None:
            return gamma
        back = -torch.arange(queries.start, queries.stop, device=a.device)
        return self.turn(gamma.movedim(2, -1), back.unsqueeze(-1)).movedim(-1, 2)

    def _every_head(self, factor: Float[Tensor, "d_in g"]) -> Float[Tensor, "d_in h"]:
        """Keys or values of each head, shared ones repeated."""
        width = self.query.shape[1] // self.heads
        shared = self.query.shape[1] // factor.shape[1]
        heads: Tensor = factor.unflatten(1, (-1, width)).repeat_interleave(shared, dim=1)
        return heads.flatten(1)

    def _attend(
        self, p: Projections, queries: slice
    ) -> tuple[Float[Tensor, "n h t s"], Float[Tensor, "n h t e"]]:
        """a and z of the queries at these positions."""
        q = p.q[:, :, queries]
        # With one query the products are sums, which as many tiny matrix products would be slow.
        single = q.shape[2] == 1
        scores = (q * p.k).sum(-1).unsqueeze(2) if single else q @ p.k.transpose(-1, -2)
        here = torch.arange(queries.start, queries.stop, device=q.device)
        back = here.unsqueeze(1) - torch.arange(p.k.shape[2], device=q.device)
        hidden = back < 0 if self.causal else torch.zeros_like(back, dtype=torch.bool)
        if self.window is not None:
            hidden = hidden | (back >= self.window)
        a = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        z = (a.transpose(-1, -2) * p.v).sum(2, keepdim=True) if single else a @ p.v
        return a, z
