"""What heads compute for a batch: queries, keys and values, and where attention goes.

Attention has the constant factors S, Q, K, V and O. `Heads` holds them and does what its closed
forms need of a batch; sums over Jacobians (`gram`) and effects under signs (`signs`) read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from libgraph.sections.carrying import Carrier, is_constant
from libgraph.sections.chunks import chunks
from libgraph.sections.closed_form import SignedForm
from libgraph.sections.holding import Attending


@dataclass(frozen=True)
class AttentionMask:
    """Which positions go on, and which ones each of them sees.

    Args:
        causal: whether a position sees itself and earlier ones only.
        window: how many positions, itself included, a position sees back; None for all.
        last_only: whether only the last position goes on (y then has one position).
    """

    causal: bool = True
    window: int | None = None
    last_only: bool = False

    def hidden(self, back: Int[Tensor, "t s"]) -> Bool[Tensor, "t s"]:
        """Whether a query sees nothing of a key that lies so many positions back."""
        hidden = back < 0 if self.causal else torch.zeros_like(back, dtype=torch.bool)
        if self.window is not None:
            hidden = hidden | (back >= self.window)
        return hidden


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
        steep: a_ts times the slope of the soft cap there: a itself where there is none.
        own: a_tt.
        own_w: w_tt = steep_tt (v_t − z_t).
        gamma: Γ_t, coordinates of the plain queries first.
    """

    a: Float[Tensor, "n h t s"]
    z: Float[Tensor, "n h t e"]
    steep: Float[Tensor, "n h t s"]
    own: Float[Tensor, "n h t"]
    own_w: Float[Tensor, "n h t e"]
    gamma: Float[Tensor, "n h e t e"]


