"""What heads compute for a batch: queries, keys and values, and where attention goes."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Projections(NamedTuple):
    """Queries, keys and values of every head: n samples, h heads, s positions, e = d_head.

    Args:
        plain_q: queries as they are read.
        q: queries as they are compared: divided by √d_head, and rotated where positions rotate.
        k: keys as they are compared.
        v: values.
    """

    plain_q: Float[Tensor, "n h s e"]
    q: Float[Tensor, "n h s e"]
    k: Float[Tensor, "n h s e"]
    v: Float[Tensor, "n h s e"]


class Pattern(NamedTuple):
    """What attention computes for some of the queries, t of them.

    Args:
        a: the pattern, what share of its attention each query gives to each position.
        z: the mean of the values under it.
        own: a_tt.
        own_w: w_tt = a_tt (v_t − z_t).
        gamma: Γ_t, coordinates of the plain queries first.
    """

    a: Float[Tensor, "n h t s"]
    z: Float[Tensor, "n h t e"]
    own: Float[Tensor, "n h t"]
    own_w: Float[Tensor, "n h t e"]
    gamma: Float[Tensor, "n h e t e"]
