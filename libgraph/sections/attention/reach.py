"""Where a change at one position goes through attention: along values, and by moving the pattern.

A step u of the activation at position s alone changes what head h gives to query t by

    values   a_ts u V,    pattern   steep_ts (q_t · u K)(v_s − z_t)/√d_h + δ_ts u Q Γ_t,

(docs/math.md §5), so that many steps at once cost their own projections and no pass over positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from libgraph.sections.attention.heads import Heads
from libgraph.sections.quadrature import Quadrature

if TYPE_CHECKING:
    from libgraph.sections.section import Reach


def reach_of_heads(
    section: Heads,
    start: Float[Tensor, "1 s d_in"],
    x: Float[Tensor, "1 s d_in"],
    quadrature: Quadrature,
) -> Reach:
    """The two parts of what steps at single positions do, averaged along the path; see `Reach`.

    The residual stream counts as values.
    """
    queries = section.queries(x)
    path = []
    for point, weight in zip(quadrature.points, quadrature.weights, strict=True):
        projections = section.project(start + point * (x - start))
        path.append((weight, projections, section.pattern(projections, queries)))
    share = torch.stack([weight * at.a[0] for weight, _, at in path]).sum(0)
    gamma = torch.stack([weight * at.gamma[0] for weight, _, at in path]).sum(0)
    factors = (section.query, *section.key_and_value)

    def reach(
        positions: Int[Tensor, " m"], steps: Float[Tensor, "m d_in"]
    ) -> tuple[Float[Tensor, "m t d_out"], Float[Tensor, "m t d_out"]]:
        where = positions + section.before
        query, key, value = ((steps @ f).unflatten(1, (section.heads, -1)) for f in factors)
        key = section.turn(key.transpose(0, 1), where).transpose(0, 1)
        values = share[:, :, where].permute(2, 0, 1).unsqueeze(3) * value.unsqueeze(2)
        moved = torch.zeros_like(values)
        for weight, p, at in path:
            lever = torch.einsum("mhe,hte->mht", key, p.q[0][:, queries])
            steep = weight * at.steep[0][:, :, where].permute(2, 0, 1) * lever
            apart = p.v[0][:, where].transpose(0, 1).unsqueeze(2) - at.z[0]
            moved += steep.unsqueeze(3) * apart
        own = where - queries.start
        asked = (own >= 0).nonzero()[:, 0]
        here = own[asked]
        moved[asked, :, here] += torch.einsum(
            "mhe,mhef->mhf", query[asked], gamma[:, :, here].permute(2, 0, 1, 3)
        )
        through, pattern = (
            part.transpose(1, 2).flatten(2) @ section.output for part in (values, moved)
        )
        through[asked, here] += steps[asked] @ section.skip
        return through, pattern

    return reach
