"""Gradients of a network's outputs, and the Grams they add up to.

One pass back from the output for every output coordinate, or, where those are many, one for each of
some random combinations of them. All places at which gradients are wanted share these passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vjp, vmap

from libgraph.sections.chunks import DERIVATIVES

MOST_PASSES = 128
"""Output coordinates, over all positions, above which random combinations stand for them."""


def gradient_grams(
    outputs: Callable[..., Float[Tensor, "n t d"]],
    shifts: Sequence[Float[Tensor, "n s k"]],
    number: int,
    *,
    room: int | None = None,
) -> list[Float[Tensor, "k k"]]:
    """Σ_x Σ_s Σ_to g gᵀ with g = ∂y_to/∂shift_s, for each of the shifts that outputs depend on.

    Exact up to `MOST_PASSES` output coordinates; beyond, each sample takes so many draws of signs
    φ, with E[(J φ)(J φ)ᵀ] = J Jᵀ.

    Args:
        outputs: of all shifts, sample by sample.
        shifts: zeros, at which gradients are taken.
        number: of the batch among all, whichever rank has it: each has signs of its own.
        room: bytes of gradients that are held at once, at most; None for what is fastest.
    """
    y, pull = vjp(outputs, *shifts)[:2]
    count, positions, size = y.shape
    passes = min(positions * size, MOST_PASSES)
    exact = passes == positions * size
    generator = torch.Generator().manual_seed(number)
    grams = [x.new_zeros(x.shape[-1], x.shape[-1], dtype=torch.float64) for x in shifts]
    held = sum(x.numel() for x in shifts) * y.element_size()
    fast = DERIVATIVES.at(y)
    at_once = max(1, min(fast, fast if room is None else room) // held)
    for first in range(0, passes, at_once):
        chosen = torch.arange(first, min(first + at_once, passes))
        if exact:
            along = torch.zeros(len(chosen), 1, positions * size)
            along[range(len(chosen)), 0, chosen] = 1
            along = along.expand(-1, count, -1)
        else:
            flips = torch.randint(2, (len(chosen), count, positions * size), generator=generator)
            along = (2 * flips - 1) / passes**0.5
        gradients = vmap(pull)(along.unflatten(-1, (positions, size)).to(y))
        for gram, gradient in zip(grams, gradients, strict=True):
            # In float32 rounding errors of the product would make every direction count.
            rows = gradient.flatten(0, -2).double()
            gram += rows.T @ rows
    return grams
