"""Heads under many masks where activations repeat: a few tokens in fixed places, as in arithmetic.

Where what comes in holds few distinct activations, as the first node layer of a model of two
tokens out of 113, scores and values are tables over these, and samples look up theirs: of n samples
a mask costs as many look-ups a head and key, whatever the width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libgraph.sections.attention.heads import Heads
from libgraph.sections.attention.kept import capped, hide
from libgraph.sections.kept_inputs import Masks, sort_masks

FEWER = 4
"""Tables are made where they have at most this part of the entries that are looked up."""


class Repeated(NamedTuple):
    """Distinct activations, and which of them each sample has.

    Args:
        keys: those of all positions.
        key: places among them.
        queries: those of the last position.
        query: places among them.
    """

    keys: Float[Tensor, "m d_in"]
    key: Int[Tensor, "s n"]
    queries: Float[Tensor, "u d_in"]
    query: Int[Tensor, " n"]


def repeated(section: Heads, x: Float[Tensor, "n s d_in"]) -> Repeated | None:
    """What repeats in x, if tables of it are worth it and the section has a form for them."""
    if not section.mask.last_only or section.rotary is not None or section.before:
        return None
    keys = _distinct(x.transpose(0, 1).flatten(0, 1))
    queries = _distinct(x[:, -1])
    if keys is None or queries is None:
        return None
    if FEWER * len(keys[0]) * max(1, len(queries[0])) > x.shape[0] * x.shape[1]:
        return None
    return Repeated(keys[0], keys[1].unflatten(0, x.shape[1::-1]), *queries)


def look_up(
    section: Heads, known: Repeated, keep: Bool[Tensor, "d_in d_out"]
) -> Float[Tensor, "d_out n"]:
    """What heads add to every output, from the inputs that it keeps."""
    positions, samples = known.key.shape
    outputs = known.keys.new_empty(keep.shape[1], samples)
    for masks in sort_masks(keep):
        elements = section.heads * positions * masks.columns.shape[1]
        for piece, some in masks.pieces(elements, outputs.T):
            table, values = _tables(section, known, piece)
            key, query = known.key[:, some], known.query[some]
            places = query * len(known.keys) + key
            scores = _at(table, places)
            hide(scores.mT, section, slice(positions - 1, positions))
            a = scores.softmax(2)
            added = (_at(values, key) * a.unsqueeze(2)).sum((1, 3))
            outputs[piece.columns[piece.counted], some] = added[piece.counted]
    return outputs


def _tables(
    section: Heads, known: Repeated, masks: Masks
) -> tuple[Float[Tensor, "p h um"], Float[Tensor, "p h c m"]]:
    """Scores of every query with every key, and what every key's value adds to every output."""
    rows = masks.rows.clamp(max=known.keys.shape[1] - 1)
    # None of the inputs is where a mask keeps fewer than others: it counts as zero.
    real = (masks.rows < known.keys.shape[1]).unsqueeze(1)
    keys, queries = (
        torch.where(real, x[:, rows].transpose(0, 1), 0) for x in (known.keys, known.queries)
    )
    by_head = (section.heads, -1)
    key, value = section.key_and_value
    width = section.query.shape[1] // section.heads
    asked = (queries @ section.query[rows]).unflatten(-1, by_head) * width**-0.5
    answered = (keys @ key[rows]).unflatten(-1, by_head)
    scores = capped(section, torch.einsum("puhe,pmhe->phum", asked, answered))
    output = section.output.T[masks.columns].unflatten(-1, by_head)
    read = torch.einsum("pkhe,pche->phkc", value[rows].unflatten(-1, by_head), output)
    values = (keys.unsqueeze(1) @ read).mT
    return scores.flatten(2), values


def _at(table: Float[Tensor, "... m"], places: Int[Tensor, "s n"]) -> Float[Tensor, "... s n"]:
    """Entries of a table."""
    found: Tensor = table.index_select(-1, places.flatten()).unflatten(-1, places.shape)
    return found


def _distinct(
    rows: Float[Tensor, "q d"],
) -> tuple[Float[Tensor, "m d"], Int[Tensor, " q"]] | None:
    """Distinct rows, and which of them each row is; None if that is not found out quickly."""
    # Equal rows have equal projections; unequal ones that share theirs are seen by comparison.
    direction = torch.arange(1, rows.shape[1] + 1).to(rows).mul(0.7).cos()
    _, place = torch.unique(rows @ direction, return_inverse=True)
    count = int(place.max()) + 1 if len(place) else 0
    if FEWER * count > len(rows):
        return None
    example = place.new_empty(count)
    example[place] = torch.arange(len(place)).to(place)
    distinct = rows[example]
    return (distinct, place) if torch.equal(distinct[place], rows) else None
