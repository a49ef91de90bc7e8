"""Multi-head attention with its residual stream, biases folded into the constant coordinate.

y_t = x_t S + Σ_h z_t^h O_h with z_t = Σ_s a_ts v_s, a = softmax(q kᵀ/√d_h), and q = xQ, k = xK,
v = xV. Its Jacobian is made of a few constant factors and of what
attention does at hand (docs/math.md §5):

    J_ts = δ_ts (S + Σ_h Q_h Γ_t^h O_h) + Σ_h (a_ts V_h + K_h q_tᵀ w_ts/√d_h) O_h,
    w_ts = a_ts (v_s − z_t),  Γ_t = Σ_s k_sᵀ w_ts/√d_h,

so that sums of its products need head-sized blocks, never a Jacobian.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.quadrature import Quadrature
from libgraph.sections.section import LinearMap, Section

CHUNK_BYTES = 8 * 2**20
"""Intermediate results are cut into chunks of this size: samples, then queries or features."""


class Pattern(NamedTuple):
    """What attention computes on a batch, for some of the queries.

    n samples, h heads, t queries, s keys, e = d_head; `first` is the position of the first query.
    """

    q: Float[Tensor, "n h t e"]
    k: Float[Tensor, "n h s e"]
    v: Float[Tensor, "n h s e"]
    a: Float[Tensor, "n h t s"]
    z: Float[Tensor, "n h t e"]
    first: int

    @property
    def scale(self) -> float:
        """1/√d_head."""
        return float(self.q.shape[-1] ** -0.5)

    @property
    def own(self) -> Float[Tensor, "n h t"]:
        """a_tt, the weight of each query's own position."""
        return self.a.diagonal(self.first, -2, -1)

    @property
    def own_w(self) -> Float[Tensor, "n h t e"]:
        """w_tt = a_tt (v_t − z_t)."""
        own_v = self.v[:, :, self.first : self.first + self.q.shape[2]]
        return self.own.unsqueeze(-1) * (own_v - self.z)

    @property
    def gamma(self) -> Float[Tensor, "n h t e e"]:
        """Γ_t = Σ_s a_ts k_sᵀ (v_s − z_t)/√d_head, keys in rows."""
        products = (self.k.unsqueeze(-1) * self.v.unsqueeze(-2)).flatten(-2)
        mixed = (self.a @ products).unflatten(-1, (self.k.shape[-1], -1))
        mean_key = self.a @ self.k
        centred: Tensor = mixed - mean_key.unsqueeze(-1) * self.z.unsqueeze(-2)
        return self.scale * centred


