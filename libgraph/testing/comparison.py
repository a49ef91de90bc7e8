"""When two results agree: as far as rounding lets them, by a bound that follows from arithmetic.

Rounding does to a result what changes of activations and factors by a few ε would do, and a sum of
N products gains about √N ε beside (Higham and Mary, SIAM J. Sci. Comput. 41, 2019). With κ, how
much a relative change of activations and factors changes it, that is `MARGIN` √N κ ε of its largest
entry, and squares that are multiplied out, as in a Gram, lose κ a second time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

MARGIN = 64
"""Roundings in a row that are not sums: activations, softmax, roots, one section after another."""


LARGEST = 1e-6
"""No rounding excuses more than this: take activations where the section is better conditioned."""


def require(condition: bool, message: str) -> None:
    """Fail with this message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def require_close(
    result: Tensor,
    expected: Tensor,
    message: str,
    *,
    terms: int,
    dtype: torch.dtype = torch.float64,
    condition: Callable[[], float] = lambda: 1.0,
) -> None:
    """Fail unless two tensors agree in shape, and in value as far as rounding lets them.

    Args:
        result: what is checked.
        expected: what it should be.
        message: of the failure, to which sizes are added.
        terms: N, how many products are summed up.
        dtype: of the numbers that are multiplied, which says ε.
        condition: measures κ, where that matters.

    Raises:
        AssertionError: if they differ.
    """
    shapes = tuple(result.shape), tuple(expected.shape)
    require(shapes[0] == shapes[1], f"{message}: shape {shapes[0]}, not {shapes[1]}")
    if not result.numel():
        return
    error = relative_error(result, expected)
    bound = MARGIN * math.sqrt(terms) * torch.finfo(dtype).eps
    if error <= bound:
        return
    # Measuring it takes as long as all that comes before it, and 1 nearly always does.
    kappa = max(1.0, condition())
    bound = min(LARGEST, kappa**2 * bound)
    require(
        error <= bound,
        f"{message}: by {error:.1e} of the largest entry, of which rounding explains "
        f"{bound:.1e} ({MARGIN} √N κ² ε with N = {terms}, κ = {kappa:.1f})",
    )


def relative_error(result: Tensor, expected: Tensor) -> float:
    """The largest difference as a part of the largest expected entry, if that is not zero."""
    if result.shape != expected.shape:
        return math.inf
    scale = float(expected.abs().max()) or 1.0
    return float((result.double() - expected.double()).abs().max()) / scale
