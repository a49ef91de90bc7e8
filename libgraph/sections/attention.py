"""Multi-head attention with its residual stream, biases folded into the constant coordinate.

y_t = x_t S + Σ_h z_t^h O_h with z_t = Σ_s a_ts v_s, a = softmax(q kᵀ/√d_h), and q = xQ, k = xK,
v = xV. Its Jacobian is made of a few constant factors and of what
attention does at hand (docs/math.md §5):

    J_ts = δ_ts (S + Σ_h Q_h Γ_t^h O_h) + Σ_h (a_ts V_h + K_h q_tᵀ w_ts/√d_h) O_h,
    w_ts = a_ts (v_s − z_t),  Γ_t = Σ_s k_sᵀ w_ts/√d_h,

so that sums of its products need head-sized blocks, never a Jacobian.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.quadrature import Quadrature
from libgraph.sections.section import LinearMap, Section

CHUNK_BYTES = 64 * 2**20


class Pattern(NamedTuple):
    """What attention computes on a batch; n samples, h heads, t queries, s keys, e = d_head."""

    q: Float[Tensor, "n h t e"]
    k: Float[Tensor, "n h s e"]
    v: Float[Tensor, "n h s e"]
    a: Float[Tensor, "n h t s"]
    z: Float[Tensor, "n h t e"]

    @property
    def scale(self) -> float:
        """1/√d_head."""
        return float(self.q.shape[-1] ** -0.5)

    @property
    def own(self) -> Float[Tensor, "n h t"]:
        """a_tt, the weight of each query's own position; queries are at the last positions."""
        return self.a.diagonal(self.a.shape[-1] - self.a.shape[-2], -2, -1)

    @property
    def gamma(self) -> Float[Tensor, "n h t e e"]:
        """Γ_t = Σ_s a_ts k_sᵀ (v_s − z_t)/√d_head, keys in rows."""
        products = torch.einsum("nhts,nhse,nhsf->nhtef", self.a, self.k, self.v)
        mean_key = torch.einsum("nhts,nhse->nhte", self.a, self.k)
        return self.scale * (products - mean_key.unsqueeze(-1) * self.z.unsqueeze(-2))


