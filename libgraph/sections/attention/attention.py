"""Multi-head attention with its residual stream, biases folded into the constant coordinate.

y_t = x_t S + Σ_h z_t^h O_h with z_t = Σ_s a_ts v_s, a = softmax(q kᵀ/√d_h), and q = xQ, k = xK,
v = xV. Its Jacobian is made of a few constant factors and of what attention does at hand
(docs/math.md §5):

    J_ts = δ_ts (S + Σ_h Q_h Γ_t^h O_h) + Σ_h (a_ts V_h + K_h q_tᵀ w_ts/√d_h) O_h,
    w_ts = a_ts (v_s − z_t),  Γ_t = Σ_s k_sᵀ w_ts/√d_h,

so that sums of its products need head-sized blocks (`gram`), never a Jacobian.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from libgraph.sections.attention.gram import inner_gram
from libgraph.sections.attention.heads import Heads, Pattern, Projections
from libgraph.sections.attention.kept import attend_to_kept, elements_under_mask
from libgraph.sections.attention.reach import reach_of_heads
from libgraph.sections.attention.repeated import look_up, repeated
from libgraph.sections.attention.signs import effects_under_signs, elements_under_signs
from libgraph.sections.chunks import chunks
from libgraph.sections.kept_inputs import KeptInputs, growing_products
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import Effects, LinearMap, Reach, Seen


class Attention(Heads):
    """y_t = x_t S + Σ_h Σ_s a^h_ts x_s V_h O_h.

    Args:
        skip: S `(d_in, d_out)`; its last row holds the output bias.
        query: Q `(d_in, heads·d_head)`, heads side by side; last row the bias, as for K and V.
        key: K `(d_in, key_heads·d_head)`; fewer key heads than heads are shared by neighbours.
        value: V `(d_in, key_heads·d_head)`.
        output: O `(heads·d_head, d_out)`.
        heads: number of heads.
        mask: which positions go on, and what they see; causal, all that is before them, if None.
        rotary: angles `(d_head/2,)` by which queries and keys turn from one position to the next
            in the planes of coordinates (0, 1), (2, 3), …; None for none, 0 for a plane at rest.
        soft_cap: c where scores s become c·tanh(s/c), or None. Where scores are differentiated
            a_ts then stands times the slope of that, 1 − tanh²(s_ts/c).
    """

    readers = ("query", "key", "value")
    writers = ("output",)

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t d_out"]:
        """Attend; queries are computed only for the positions that go on."""
        queries = self.queries(x)
        attended = self.attended(self.project(x), queries).transpose(1, 2).flatten(-2)
        own, written = x[:, queries.start - self.before :], self.product(attended, "output")
        if self.watcher is None:
            return self.carry.onto(written, own, self.skip)
        return self.carry(own, self.skip) + written

    def attention_pattern(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n h t s"]:
        """How each position that goes on shares its attention out, the prefix first."""
        return self.attend(self.project(x), self.queries(x))[0]

    def transform(self, left: LinearMap, right: LinearMap) -> Attention:
        """The same with all factors changed at their outer ends."""
        section = Attention(
            right(left(self.skip)),
            left(self.query),
            left(self.key),
            left(self.value),
            right(self.output),
            heads=self.heads,
            mask=self.mask,
            rotary=self.rotary,
            soft_cap=self.soft_cap,
        )
        section.prefix_key, section.prefix_value = self.prefix_key, self.prefix_value
        return section

    def with_prefix(self, x: Float[Tensor, "p d_in"]) -> Attention:
        """The same after positions with these activations, the same for all samples.

        Their keys and values are attended to, but they are no input. Factors may be rebased
        afterwards, the prefix stays.
        """
        section = self.transform(lambda factor: factor, lambda factor: factor)
        section.prefix_key, section.prefix_value = x @ self.key, x @ self.value
        return section

    def jacobian_gram(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "d_in d_in"]:
        """𝓛 (Σ_ts X_ts 𝒬 X_tsᵀ) 𝓛ᵀ, `𝓛 = [I | Q | K | V]`, `𝒬 = [S; O][S; O]ᵀ`."""
        factors = torch.cat([self.query, *self.key_and_value], dim=1).double()
        inner, d = inner_gram(self, x), self.d_in
        half = inner[:d] + factors @ inner[d:]
        return half[:, :d] + half[:, d:] @ factors.T

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

            def through_heads(weight: float, p: Projections, at: Pattern) -> Tensor:
                # All of this is as large as anything here: added up in place, read in cache.
                moved = self._levered(p, at, queries, features, k_hat)
                asked = (q_hat @ at.gamma.flatten(-2)).unflatten(-1, (own.shape[1], -1))
                moved.addcmul_(own[:, None, :, :, None], asked.transpose(2, 3))
                attended = at.a @ features.unsqueeze(1)
                moved.addcmul_(attended.unsqueeze(-1), v_hat.unsqueeze(1))
                return moved if weight == 1.0 else moved.mul_(weight)

            through = reduce(Tensor.add_, (through_heads(*point) for point in path))
            joined = through.permute(0, 2, 3, 1, 4).flatten(3)
            effect = joined @ self.output
            return effect.addcmul_(own.unsqueeze(-1), skip).transpose(1, 2)

        return effects

    def reach(
        self,
        start: Float[Tensor, "1 s d_in"],
        x: Float[Tensor, "1 s d_in"],
        quadrature: Quadrature,
    ) -> Reach:
        """Along values, and by moving patterns (`reach`)."""
        return reach_of_heads(self, start, x, quadrature)

    def signed_effects(
        self,
        x: Float[Tensor, "n s d_in"],
        quadrature: Quadrature,
        signs: Float[Tensor, "r n t"],
    ) -> Effects:
        """Σ_t φ_rt R_t, with the sum over t taken first (`signs`)."""
        return effects_under_signs(self, x, quadrature, signs)

    def _levered(
        self, p: Projections, at: Pattern, queries: slice, features: Tensor, k_hat: Tensor
    ) -> Float[Tensor, "n h t k e"]:
        """κ_t ∘ g_t: what features do by changing where attention goes."""
        if self.rotary is None:
            carried = (features[:, None, :, :, None] * p.v.unsqueeze(3)).flatten(-2)
            pulled: Tensor = (at.steep @ carried).unflatten(-1, (features.shape[-1], -1))
            attended = at.steep @ features.unsqueeze(1)
            pulled.addcmul_(attended.unsqueeze(-1), at.z.unsqueeze(3), value=-1)
            lever = p.q[:, :, queries] @ k_hat.transpose(1, 2)
            return pulled.mul_(lever.unsqueeze(-1))
        # Turning keys leave no lever that all positions share: weights by query, feature and key.
        positions = torch.arange(features.shape[1], device=features.device)
        turned = self.turn(k_hat.unsqueeze(2), positions)
        lever = torch.einsum("hkse,nhte->nhtks", turned, p.q[:, :, queries])
        moved = at.steep.unsqueeze(3) * lever * features.transpose(1, 2)[:, None, None]
        pulled = (moved.flatten(2, 3) @ p.v).unflatten(2, moved.shape[2:4])
        return pulled.addcmul_(moved.sum(-1, keepdim=True), at.z.unsqueeze(3), value=-1)

    def masked(
        self, x: Float[Tensor, "n s d_in"], keep: Bool[Tensor, "d_in d_out"]
    ) -> Float[Tensor, "n t d_out"]:
        """By tables where activations repeat (`repeated`)."""
        known = repeated(self, x) if keep.shape[1] else None
        if known is None:
            return super().masked(x, keep)
        own = x[:, -1] @ torch.where(keep, self.skip, 0)
        return (own + look_up(self, known, keep).T).unsqueeze(1)

    def from_kept(self, kept: KeptInputs) -> Float[Tensor, "p n t m"]:
        """Heads and residual stream from a few inputs, without queries, keys and values."""
        own = kept.x[:, :, -1:] if self.mask.last_only else kept.x
        skip = own.flatten(1, 2) @ kept.block(self.skip)
        y: Tensor = attend_to_kept(self, kept) + skip.unflatten(1, own.shape[1:3])
        return y

    def nested(
        self, x: Float[Tensor, "n s d_in"], sizes: Sequence[int]
    ) -> Iterator[Float[Tensor, "n t d_out"]]:
        """Ever more of x S, x Q, x K and x V."""
        queries = self.queries(x)
        factors = [self.skip, self.query, self.key, self.value]
        for skip, *projected in growing_products(x, factors, sizes):
            attended = self.attended(self.by_head(*projected), queries)
            own = skip[:, queries.start - self.before :]
            yield own + attended.transpose(1, 2).flatten(-2) @ self.output

    def elements_per_mask(self, positions: int, inputs: int) -> int:
        """Patterns of all heads."""
        return elements_under_mask(self, positions, inputs)

    def elements_per_effect(self, positions: int) -> int:
        """What heads give to all queries or, where keys turn, weights by query and key."""
        wide = max(self.output.shape)
        return positions * (wide if self.rotary is None else max(wide, self.heads * positions))

    def elements_per_signed_effect(self, positions: int, draws: int) -> int:
        """What heads give to all draws, or weights by draw and key."""
        return elements_under_signs(self, positions, draws)

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
