"""Outputs that keep only some of a section's inputs: many masks at a time, or ever more inputs.

Under edge ablation nearly every output has a mask of its own, and most keep a few inputs. Masks
that keep about as many go through a section side by side, over those inputs alone. Under node
ablation the first k are kept: what they are multiplied by is added up from one k to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libgraph.sections.chunks import CLOSED_FORMS

PADDING = 0.75
"""Masks go together that keep at least this share of the inputs that the fullest of them keeps."""


CACHE_BYTES = CLOSED_FORMS.processor // 8
"""Intermediate results are read again at once: in pieces of this size they stay in the cache, two
to four times as fast as in those of `chunks` (measured with 2 to 64 inputs, 100 to 1700 rows)."""


class Masks(NamedTuple):
    """p masks, the inputs that each of them keeps, and the outputs that keep those.

    Args:
        rows: the inputs; where a mask keeps fewer than k, the number of inputs stands for none.
        columns: the outputs; where fewer than m have a mask, repeated.
        counted: which of the columns are no repetition.
    """

    rows: Int[Tensor, "p k"]
    columns: Int[Tensor, "p m"]
    counted: Bool[Tensor, "p m"]

    def pieces(self, elements: int, x: Float[Tensor, "n s d_in"]) -> Iterator[tuple[Masks, slice]]:
        """Some masks and samples at a time, whose intermediate results fit into the cache.

        Args:
            elements: numbers in the largest of these results, for one mask and sample.
            x: activations of all samples.
        """
        most = len(self.rows), len(x)
        if x.device.type == "cpu":
            fitting = max(1, CACHE_BYTES // max(1, elements * x.element_size()))
            most = max(1, fitting // len(x)), fitting
        for start in range(0, len(self.rows), most[0]):
            masks = Masks(*(part[start : start + most[0]] for part in self))
            for first in range(0, len(x), most[1]):
                yield masks, slice(first, min(first + most[1], len(x)))


class KeptInputs(NamedTuple):
    """Activations that go into a section under p masks, k of them under each.

    Args:
        x: the activations, zero where a mask keeps fewer than k.
        rows: which inputs they are; any where there is none.
        columns: which outputs are asked for.
    """

    x: Float[Tensor, "p n s k"]
    rows: Int[Tensor, "p k"]
    columns: Int[Tensor, "p m"]

    def block(self, factor: Float[Tensor, "d_in d_out"]) -> Float[Tensor, "p k m"]:
        """The rows and columns of a factor that lies between inputs and outputs."""
        return factor[self.rows.unsqueeze(2), self.columns.unsqueeze(1)]


def growing_products(
    x: Float[Tensor, "n s d_in"], factors: Sequence[Float[Tensor, "d_in _"]], sizes: Sequence[int]
) -> Iterator[list[Float[Tensor, "n s _"]]]:
    """The first k inputs times the first k rows of every factor, for every k of rising sizes.

    Every product is made once for all sizes. They are added up in place, and last until the next
    is asked for.
    """
    rows = x.reshape(-1, x.shape[-1])
    sums = [x.new_zeros(len(rows), factor.shape[1]) for factor in factors]
    for start, stop in pairwise([0, *sizes]):
        for total, factor in zip(sums, factors, strict=True):
            total.addmm_(rows[:, start:stop], factor[start:stop])
        yield [total.unflatten(0, x.shape[:2]) for total in sums]


def sort_masks(keep: Bool[Tensor, "d_in d_out"]) -> Iterator[Masks]:
    """All masks there are, those together that keep about as many inputs for as many outputs."""
    distinct, owner = torch.unique(keep, dim=1, return_inverse=True)
    kept, owners = distinct.sum(0), torch.bincount(owner, minlength=distinct.shape[1])
    rows, columns = (
        _places(distinct.T),
        _places(owner == torch.arange(len(kept)).to(owner)[:, None]),
    )
    doublings = owners.double().log2().ceil()
    for doubling in doublings.unique().tolist():
        left = (doublings == doubling).nonzero().squeeze(1)
        left = left[kept[left].argsort(descending=True, stable=True)]
        while len(left):
            most = kept[left[0]]
            together = int((kept[left] >= PADDING * most).sum())
            masks, left = left[:together], left[together:]
            m = int(owners[masks].max())
            counted = torch.arange(m, device=keep.device) < owners[masks].unsqueeze(1)
            chosen = columns[masks, :m]
            yield Masks(
                rows[masks, : max(1, int(most))],
                torch.where(counted, chosen, chosen[:, :1]),
                counted,
            )


def _places(marks: Bool[Tensor, "a b"]) -> Int[Tensor, "a b"]:
    """Where every row is marked, in order, and b behind them."""
    size = marks.shape[1]
    places = torch.arange(size, device=marks.device).expand_as(marks)
    return torch.where(marks, places, size).sort(1).values