class Attention(Section):
    """y_t = x_t S + Σ_h Σ_s a^h_ts x_s V_h O_h.

    Args:
        skip: S `(d_in, d_out)`; its last row holds the output bias.
        query: Q `(d_in, heads·d_head)`, heads side by side; last row the bias, as for K and V.
        key: K `(d_in, heads·d_head)`.
        value: V `(d_in, heads·d_head)`.
        output: O `(heads·d_head, d_out)`.
        heads: number of heads.
        causal: whether a position sees itself and earlier ones only.
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
        key: Float[Tensor, "d_in h"],
        value: Float[Tensor, "d_in h"],
        output: Float[Tensor, "h d_out"],
        *,
        heads: int,
        causal: bool = True,
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
        self.last_only = last_only

    def extra_repr(self) -> str:
        """Heads and mask."""
        return f"heads={self.heads}, causal={self.causal}, last_only={self.last_only}"

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t d_out"]:
        """Attend; queries are computed only for the positions that go on."""
        z = self._attend(x).z.transpose(1, 2).flatten(-2)
        return self._queries(x) @ self.skip + z @ self.output

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
            last_only=self.last_only,
        )

    def jacobian_gram(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "d_in d_in"]:
        """𝓛 (Σ_ts X_ts 𝒬 X_tsᵀ) 𝓛ᵀ with 𝓛 = [I | Q | K | V] and 𝒬 = [S; O][S; O]ᵀ."""
        d, size = self.d_in, self.query.shape[1]
        middle = x.new_zeros(d + 3 * size, d + 3 * size, dtype=torch.float64)
        place = {"x": slice(0, d)}
        place |= {name: slice(d + i * size, d + (i + 1) * size) for i, name in enumerate("qkv")}
        heads, width = self.heads, size // self.heads
        positions = 1 if self.last_only else x.shape[1]
        per_sample = positions * heads * heads * (width * width + x.shape[1])
        for part in x.split(max(1, CHUNK_BYTES // (per_sample * x.element_size()))):
            for (rows, columns), block in self._gram_blocks(part).items():
                middle[place[rows], place[columns]] += block
                if rows != columns:
                    middle[place[columns], place[rows]] += block.T
        eye = torch.eye(d, dtype=x.dtype, device=x.device)
        left = torch.cat([eye, self.query, self.key, self.value], dim=1).double()
        return left @ middle @ left.T

    def _gram_blocks(self, x: Float[Tensor, "n s d_in"]) -> dict[tuple[str, str], Tensor]:
        """Blocks of Σ_ts X_ts 𝒬 X_tsᵀ: `x` is the residual stream, q, k and v run over heads.

        In the sums g and h are heads, e and f coordinates of g's, r of h's.
        """
        p = self._attend(x)
        output = self.output.unflatten(0, (self.heads, -1))
        inner = torch.einsum("geo,hro->gehr", output, output)
        across = torch.einsum("io,hro->ihr", self.skip, output)
        gamma, own = p.gamma, p.own
        scaled_q = p.scale * p.q
        w_own = own.unsqueeze(-1) * (p.v[:, :, -p.q.shape[2] :] - p.z)
        both = torch.einsum("ngts,nhts->ntgh", p.a, p.a)
        mixed = torch.einsum("ngts,nhts,ngse->ntghe", p.a, p.a, p.v)
        moved = mixed - both.unsqueeze(-1) * p.z.permute(0, 2, 1, 3).unsqueeze(3)
        # Σ_s a^g a^h (v^g − z^g) 𝒬 (v^h − z^h)ᵀ, with the sum over s taken before the product.
        metric = torch.einsum("ngse,gehr,nhsr->nsgh", p.v, inner, p.v)
        curved = torch.einsum("ngts,nhts,nsgh->ntgh", p.a, p.a, metric)
        curved -= torch.einsum("ngte,gehr,nthgr->ntgh", p.z, inner, mixed)
        curved -= torch.einsum("ntghe,gehr,nhtr->ntgh", moved, inner, p.z)
        through = torch.einsum("ngtfe,gehr->ntgfhr", gamma, inner)
        seen = torch.einsum("ntgfhr,nhtr->ntgfh", through, w_own)
        count = p.q.shape[0] * p.q.shape[2]
        blocks = {
            ("x", "x"): count * self.skip @ self.skip.T,
            ("x", "q"): torch.einsum("ihr,hfr->ihf", across, gamma.sum((0, 2))),
            ("x", "k"): torch.einsum(
                "ihr,hre->ihe", across, torch.einsum("nhtr,nhte->hre", w_own, scaled_q)
            ),
            ("x", "v"): across * own.sum((0, 2)).unsqueeze(-1),
            ("q", "q"): torch.einsum("ntgfhr,nhter->gfhe", through, gamma),
            ("q", "k"): torch.einsum("ntgfh,nhtr->gfhr", seen, scaled_q),
            ("q", "v"): torch.einsum("ntgfhr,nht->gfhr", through, own),
            ("k", "k"): torch.einsum("ntgh,ngte,nhtr->gehr", curved, scaled_q, scaled_q),
            ("k", "v"): torch.einsum("ngtf,ntghe,gehr->gfhr", scaled_q, moved, inner),
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
        seen = [decoder @ factor for factor in (self.query, self.key, self.value)]
        q_hat, k_hat, v_hat = (factor.unflatten(1, (self.heads, -1)) for factor in seen)
        skip = decoder @ self.skip
        total = x.new_zeros(self.d_out, len(decoder), dtype=torch.float64)
        positions = 1 if self.last_only else x.shape[1]
        per_sample = positions * len(decoder) * max(self.query.shape[1], self.d_out)
        samples = max(1, CHUNK_BYTES // (per_sample * x.element_size()))
        for part, f in zip(x.split(samples), features.split(samples), strict=True):
            own = f[:, -positions:]
            through = x.new_zeros(())
            for point, weight in zip(quadrature.points, quadrature.weights, strict=True):
                p = self._attend(point * part)
                attended = torch.einsum("nhts,nsk->nthk", p.a, f)
                lever = torch.einsum("khe,nhte->nthk", k_hat, p.scale * p.q)
                pulled = torch.einsum("nhts,nsk,nhse->nthke", p.a, f, p.v)
                pulled -= attended.unsqueeze(-1) * p.z.transpose(1, 2).unsqueeze(3)
                asked = torch.einsum("khe,nhtef->nthkf", q_hat, p.gamma)
                through = through + weight * (
                    own[:, :, None, :, None] * asked
                    + attended.unsqueeze(-1) * v_hat.transpose(0, 1)
                    + lever.unsqueeze(-1) * pulled
                )
            effect = through.transpose(2, 3).flatten(3) @ self.output + own.unsqueeze(-1) * skip
            total += effect.square().sum((0, 1)).T
        return total

    def _queries(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t d_in"]:
        return x[:, -1:] if self.last_only else x

    def _attend(self, x: Float[Tensor, "n s d_in"]) -> Pattern:
        q, k, v = (
            (y @ factor).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y, factor in ((self._queries(x), self.query), (x, self.key), (x, self.value))
        )
        scale = q.shape[-1] ** -0.5
        # With one query the products are sums; as many tiny matrix products they take 10 × longer.
        single = q.shape[2] == 1
        scores = (q * k).sum(-1).unsqueeze(2) if single else q @ k.transpose(-1, -2)
        scores = scale * scores
        if self.causal and not self.last_only:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        a = scores.softmax(-1)
        z = (a.transpose(-1, -2) * v).sum(2, keepdim=True) if single else a @ v
        return Pattern(q, k, v, a, z)
