"""What heads make of a few inputs, under many masks at a time: what edge ablation asks for.

Of k inputs the scores of a head are f_t (Q_h K_hᵀ/√d_head) f_sᵀ, and what it adds to m outputs is
a_ts f_s (V_h O_h): with few inputs and few outputs these products of factors are made first, and
queries, keys and values of the activations never.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.sections.attention.heads import AttentionMask, Heads
from libgraph.sections.kept_inputs import KeptInputs

BLOCK = 32
"""Queries at a time where none sees what is behind it: keys that none of them sees are left out."""


def attend_to_kept(section: Heads, kept: KeptInputs) -> Float[Tensor, "p n t m"]:
    """What heads add to the outputs `kept.columns`, from the inputs `kept.x` alone."""
    if section.mask.last_only and section.rotary is None and not section.before:
        return _last_to_kept(section, kept)
    x = kept.x.contiguous()
    positions = x.shape[2]
    first = positions - 1 if section.mask.last_only else 0
    asked, keys = _compared(section, x, kept, first)
    values, output = _values(section, x, kept)
    in_blocks = section.mask.causal and positions >= 2 * BLOCK and not first
    blocks = []
    for start in range(first, positions, BLOCK if in_blocks else positions):
        stop = min(start + BLOCK, positions) if in_blocks else positions
        seen = section.before + stop
        rows = asked[..., start - first : stop - first, :]
        scores = capped(section, _products(rows, keys[..., :seen, :]))
        hide(scores, section, slice(start, stop))
        blocks.append(scores.softmax(-1) @ values[..., :seen, :])
    z = torch.cat(blocks, dim=3)
    if output is None:
        return z.sum(2)
    return z.transpose(2, 3).flatten(3) @ output.flatten(2).mT.unsqueeze(1)


def elements_under_mask(section: Heads, positions: int, inputs: int) -> int:
    """Numbers in the largest intermediate result of `attend_to_kept`, for one sample and mask."""
    keys = positions + section.before
    if section.mask.last_only:
        return section.heads * keys * inputs
    queries = BLOCK if section.mask.causal and positions >= 2 * BLOCK else positions
    width = section.query.shape[1] // section.heads
    wide = inputs if _lever_pays(section, inputs, positions) else width
    return section.heads * max(queries * keys, keys * wide)


def _last_to_kept(section: Heads, kept: KeptInputs) -> Float[Tensor, "p n 1 m"]:
    """The same where only the last position goes on, samples side by side.

    Products with one query each are sums: over whole batches they are fast, one by one not.
    """
    x = kept.x.permute(0, 3, 2, 1).contiguous()
    query, key, value = (
        _factor(section, name, kept).permute(0, 2, 3, 1) for name in ("query", "key", "value")
    )
    if _lever_pays(section, x.shape[1], x.shape[2]):
        asked, keys = _of_heads(key.mT @ query, x[:, :, -1:]), x.unsqueeze(1)
    else:
        asked, keys = _of_heads(query, x[:, :, -1:]), _of_heads(key, x)
    scores = capped(section, (asked * keys).sum(2))
    hide(scores.mT, section, slice(x.shape[2] - 1, x.shape[2]))
    values = _of_heads(_output(section, kept).transpose(1, 2) @ value, x)
    return (scores.softmax(2).unsqueeze(2) * values).sum((1, 3)).mT.unsqueeze(2)


def _of_heads(
    factor: Float[Tensor, "p h e k"], x: Float[Tensor, "p k s n"]
) -> Float[Tensor, "p h e s n"]:
    """Every head's factor times every position."""
    product = factor.flatten(1, 2) @ x.flatten(2)
    by_head: Tensor = product.unflatten(2, x.shape[2:]).unflatten(1, factor.shape[1:3])
    return by_head


def _compared(
    section: Heads, x: Float[Tensor, "p n s k"], kept: KeptInputs, first: int
) -> tuple[Float[Tensor, "p n h t l"], Float[Tensor, "p n h_or_1 u l"]]:
    """What has q kᵀ/√d_head as products, of queries from the first on, keys of the prefix first."""
    query, key = _factor(section, "query", kept), _factor(section, "key", kept)
    own = x[:, :, first:]
    if section.rotary is None and not section.before and _lever_pays(section, *x.shape[:1:-1]):
        return _by_head(own, torch.einsum("pkhe,plhe->pkhl", query, key)), x.unsqueeze(2)
    positions = torch.arange(section.before + x.shape[2], device=x.device)
    q = section.turn(_by_head(own, query), positions[section.before + first :])
    k = _with_prefix(section, "key", _by_head(x, key))
    return q, section.turn(k, positions)


