"""Masks as a tree: what many outputs keep is multiplied once.

Edges are about the product of what an input sends and an output receives, so that outputs keep
nearly nested sets of inputs under edge ablation. Sorted by how many outputs keep them, inputs of
one mask begin like those of others: a tree of common beginnings, walked depth first, adds every
input up once a branch. Sums only ever grow, and so lose nothing to cancellation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BLOCK_BYTES = 2**21
"""Sums that are walked with are added to again at once: of this size they stay in the cache."""

STEP_ELEMENTS = 2**15
"""Steps are worth a call of their own if they add to at least so many numbers on a CPU."""

DEVICE_STEP_ELEMENTS = 2**20
"""The same on an accelerator, whose calls have to keep more of it busy."""


@dataclass(frozen=True)
class Step:
    """One branch of the tree: inputs are added to the sum of those before.

    Args:
        source: slot of the sum that it goes on from; None for nothing.
        target: slot that the new sum is held in, which may be the same.
        added: the inputs.
        columns: outputs that keep the inputs up to here, and no others: places in the tree's order.
    """

    source: int | None
    target: int
    added: Int[Tensor, " k"]
    columns: slice


@dataclass
class _Node:
    """A beginning that masks have in common: the first `depth` inputs of mask `owner`."""

    owner: int
    depth: int
    ends: bool
    children: list[_Node] = field(default_factory=list)
    size: int = 1


@dataclass(frozen=True)
class MaskTree:
    """A walk through all distinct masks.

    Args:
        steps: in an order in which every sum is there before it is gone on from.
        columns: the outputs, in the order in which steps come to them.
        slots: sums that are held at a time, about the binary logarithm of the masks at most.
    """

    steps: Sequence[Step]
    columns: Int[Tensor, " d_out"]
    slots: int

    @property
    def additions(self) -> int:
        """Inputs that are added in all: as many as the masks keep, or fewer."""
        return sum(len(step.added) for step in self.steps)

    @classmethod
    def of(cls, keep: Bool[Tensor, "d_in d_out"]) -> MaskTree:
        """The tree of these masks, inputs sorted by how many keep them."""
        order = keep.sum(1).argsort(descending=True, stable=True)
        # Sorted by their bits from the first input on, a mask follows its own beginnings.
        masks, owner = torch.unique(keep[order].T, dim=0, return_inverse=True)
        differs = masks[1:] != masks[:-1]
        first = differs.to(torch.uint8).argmax(1)
        before = torch.where(torch.arange(masks.shape[1]).to(first) < first[:, None], masks[1:], 0)
        root = _tree(masks.sum(1).tolist(), [0, *before.sum(1).tolist()])
        return cls(*_walk(root, masks, order, owner))

    def products(
        self, x: Float[Tensor, "n s d_in"], factors: Sequence[Float[Tensor, "d_in _"]]
    ) -> Iterator[tuple[slice, slice, list[Float[Tensor, "b _"]]]]:
        """Products of the inputs that masks keep with every factor, some samples at a time.

        Yields the outputs, in the tree's order, the samples and the products, a row for each
        position of each. These last until the next are asked for.
        """
        positions = x.shape[1]
        block = len(x)
        if x.device.type == "cpu":
            width = sum(factor.shape[1] for factor in factors)
            block = max(1, BLOCK_BYTES // max(1, positions * width * x.element_size()))
        block = min(block, len(x))
        held = [
            [x.new_empty(block * positions, factor.shape[1]) for factor in factors]
            for _ in range(self.slots)
        ]
        for start in range(0, len(x), block):
            samples = slice(start, min(start + block, len(x)))
            planes = x[samples].flatten(0, 1).T.contiguous()
            slots = [[total[: planes.shape[1]] for total in totals] for totals in held]
            for step in self.steps:
                kept = planes.index_select(0, step.added).T
                products = slots[step.target]
                for index, (factor, total) in enumerate(zip(factors, products, strict=True)):
                    added = factor.index_select(0, step.added)
                    if step.source is None:
                        torch.mm(kept, added, out=total)
                    else:
                        torch.addmm(slots[step.source][index], kept, added, out=total)
                if step.columns.start < step.columns.stop:
                    yield step.columns, samples, products


def pays(positions: int, width: int, like: Tensor) -> bool:
    """Whether steps that add to sums of so many positions and numbers are worth their calls."""
    least = STEP_ELEMENTS if like.device.type == "cpu" else DEVICE_STEP_ELEMENTS
    return positions * width >= least


def _tree(sizes: Sequence[int], shared: Sequence[int]) -> _Node:
    """The tree of sorted masks, from how many inputs each has, and how many like the one before."""
    root = _Node(0, 0, False)
    path = [root]
    for mask, (size, common) in enumerate(zip(sizes, shared, strict=True)):
        last = None
        while path[-1].depth > common:
            last = path.pop()
        if last is not None and path[-1].depth < common:
            fork = _Node(last.owner, common, False, [last])
            path[-1].children[-1] = fork
            path.append(fork)
        node = _Node(mask, size, True)
        path[-1].children.append(node)
        path.append(node)
    return root


def _walk(
    root: _Node,
    masks: Bool[Tensor, "p d_in"],
    order: Int[Tensor, " d_in"],
    owner: Int[Tensor, " d_out"],
) -> tuple[list[Step], Int[Tensor, " d_out"], int]:
    """Steps, outputs and slots: the largest branch last, which may take what it goes on from."""
    ends = owner.argsort(stable=True).split(torch.bincount(owner).tolist())
    steps: list[Step] = []
    columns: list[Tensor] = []
    reached = slots = 0
    free: list[int] = []
    _measure(root)
    # Node, how much of it there is already, in which slot, and whether that may be overwritten.
    left: list[tuple[_Node, int, int | None, bool]] = [
        (child, 0, None, False) for child in root.children
    ]
    while left:
        node, depth, source, last = left.pop()
        if last and source is not None:
            target = source
        elif free:
            target = free.pop()
        else:
            target, slots = slots, slots + 1
        start = reached
        if node.ends:
            columns.append(ends[node.owner])
            reached += len(columns[-1])
        inputs = order[masks[node.owner]][depth : node.depth]
        steps.append(Step(source, target, inputs, slice(start, reached)))
        if node.children:
            largest, *others = sorted(node.children, key=lambda child: -child.size)
            left.append((largest, node.depth, target, True))
            left.extend((child, node.depth, target, False) for child in others)
        else:
            free.append(target)
    return steps, torch.cat(columns), slots


def _measure(root: _Node) -> None:
    """How many nodes hang from each."""
    found = [root]
    for node in found:
        found.extend(node.children)
    for node in reversed(found):
        node.size = 1 + sum(child.size for child in node.children)
