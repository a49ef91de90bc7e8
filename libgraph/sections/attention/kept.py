"""What heads make of a few inputs, under many masks at a time: what edge ablation asks for.

Of k inputs the scores of a head are f_t (Q_h K_hᵀ/√d_head) f_sᵀ, and what it adds to m outputs is
a_ts f_s (V_h O_h): with few inputs and few outputs these products of factors are made first, and
queries, keys and values of the activations never.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.sections.attention.heads import Heads
from libgraph.sections.kept_inputs import KeptInputs

BLOCK = 32
"""Queries at a time where none sees what is behind it: keys that none of them sees are left out."""


def attend_to_kept(section: Heads, kept: KeptInputs) -> Float[Tensor, "p n t m"]:
    """What heads add to the outputs `kept.columns`, from the inputs `kept.x` alone."""
    if section.mask.last_only and section.rotary is None and not section.before:
        return _last_to_kept(section, kept)
    x = kept.x.contiguous()
    positions = x.shape[2]
    if section.mask.last_only:
        return _attended(section, kept, x, slice(positions - 1, positions))
    if not section.mask.causal or positions < 2 * BLOCK:
        return _attended(section, kept, x, slice(0, positions))
    blocks = [
        _attended(section, kept, x[:, :, :stop], slice(stop - BLOCK, stop))
        for stop in range(BLOCK, positions + 1, BLOCK)
    ]
    if rest := positions % BLOCK:
        blocks.append(_attended(section, kept, x, slice(positions - rest, positions)))
    return torch.cat(blocks, dim=2)


def _attended(
    section: Heads, kept: KeptInputs, x: Float[Tensor, "p n s k"], queries: slice
) -> Float[Tensor, "p n t m"]:
    """The same of some queries, which see none but these positions."""
    scores = capped(section, _scores(section, x, kept, queries))
    hidden = hidden_keys(section, x.shape[2], queries)
    if hidden is not None:
        scores = scores.masked_fill(hidden.unsqueeze(1), -torch.inf)
    to_prefix, to_inputs = scores.softmax(-1).split([section.before, x.shape[2]], dim=-1)
    value, output = _factor(section, "value", kept), _output(section, kept)
    if output.shape[1] > output.shape[-1]:
        z = torch.einsum("pnths,pnshe->pnthe", to_inputs, _by_head(x, value))
        if section.prefix_value is not None:
            z = z + torch.einsum("pnths,she->pnthe", to_prefix, _prefix(section, "value"))
        return torch.einsum("pnthe,pmhe->pntm", z, output)
    values = _by_head(x, torch.einsum("pkhe,pmhe->pkhm", value, output))
    y: Tensor = to_inputs.flatten(3) @ values.transpose(2, 3).flatten(2, 3)
    if section.prefix_value is not None:
        added = torch.einsum("she,pmhe->pshm", _prefix(section, "value"), output)
        y = y + torch.einsum("pnths,pshm->pntm", to_prefix, added)
    return y


def elements_under_mask(section: Heads, positions: int, inputs: int) -> int:
    """Numbers in the largest intermediate result of `attend_to_kept`, for one sample and mask."""
    keys = positions + section.before
    if section.mask.last_only:
        return section.heads * keys * inputs
    queries = BLOCK if section.mask.causal and positions >= 2 * BLOCK else positions
    return section.heads * max(queries * max(keys, inputs), positions)


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
    hidden = hidden_keys(section, x.shape[2], slice(x.shape[2] - 1, x.shape[2]))
    if hidden is not None:
        scores = scores.masked_fill(hidden.T, -torch.inf)
    values = _of_heads(_output(section, kept).transpose(1, 2) @ value, x)
    return (scores.softmax(2).unsqueeze(2) * values).sum((1, 3)).mT.unsqueeze(2)


def _of_heads(
    factor: Float[Tensor, "p h e k"], x: Float[Tensor, "p k s n"]
) -> Float[Tensor, "p h e s n"]:
    """Every head's factor times every position."""
    product = factor.flatten(1, 2) @ x.flatten(2)
    by_head: Tensor = product.unflatten(2, x.shape[2:]).unflatten(1, factor.shape[1:3])
    return by_head


def _scores(
    section: Heads, x: Float[Tensor, "p n s k"], kept: KeptInputs, queries: slice
) -> Float[Tensor, "p n t h s"]:
    """q kᵀ/√d_head of these queries, keys of the prefix first."""
    query, key = _factor(section, "query", kept), _factor(section, "key", kept)
    own = x[:, :, queries]
    if section.rotary is None and _lever_pays(section, x.shape[-1], x.shape[2]):
        lever = _by_head(own, torch.einsum("pkhe,plhe->pkhl", query, key))
        scores: Tensor = (lever.flatten(2, 3) @ x.mT).unflatten(2, lever.shape[2:4])
        if section.prefix_key is None:
            return scores
        to_prefix = torch.einsum("pkhe,she->pkhs", query, _prefix(section, "key"))
        return torch.cat([_by_head(own, to_prefix), scores], dim=-1)
    positions = torch.arange(section.before + x.shape[2], device=x.device).unsqueeze(-1)
    q = section.turn(_by_head(own, query), positions[section.before :][queries])
    k = _by_head(x, key)
    if section.prefix_key is not None:
        k = torch.cat([_prefix(section, "key").expand(*k.shape[:2], -1, -1, -1), k], dim=2)
    return torch.einsum("pnthe,pnshe->pnths", q, section.turn(k, positions))


def _lever_pays(section: Heads, inputs: int, positions: int) -> bool:
    """Whether Q_h K_hᵀ first takes fewer multiplications than queries and keys."""
    width = section.query.shape[1] // section.heads
    queries = 1 if section.mask.last_only else positions
    with_lever = queries * inputs * (inputs + positions)
    return with_lever <= width * (inputs * (queries + positions) + queries * positions)


def _by_head(
    x: Float[Tensor, "p n s k"], factor: Float[Tensor, "p k h e"]
) -> Float[Tensor, "p n s h e"]:
    """Every position times every head's factor."""
    product = x.flatten(1, 2) @ factor.flatten(2)
    by_head: Tensor = product.unflatten(2, factor.shape[2:]).unflatten(1, x.shape[1:3])
    return by_head


def capped(section: Heads, scores: Tensor) -> Tensor:
    """Scores under the soft cap, if there is one."""
    cap = section.soft_cap
    return scores if cap is None else cap * (scores / cap).tanh()


def hidden_keys(section: Heads, positions: int, queries: slice) -> Tensor | None:
    """Which keys each query does not see, if there are any; `(t, s)`."""
    places = torch.arange(section.before + positions, device=section.query.device)
    here = places[section.before :][queries]
    hidden = section.mask.hidden(here.unsqueeze(1) - places)
    return hidden if bool(hidden.any()) else None


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
