"""Free directions of units or heads that act as one, beyond what low rank leaves free already.

What is gated alike is one linear block x A diag(γ) B: under A → A (1 + X) and B → (1 − X) B, X
within a group of one gate, the network does the same (arXiv 2405.10927).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

MOST_JOINT = 4096
"""Unit matrices whose Gram is decomposed at most."""


@dataclass(frozen=True, eq=False)
class GatedBlock:
    """The weights on both sides of units, and what of each activations and gradients use.

    Args:
        inner: A, the factor of the units' linear part: `gate` of a `GatedMLP`, `inner` otherwise.
        outer: B; where the section's own is the identity, that of the section that reads it.
        P_G_inner: projection onto the inputs of A.
        P_K_inner: projection onto the gradients at its outputs.
        P_G_outer: projection onto the inputs of B.
        P_K_outer: projection onto the gradients at its outputs.
        scale: how large the units' gates are beside each other (`UnitGroups.scale`).
    """

    inner: Float[Tensor, "rows units"]
    outer: Float[Tensor, "units columns"]
    P_G_inner: Float[Tensor, "rows rows"]
    P_K_inner: Float[Tensor, "units units"]
    P_G_outer: Float[Tensor, "units units"]
    P_K_outer: Float[Tensor, "columns columns"]
    scale: Float[Tensor, " units"] | None = None


def extra_directions(
    group: Sequence[int], block: GatedBlock, *, tolerance: float = 1e-6
) -> tuple[int, int]:
    """Free directions of a group beyond rescalings: how many, and how many of them are new.

    New is what low rank, with P_K ΔW P_G = 0, does not leave free already: the rank of
    X ↦ (P_G A X P_K, P_G X B P_K) over all X, less that over diagonal X. With the factors at the
    left M, M' and at the right N, N' it is

        rank M rank N + rank M' rank N' − m n,  m = rank M + rank M' − rank [M; M'],

    and n likewise, because two positive semidefinite forms are diagonal in a common basis.

    Args:
        group: units of the group.
        block: all of the units.
        tolerance: singular values below this are zero, those of A and of B beside the largest.
    """
    members = list(group)
    inner, scale = block.inner, block.scale
    size = inner.new_ones(len(members)) if scale is None else scale[members].to(inner)
    size = size / size.max()
    a, b = inner[:, members], size.unsqueeze(1) * block.outer[members]
    a, b = (m / (torch.linalg.matrix_norm(m, 2) or 1) for m in (a, b))
    left = block.P_G_inner @ a, block.P_G_outer[:, members] * (size.min() / size)
    right = block.P_K_inner[members], b @ block.P_K_outer

    def rank(matrix: Tensor, cut: float = tolerance) -> int:
        return int(torch.linalg.matrix_rank(matrix, atol=cut, rtol=0.0))

    def shared(ranks: list[int], joined: Tensor) -> int:
        return sum(ranks) - rank(joined)

    lefts, rights = [rank(m) for m in left], [rank(n) for n in right]
    both = shared(lefts, torch.cat(left)) * shared(rights, torch.cat(right, dim=1))
    of_all = sum(m * n for m, n in zip(lefts, rights, strict=True)) - both
    grams = [(m.T @ m) * (n @ n.T) for m, n in zip(left, right, strict=True)]
    return len(members) ** 2 - len(members), of_all - rank(grams[0] + grams[1], tolerance**2)


def joint_directions(
    groups: Sequence[Sequence[Sequence[int]]], block: GatedBlock, *, tolerance: float = 1e-6
) -> int | None:
    """New free directions of several groups together, as `extra_directions` of one by itself.

    What groups leave free may be the same where their gates are linearly dependent. With E_ij the
    unit matrices of all groups, the images P_G A E_ij P_K and P_G E_ij B P_K have the Gram

        (AᵀP_G A)_ik (P_K)_jl + (P_G)_ik (B P_K Bᵀ)_jl,

    whose rank is taken, less that of what members do by themselves.

    Args:
        groups: of each group its members, of each member its coordinates: one for a unit, several
            for a head; members of no group are groups of one.
        block: all of the units, or heads.
        tolerance: as there.

    Returns:
        How many; None for more than `MOST_JOINT` unit matrices.
    """
    if sum(sum(map(len, group)) ** 2 for group in groups) > MOST_JOINT:
        return None
    inner, outer, scale = block.inner, block.outer, block.scale
    i, j, alone = (index.to(inner.device) for index in _unit_matrices(groups))
    used = i.unique()
    size = inner.new_ones(len(outer)) if scale is None else scale.to(inner)
    size = torch.where(size > 0, size, 1)
    a = block.P_G_inner @ inner
    b = (size / size[used].max()).unsqueeze(1) * outer @ block.P_K_outer
    a, b = (m / (torch.linalg.matrix_norm(m[s], 2) or 1) for m, s in ((a, (..., used)), (b, used)))
    small = size[used].min() / size
    by_inner = (a.T @ a)[i][:, i] * block.P_K_inner[j][:, j]
    inputs = small * block.P_G_outer * small.unsqueeze(1)
    by_outer = inputs[i][:, i] * (b @ b.T)[j][:, j]

    def rank(gram: Tensor) -> int:
        return int((torch.linalg.eigvalsh(gram) > tolerance**2).sum()) if len(gram) else 0

    gram = by_inner + by_outer
    return rank(gram) - rank(gram[alone][:, alone])


def _unit_matrices(groups: Sequence[Sequence[Sequence[int]]]) -> tuple[Tensor, Tensor, Tensor]:
    """i and j of all E_ij of all groups, and whether both are coordinates of one member."""
    first, second, alone = [], [], []
    for group in groups:
        places = torch.tensor([place for member in group for place in member])
        member = torch.tensor([number for number, member in enumerate(group) for _ in member])
        first.append(places.repeat_interleave(len(places)))
        second.append(places.repeat(len(places)))
        alone.append((member[:, None] == member).flatten())
    return torch.cat(first), torch.cat(second), torch.cat(alone)