def _products(
    asked: Float[Tensor, "p n h t l"], keys: Float[Tensor, "p n h_or_1 u l"]
) -> Float[Tensor, "p n h t u"]:
    """Every query times every key, of its head or of all."""
    if keys.shape[2] == asked.shape[2]:
        of_each: Tensor = asked @ keys.mT
        return of_each
    of_all = asked.flatten(2, 3) @ keys.squeeze(2).mT
    products: Tensor = of_all.unflatten(2, asked.shape[2:4])
    return products


def _values(
    section: Heads, x: Float[Tensor, "p n s k"], kept: KeptInputs
) -> tuple[Float[Tensor, "p n h u m_or_e"], Float[Tensor, "p m h e"] | None]:
    """What patterns weigh: what values add to outputs, or values and O where outputs are many."""
    value, output = _factor(section, "value", kept), _output(section, kept)
    if output.shape[1] > output.shape[-1]:
        return _with_prefix(section, "value", _by_head(x, value)), output
    added = _by_head(x, torch.einsum("pkhe,pmhe->pkhm", value, output))
    if section.prefix_value is None:
        return added, None
    before = torch.einsum("she,pmhe->phsm", _prefix(section, "value"), output).unsqueeze(1)
    return torch.cat([before.expand(-1, added.shape[1], -1, -1, -1), added], dim=3), None


def _lever_pays(section: Heads, inputs: int, positions: int) -> bool:
    """Whether Q_h K_hᵀ first takes fewer multiplications than queries and keys."""
    width = section.query.shape[1] // section.heads
    queries = 1 if section.mask.last_only else positions
    with_lever = queries * inputs * (inputs + positions)
    return with_lever <= width * (inputs * (queries + positions) + queries * positions)


def _by_head(
    x: Float[Tensor, "p n s k"], factor: Float[Tensor, "p k h e"]
) -> Float[Tensor, "p n h s e"]:
    """Every position times every head's factor."""
    product = x.flatten(1, 2) @ factor.flatten(2)
    by_position: Tensor = product.unflatten(2, factor.shape[2:]).unflatten(1, x.shape[1:3])
    return by_position.transpose(2, 3).contiguous()


def _with_prefix(
    section: Heads, name: str, vectors: Float[Tensor, "p n h s e"]
) -> Float[Tensor, "p n h u e"]:
    """Keys or values, those of the positions before the first in front."""
    if not section.before:
        return vectors
    before = _prefix(section, name).transpose(0, 1).expand(*vectors.shape[:2], -1, -1, -1)
    return torch.cat([before, vectors], dim=3)


def capped(section: Heads, scores: Tensor) -> Tensor:
    """Scores under the soft cap, if there is one."""
    cap = section.soft_cap
    return scores if cap is None else cap * (scores / cap).tanh()


def hide(scores: Float[Tensor, "*p t u"], section: Heads, queries: slice) -> None:
    """Let these queries see no key that is hidden from them: −∞ in place of its score."""
    positions = scores.shape[-1] - section.before
    places = queries.start, queries.stop, positions, section.before
    first, added = _hiding(section.mask, *places, scores.dtype, scores.device)
    if added.shape[1]:
        # Far faster than filling under a mask.
        scores[..., first:] += added


@lru_cache(maxsize=64)
def _hiding(
    mask: AttentionMask,
    start: int,
    stop: int,
    positions: int,
    before: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[int, Float[Tensor, "t u"]]:
    """−∞ where a key is hidden and 0 elsewhere, from the first key on that is hidden from any."""
    places = torch.arange(before + positions, device=device)
    hidden = mask.hidden(places[before:][start:stop].unsqueeze(1) - places)
    columns = hidden.any(0).nonzero()
    first = int(columns[0]) if len(columns) else before + positions
    added = torch.zeros(hidden.shape, dtype=dtype, device=device)
    # A copy, so that what is kept holds no columns of zeros.
    return first, added.masked_fill_(hidden, -torch.inf)[:, first:].clone()


def _factor(section: Heads, name: str, kept: KeptInputs) -> Float[Tensor, "p k h e"]:
    """What is kept of Q/√d_head, K or V, of every head."""
    key, value = section.key_and_value
    factor = {"query": section.query, "key": key, "value": value}[name]
    by_head: Tensor = factor[kept.rows].unflatten(-1, (section.heads, -1))
    return by_head * by_head.shape[-1] ** -0.5 if name == "query" else by_head


def _output(section: Heads, kept: KeptInputs) -> Float[Tensor, "p m h e"]:
    """What is asked for of O, of every head."""
    by_head: Tensor = section.output.T[kept.columns].unflatten(-1, (section.heads, -1))
    return by_head


def _prefix(section: Heads, name: str) -> Float[Tensor, "s h e"]:
    """Keys or values of the positions before the first, repeated for heads that share them."""
    vectors: Tensor = getattr(section, f"prefix_{name}")
    width = section.query.shape[1] // section.heads
    shared = section.query.shape[1] // section.key.shape[1]
    by_head: Tensor = vectors.unflatten(-1, (-1, width)).repeat_interleave(shared, dim=1)
    return by_head
