"""Attention with its pattern held: what goes through values, apart from what moves the pattern.

While patterns are held, derivatives by automatic differentiation leave out queries and keys: where
attention goes stays as it is at the point of differentiation, and values still pass through it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Attending(nn.Module):
    """Whatever has attention patterns; it passes them through `as_held`.

    Attributes:
        heads: how many there are.
        held: whether patterns are held, set by `patterns_held`.
        free_head: the head whose pattern moves all the same; none if None.
    """

    heads: int
    held = False
    free_head: int | None = None

    def as_held(self, a: Float[Tensor, "n h t s"]) -> Float[Tensor, "n h t s"]:
        """The pattern; as if it depended on nothing where it is held."""
        if not self.held:
            return a
        still = a.detach()
        if self.free_head is None:
            return still
        free = torch.arange(self.heads, device=a.device)[:, None, None] == self.free_head
        return torch.where(free, a, still)


def attends(module: nn.Module) -> bool:
    """Whether any part of it is attention."""
    return any(isinstance(part, Attending) for part in module.modules())


def heads_of(module: nn.Module) -> int:
    """How many heads attend in it, the most of any of its parts."""
    parts = (part for part in module.modules() if isinstance(part, Attending))
    return max((part.heads for part in parts), default=0)


@contextmanager
def patterns_held(module: nn.Module, free_head: int | None = None) -> Iterator[None]:
    """Hold all patterns in a module while its derivatives are taken, but for one head's."""
    parts = [part for part in module.modules() if isinstance(part, Attending)]
    for part in parts:
        part.held, part.free_head = True, free_head
    try:
        yield
    finally:
        for part in parts:
            part.held, part.free_head = False, None
