"""Effects of attention summed over output positions under signs, for estimates of interactions.

Features change scores by c_ts = (f_t ∘ Q̂ · k_s + f_s ∘ K̂ · q_t)/√d_h, what t gives to s by
a_ts (c_ts − Σ_s' a_ts' c_ts'), and values by f_s ∘ V̂ (docs/math.md §5). Under signs φ_t

    Σ_t φ_t R_t = (Σ_t φ_t f_t) ∘ Ŝ + Σ_h [Σ_s b_s f_s ∘ V̂ + Σ_s m_s v_s − Σ_t φ_t m̄_t z_t] O_h,
    b_s = Σ_t φ_t a_ts,  m_s = Σ_t φ_t a_ts c_ts,  m̄_t = Σ_s a_ts c_ts,

so that d_head numbers a head go on for every feature, not d_head for every feature and position.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.sections.attention.heads import Heads, Projections
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import Effects, Seen

Scores = tuple[Float[Tensor, "n h k r s"], Float[Tensor, "n h k t"]]
"""m and m̄."""


def effects_under_signs(
    section: Heads,
    x: Float[Tensor, "n s d_in"],
    quadrature: Quadrature,
    signs: Float[Tensor, "r n t"],
) -> Effects:
    """Σ_t φ_rt R_t; linear in the Jacobian, so a quadrature averages it."""
    queries = section.queries(x)
    phi = signs.transpose(0, 1).unsqueeze(1)
    path = []
    for point, weight in zip(quadrature.points, quadrature.weights, strict=True):
        p = section.project(point * x)
        a, z, steep = section.attend(p, queries)
        signed_z = (phi.transpose(-1, -2).unsqueeze(-1) * z.unsqueeze(3)).flatten(3)
        path.append((weight, p, steep, signed_z, phi @ a))

    def effects(features: Tensor, seen: Seen) -> Tensor:
        skip, *factors = seen
        q_hat, k_hat, v_hat = (factor.transpose(0, 1) for factor in factors)
        f = section.after_prefix(features).transpose(1, 2).unsqueeze(1)
        signed = phi.unsqueeze(2) * f[..., queries].unsqueeze(3)
        through = x.new_zeros(())
        for weight, p, a, signed_z, signed_a in path:
            if section.rotary is None:
                by_key, by_query = _scores(p, a, queries, phi, f, signed, q_hat, k_hat)
            else:
                by_key, by_query = _turned_scores(section, p, a, queries, phi, f, q_hat, k_hat)
            attended = (f @ signed_a.transpose(-1, -2)).unsqueeze(-1)
            pulled = (by_key.flatten(2, 3) @ p.v).unflatten(2, by_key.shape[2:4])
            pulled = pulled - (by_query @ signed_z).unflatten(-1, pulled.shape[3:])
            through = through + weight * (pulled + attended * v_hat.unsqueeze(2))
        joined = through.permute(0, 2, 3, 1, 4).flatten(3)
        written: Tensor = joined @ section.output
        return written + signed.squeeze(1).sum(-1, keepdim=True) * skip.unsqueeze(1)

    return effects


def elements_under_signs(section: Heads, positions: int, draws: int) -> int:
    """Size of the largest intermediate result for one sample and one feature."""
    by_key = section.heads * positions
    scores = 0 if section.rotary is None else by_key * positions
    return max(scores, draws * max(by_key, max(section.output.shape)))


def _scores(
    p: Projections,
    a: Float[Tensor, "n h t s"],
    queries: slice,
    phi: Float[Tensor, "n 1 r t"],
    f: Float[Tensor, "n 1 k s"],
    signed: Float[Tensor, "n 1 k r t"],
    q_hat: Float[Tensor, "h k e"],
    k_hat: Float[Tensor, "h k e"],
) -> Scores:
    """Where no position turns: sums over queries and keys come before products with features."""
    q = p.q[:, :, queries]
    asked = p.plain_q.shape[-1] ** -0.5 * (q_hat @ p.k.transpose(-1, -2))
    lever = k_hat @ q.transpose(-1, -2)
    # Σ_t φ_t a_ts q_t, all draws and keys beside each other.
    queried = (phi.unsqueeze(2) * q.transpose(-1, -2).unsqueeze(3)).flatten(2, 3) @ a
    queried = queried.unflatten(2, (q.shape[-1], -1)).flatten(3)
    by_key = (signed.flatten(2, 3) @ a).unflatten(2, signed.shape[2:4]) * asked.unsqueeze(3)
    by_key = by_key + (k_hat @ queried).unflatten(-1, (-1, a.shape[-1])) * f.unsqueeze(3)
    by_query = f[..., queries] * (asked @ a.transpose(-1, -2)) + lever * (f @ a.transpose(-1, -2))
    return by_key, by_query


def _turned_scores(
    section: Heads,
    p: Projections,
    a: Float[Tensor, "n h t s"],
    queries: slice,
    phi: Float[Tensor, "n 1 r t"],
    f: Float[Tensor, "n 1 k s"],
    q_hat: Float[Tensor, "h k e"],
    k_hat: Float[Tensor, "h k e"],
) -> Scores:
    """Where queries and keys turn every feature has a score of its own for every query and key."""
    positions = torch.arange(f.shape[-1], device=f.device)
    q_hat = section.turn(p.plain_q.shape[-1] ** -0.5 * q_hat.unsqueeze(2), positions[queries])
    k_hat = section.turn(k_hat.unsqueeze(2), positions)
    asked = torch.einsum("hkte,nhse->nhkts", q_hat, p.k)
    lever = torch.einsum("hkse,nhte->nhkts", k_hat, p.q[:, :, queries])
    scores = f[..., queries].unsqueeze(-1) * asked + f.unsqueeze(3) * lever
    scores = a.unsqueeze(2) * scores
    return phi.unsqueeze(2) @ scores, scores.sum(-1)