class Attention(Section):
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
    """

    skip: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor

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
    ) -> None:
        super().__init__(*skip.shape)
        self.register_buffer("skip", skip)
        self.register_buffer("query", query)
        self.register_buffer("key", key)
        self.register_buffer("value", value)
        self.register_buffer("output", output)
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
        queries = self._queries(x)
        z = self._attend(x, queries).z.transpose(1, 2).flatten(-2)
        return x[:, queries] @ self.skip + z @ self.output

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
        )

    def jacobian_gram(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "d_in d_in"]:
        """𝓛 (Σ_ts X_ts 𝒬 X_tsᵀ) 𝓛ᵀ with 𝓛 = [I | Q | K | V] and 𝒬 = [S; O][S; O]ᵀ."""
        d, size = self.d_in, self.query.shape[1]
        middle = x.new_zeros(d + 3 * size, d + 3 * size, dtype=torch.float64)
        place = {"x": slice(0, d)}
        place |= {name: slice(d + i * size, d + (i + 1) * size) for i, name in enumerate("qkv")}
        # The largest tensors have one head-sized square, or one row of keys, per pair of heads.
        per_query = self.heads**2 * ((size // self.heads) ** 2 + x.shape[1])
        queries = self._queries(x)
        count = queries.stop - queries.start
        for samples in _slices(len(x), per_query * count, x):
            for chosen in _slices(count, per_query * (samples.stop - samples.start), x):
                here = slice(queries.start + chosen.start, queries.start + chosen.stop)
                for (rows, columns), block in self._gram_blocks(x[samples], here).items():
                    middle[place[rows], place[columns]] += block
                    if rows != columns:
                        middle[place[columns], place[rows]] += block.T
        eye = torch.eye(d, dtype=x.dtype, device=x.device)
        factors = [eye, self.query, self._every_head(self.key), self._every_head(self.value)]
        left = torch.cat(factors, dim=1).double()
        return left @ middle @ left.T

    def _gram_blocks(
        self, x: Float[Tensor, "n s d_in"], queries: slice
    ) -> dict[tuple[str, str], Tensor]:
        """Blocks of Σ_ts X_ts 𝒬 X_tsᵀ: `x` is the residual stream, q, k and v run over heads.

        In the sums g and h are heads, e and f coordinates of g's, r of h's. Sums over keys are
        taken first, so that nothing has the size of queries × keys × d_head.
        """
        p = self._attend(x, queries)
        output = self.output.unflatten(0, (self.heads, -1))
        inner = torch.einsum("geo,hro->gehr", output, output)
        across = torch.einsum("io,hro->ihr", self.skip, output)
        gamma, own, own_w = p.gamma, p.own, p.own_w
        scaled_q = p.scale * p.q
        z = p.z.transpose(1, 2)
        # Products of two heads' patterns, and the values they mix: Σ_s a^g a^h v^g and so on.
        pairs = p.a.unsqueeze(2) * p.a.unsqueeze(1)
        both = pairs.sum(-1).permute(0, 3, 1, 2)
        mixed = (pairs.flatten(2, 3) @ p.v).unflatten(2, (self.heads, -1)).permute(0, 3, 1, 2, 4)
        moved = mixed - both.unsqueeze(-1) * z.unsqueeze(3)
        # Σ_s a^g a^h (v^g − z^g) 𝒬 (v^h − z^h)ᵀ, multiplied out.
        turned = torch.einsum("ngse,gehr->nsghr", p.v, inner)
        metric = torch.einsum("nsghr,nhsr->nghs", turned, p.v)
        curved = torch.einsum("nghts,nghs->ntgh", pairs, metric)
        turned = torch.einsum("ntge,gehr->ntghr", z, inner)
        curved -= torch.einsum("ntghr,nthgr->ntgh", turned, mixed)
        turned = torch.einsum("ntghe,gehr->ntghr", moved, inner)
        curved -= torch.einsum("ntghr,nthr->ntgh", turned, z)
        through = torch.einsum("ngtfe,gehr->ntgfhr", gamma, inner)
        seen = torch.einsum("ntgfhr,nhtr->ntgfh", through, own_w)
        weighted_q = torch.einsum("ntgh,ngte->nghte", curved, scaled_q)
        count = p.q.shape[0] * p.q.shape[2]
        own_q = torch.einsum("nhtr,nhte->hre", own_w, scaled_q)
        blocks = {
            ("x", "x"): count * self.skip @ self.skip.T,
            ("x", "q"): torch.einsum("ihr,hfr->ihf", across, gamma.sum((0, 2))),
            ("x", "k"): torch.einsum("ihr,hre->ihe", across, own_q),
            ("x", "v"): across * own.sum((0, 2)).unsqueeze(-1),
            ("q", "q"): torch.einsum("ntgfhr,nhter->gfhe", through, gamma),
            ("q", "k"): torch.einsum("ntgfh,nhtr->gfhr", seen, scaled_q),
            ("q", "v"): torch.einsum("ntgfhr,nht->gfhr", through, own),
            ("k", "k"): torch.einsum("nghte,nhtr->gehr", weighted_q, scaled_q),
            ("k", "v"): torch.einsum("ngtf,ntghr->gfhr", scaled_q, turned),
            ("v", "v"): inner * both.sum((0, 1)).unsqueeze(1).unsqueeze(-1),
        }
        sizes = {"x": self.d_in} | dict.fromkeys("qkv", self.query.shape[1])
        return {
            (a, b): block.double().reshape(sizes[a], sizes[b]) for (a, b), block in blocks.items()
        }

    def interactions(
        self,
        x: Float[Tensor, "n s d_in"],
        features: Float[Tensor, "n s k"],
        decoder: Float[Tensor, "k d_in"],
        quadrature: Quadrature,
    ) -> Float[Tensor, "d_out k"]:
        """Σ_x Σ_t R_t ∘ R_t, R_t = f_t ∘ Ŝ + Σ_h [f_t ∘ Q̂Γ_t + (a_t f) ∘ V̂ + κ_t ∘ g_t] O.

        Ŝ, Q̂, K̂, V̂ are the factors seen from the features, κ_t = K̂ q_t/√d_h and
        g_t = Σ_s a_ts f_s (v_s − z_t). R_t is linear in the Jacobian, so a quadrature averages it.
        """
        key, value = self._every_head(self.key), self._every_head(self.value)
        q_hat, k_hat, v_hat = (
            (decoder @ factor).unflatten(1, (self.heads, -1)).transpose(0, 1)
            for factor in (self.query, key, value)
        )
        skip = decoder @ self.skip
        total = x.new_zeros(self.d_out, len(decoder), dtype=torch.float64)
        queries = self._queries(x)
        # Keys times values times features, and then the effect on every output.
        per_feature = x.shape[1] * self.query.shape[1] + (queries.stop - queries.start) * self.d_out
        for samples in _slices(len(x), per_feature * len(decoder), x):
            path = [
                (weight, self._attend(point * x[samples], queries))
                for point, weight in zip(quadrature.points, quadrature.weights, strict=True)
            ]
            gammas = [p.gamma for _, p in path]
            size = samples.stop - samples.start
            for chosen in _slices(len(decoder), per_feature * size, x):
                f = features[samples, :, chosen]
                own = f[:, queries]
                through = x.new_zeros(())
                for (weight, p), gamma in zip(path, gammas, strict=True):
                    carried = (f[:, None, :, :, None] * p.v.unsqueeze(3)).flatten(-2)
                    attended = p.a @ f.unsqueeze(1)
                    pulled = (p.a @ carried).unflatten(-1, (f.shape[-1], -1))
                    pulled = pulled - attended.unsqueeze(-1) * p.z.unsqueeze(3)
                    lever = p.scale * p.q @ k_hat[:, chosen].transpose(1, 2)
                    asked = torch.einsum("hke,nhtef->nhtkf", q_hat[:, chosen], gamma)
                    through = through + weight * (
                        own[:, None, :, :, None] * asked
                        + attended.unsqueeze(-1) * v_hat[:, chosen].unsqueeze(1)
                        + lever.unsqueeze(-1) * pulled
                    )
                joined = through.permute(0, 2, 3, 1, 4).flatten(3)
                effect = joined @ self.output + own.unsqueeze(-1) * skip[chosen]
                total[:, chosen] += effect.square().sum((0, 1)).T
        return total

    def _queries(self, x: Float[Tensor, "n s d_in"]) -> slice:
        """The positions that go on."""
        return slice(x.shape[1] - 1 if self.last_only else 0, x.shape[1])

    def _every_head(self, factor: Float[Tensor, "d_in g"]) -> Float[Tensor, "d_in h"]:
        """Keys or values of each head, shared ones repeated."""
        width = self.query.shape[1] // self.heads
        shared = self.query.shape[1] // factor.shape[1]
        heads: Tensor = factor.unflatten(1, (-1, width)).repeat_interleave(shared, dim=1)
        return heads.flatten(1)

    def _attend(self, x: Float[Tensor, "n s d_in"], queries: slice) -> Pattern:
        """Patterns of the queries at these positions."""
        width = self.query.shape[1] // self.heads
        shared = self.query.shape[1] // self.key.shape[1]
        q = (x[:, queries] @ self.query).unflatten(-1, (-1, width)).transpose(1, 2)
        k, v = (
            (x @ factor).unflatten(-1, (-1, width)).transpose(1, 2).repeat_interleave(shared, dim=1)
            for factor in (self.key, self.value)
        )
        scale = width**-0.5
        # With one query the products are sums, which as many tiny matrix products would be slow.
        single = q.shape[2] == 1
        scores = (q * k).sum(-1).unsqueeze(2) if single else q @ k.transpose(-1, -2)
        back = torch.arange(queries.start, queries.stop, device=x.device).unsqueeze(
            1
        ) - torch.arange(x.shape[1], device=x.device)
        hidden = back < 0 if self.causal else torch.zeros_like(back, dtype=torch.bool)
        if self.window is not None:
            hidden = hidden | (back >= self.window)
        a = (scale * scores).masked_fill(hidden, -torch.inf).softmax(-1)
        z = (a.transpose(-1, -2) * v).sum(2, keepdim=True) if single else a @ v
        return Pattern(q, k, v, a, z, queries.start)


def _slices(count: int, elements: int, like: Tensor) -> Iterator[slice]:
    """Slices of `count` things of so many elements each, of about a chunk."""
    size = max(1, CHUNK_BYTES // (elements * like.element_size()))
    return (slice(i, min(i + size, count)) for i in range(0, count, size))