class Heads(SignedForm, Attending):
    """The factors of an attention section, and what its heads do with activations.

    `Attention` says what the arguments are, and what the section makes of the heads.
    """

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
        mask: AttentionMask | None = None,
        rotary: Float[Tensor, " planes"] | None = None,
        soft_cap: float | None = None,
    ) -> None:
        super().__init__(*skip.shape)
        self.register_buffer("skip", skip)
        self.carry = Carrier()
        self.register_buffer("query", query)
        self.register_buffer("key", key)
        self.register_buffer("value", value)
        self.register_buffer("output", output)
        self.register_buffer("rotary", rotary)
        self.register_buffer("prefix_key", None)
        self.register_buffer("prefix_value", None)
        self.heads = heads
        self.mask = AttentionMask() if mask is None else mask
        self.soft_cap = soft_cap

    def extra_repr(self) -> str:
        """Heads, mask and, where there is one, the soft cap."""
        mask = self.mask
        sight = f"causal={mask.causal}, window={mask.window}, last_only={mask.last_only}"
        cap = "" if self.soft_cap is None else f", soft_cap={self.soft_cap}"
        return f"heads={self.heads}, {sight}{cap}"

    @property
    def key_and_value(self) -> tuple[Float[Tensor, "d_in h"], Float[Tensor, "d_in h"]]:
        """K and V of each head, shared ones repeated."""
        return self._every_head(self.key), self._every_head(self.value)

    @property
    def before(self) -> int:
        """Number of positions before the first."""
        return 0 if self.prefix_key is None else len(self.prefix_key)

    def after_prefix(self, features: Float[Tensor, "n s k"]) -> Float[Tensor, "n p_s k"]:
        """Features with those before the first position, which are none."""
        return pad(features, (0, 0, self.before, 0))

    def queries(self, x: Float[Tensor, "n s d_in"]) -> slice:
        """The positions that go on, counted from the beginning of the prefix."""
        stop = self.before + x.shape[1]
        return slice(stop - 1 if self.mask.last_only else self.before, stop)

    def turn(self, e: Float[Tensor, "... s e"], positions: Tensor) -> Float[Tensor, "... s e"]:
        """Turn vectors by the angles that belong to these positions; negative ones turn back."""
        if self.rotary is None:
            return e
        angles = positions.to(self.rotary).unsqueeze(-1) * self.rotary
        planes = torch.view_as_complex(e.unflatten(-1, (-1, 2)).contiguous())
        # To turn a plane is to multiply by a number: one pass, where its parts would take seven.
        turned = planes * torch.polar(torch.ones_like(angles), angles)
        return torch.view_as_real(turned).flatten(-2)

    def project(self, x: Float[Tensor, "n s d_in"]) -> Projections:
        """Queries, keys and values of all positions, those of the prefix first (queries 0)."""
        return self.by_head(*(self.product(x, name) for name in ("query", "key", "value")))

    def by_head(
        self,
        q: Float[Tensor, "n s h"],
        k: Float[Tensor, "n s g"],
        v: Float[Tensor, "n s g"],
    ) -> Projections:
        """The same from products with Q, K and V."""
        width = self.query.shape[1] // self.heads
        shared = self.query.shape[1] // self.key.shape[1]
        positions = torch.arange(self.before + q.shape[1], device=q.device)
        if self.prefix_key is not None and self.prefix_value is not None:
            q = self.after_prefix(q)
            k = torch.cat([self.prefix_key.expand(len(k), -1, -1), k], dim=1)
            v = torch.cat([self.prefix_value.expand(len(v), -1, -1), v], dim=1)
        q, k, v = (vectors.unflatten(-1, (-1, width)).transpose(1, 2) for vectors in (q, k, v))
        if shared > 1:
            k, v = (vectors.repeat_interleave(shared, dim=1) for vectors in (k, v))
        plain_q = width**-0.5 * q
        return Projections(plain_q, self.turn(plain_q, positions), self.turn(k, positions), v)

    def attend(
        self, p: Projections, queries: slice
    ) -> tuple[Float[Tensor, "n h t s"], Float[Tensor, "n h t e"], Float[Tensor, "n h t s"]]:
        """a, z and a times the slope of the soft cap, of the queries at these positions."""
        q = p.q[:, :, queries]
        # With one query the products are sums, which as many tiny matrix products would be slow.
        single = q.shape[2] == 1
        scores = (q * p.k).sum(-1).unsqueeze(2) if single else q @ p.k.transpose(-1, -2)
        slope: Tensor | None = None
        if self.soft_cap is not None:
            bent = (scores / self.soft_cap).tanh()
            scores, slope = self.soft_cap * bent, 1 - bent.square()
        here = torch.arange(queries.start, queries.stop, device=q.device)
        back = here.unsqueeze(1) - torch.arange(p.k.shape[2], device=q.device)
        a = self.as_held(scores.masked_fill(self.mask.hidden(back), -torch.inf).softmax(-1))
        z = (a.transpose(-1, -2) * p.v).sum(2, keepdim=True) if single else a @ p.v
        return a, z, a if slope is None else a * slope

    def attended(self, p: Projections, queries: slice) -> Float[Tensor, "n h t e"]:
        """z alone; where it can be done, without having all patterns in memory."""
        mask, compared = self.mask, (p.q, p.k, p.v)
        if (
            self.soft_cap is not None
            or mask.window is not None
            or mask.last_only
            or self.before
            # Derivatives of any kind are taken of the formula.
            or not all(
                vectors.device.type == "cpu" and is_constant(vectors) for vectors in compared
            )
        ):
            return self.attend(p, queries)[1]
        return scaled_dot_product_attention(*compared, is_causal=mask.causal, scale=1.0)

    def pattern(self, p: Projections, queries: slice) -> Pattern:
        """Patterns and what the Jacobian needs of them, for the queries at these positions."""
        a, z, steep = self.attend(p, queries)
        own, own_steep = (rows.diagonal(queries.start, -2, -1) for rows in (a, steep))
        own_w = own_steep.unsqueeze(-1) * (p.v[:, :, queries] - z)
        return Pattern(a, z, steep, own, own_w, self._gamma(p, steep, z, queries))

    def _gamma(
        self, p: Projections, a: Tensor, z: Tensor, queries: slice
    ) -> Float[Tensor, "n h e t e"]:
        """Γ_t = Σ_s a_ts k_sᵀ (v_s − z_t)/√d_head, turned back to the plain query's place.

        Under a soft cap a is what is steep.
        """
        width = p.k.shape[-1]
        # Some coordinates of the keys at a time, weighed by queries or multiplied by values,
        # whichever are fewer: queries × keys × d_head or keys × d_head² would be all of them.
        few_queries = a.shape[-2] <= width
        elements = a.numel() if few_queries else p.v.numel()
        make = self._weighed_keys if few_queries else self._keys_by_values
        parts = [make(p.k[..., part], p.v, a, z) for part in chunks(width, elements, a)]
        gamma: Tensor = torch.cat(parts, dim=2).mul_(width**-0.5)
        if self.rotary is None:
            return gamma
        back = -torch.arange(queries.start, queries.stop, device=a.device)
        return self.turn(gamma.movedim(2, -1), back.unsqueeze(-1)).movedim(-1, 2)

    @staticmethod
    def _weighed_keys(k: Tensor, v: Tensor, a: Tensor, z: Tensor) -> Float[Tensor, "n h f t e"]:
        """Σ_s (a_ts k_s) v_s − Σ_s (a_ts k_s) z_t of some coordinates of the keys."""
        keyed = a.unsqueeze(2) * k.transpose(-1, -2).contiguous().unsqueeze(3)
        mixed: Tensor = (keyed.flatten(2, 3) @ v).unflatten(2, keyed.shape[2:4])
        return mixed.addcmul_(keyed.sum(-1, keepdim=True), z.unsqueeze(2), value=-1)

    @staticmethod
    def _keys_by_values(k: Tensor, v: Tensor, a: Tensor, z: Tensor) -> Float[Tensor, "n h f t e"]:
        """Σ_s a_ts (k_s v_s) − (Σ_s a_ts k_s) z_t of some coordinates of the keys."""
        pairs = (k.unsqueeze(-1) * v.unsqueeze(-2)).flatten(-2)
        mixed: Tensor = (a @ pairs).unflatten(-1, (k.shape[-1], -1))
        mixed.addcmul_((a @ k).unsqueeze(-1), z.unsqueeze(-2), value=-1)
        return mixed.transpose(2, 3)

    def _every_head(self, factor: Float[Tensor, "d_in g"]) -> Float[Tensor, "d_in h"]:
        """Keys or values of each head, shared ones repeated."""
        width = self.query.shape[1] // self.heads
        shared = self.query.shape[1] // factor.shape[1]
        if shared == 1:
            return factor
        heads: Tensor = factor.unflatten(1, (-1, width)).repeat_interleave(shared, dim=1)
        return heads.flatten(1)
