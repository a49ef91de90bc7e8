r"""How sparse a matrix of edges is, without ablation.

Each measure takes nonnegative edges e of any shape, n of them, and does not change when all are
multiplied by one positive number. Leave out the constant feature's row and column first: they
are not counted as interactions. A matrix without any positive edge has no measure, so each
raises :class:`NumericalError` rather than invent one or return NaN.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from libgraph.errors import NumericalError, UsageError


def hoyer(edges: ArrayLike) -> float:
    r"""Hoyer's sparseness: 0 if all edges are equal, 1 if only one is not zero.

    .. math:: \frac{\sqrt{n} - \sum e / \sqrt{\sum e^2}}{\sqrt{n} - 1}

    and 1 for a single edge (n = 1), the limit of one edge among many.

    Source: Hoyer (2004), Non-negative matrix factorization with sparseness constraints, JMLR 5.
    """
    values = _relative(edges)
    if values.size == 1:
        return 1.0
    root = math.sqrt(values.size)
    ratio = values.sum() / math.sqrt(np.square(values).sum())
    return _unit(float((root - ratio) / (root - 1)))


def gini(edges: ArrayLike) -> float:
    r"""Gini index: 0 if all edges are equal, (n - 1)/n if only one is not zero.

    .. math:: 1 - 2 \sum_{k=1}^{n} \frac{e_{(k)}}{\sum e} \frac{n - k + 1/2}{n}

    with the edges in increasing order e₍₁₎ ≤ … ≤ e₍ₙ₎.

    Source: Hurley & Rickard (2009), Comparing measures of sparsity, IEEE Trans. Inf. Theory 55,
    equation for the Gini index; it alone of theirs meets all six of their criteria.
    """
    values = np.sort(_relative(edges))
    count = values.size
    tail = (count - np.arange(1, count + 1) + 0.5) / count
    return _unit(float(1 - 2 * (values @ tail) / values.sum()))


def participation_ratio(edges: ArrayLike) -> float:
    r"""Effective number of edges: n if all are equal, 1 if only one is not zero.

    .. math:: \frac{(\sum e)^2}{\sum e^2}

    Source: Bell & Dean (1970), Discuss. Faraday Soc. 50, 55; the inverse Simpson index.
    """
    values = _relative(edges)
    return float(values.sum() ** 2 / np.square(values).sum())


def top_share(edges: ArrayLike, fraction: float = 0.01) -> float:
    r"""Share of the total that the largest edges carry.

    .. math:: \sum_{k \le K} e^{(k)} \Big/ \sum e, \qquad K = \lceil \text{fraction} \cdot n \rceil

    with the edges in decreasing order e⁽¹⁾ ≥ e⁽²⁾ ≥ …. Source: a quantile share, as for incomes.

    Raises:
        UsageError: If the fraction is not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"The fraction is {fraction}: choose one above 0 and at most 1.")
    values = np.sort(_relative(edges))[::-1]
    # Rounded first: 0.07 * 100 is a hair above 7, and means 7.
    count = math.ceil(round(fraction * values.size, 9))
    return _unit(float(values[:count].sum() / values.sum()))


def sparsity_measures(edges: ArrayLike) -> dict[str, float]:
    """All measures of one edge matrix, by name.

    Raises:
        NumericalError: If an edge is negative or not finite, or none is positive.
    """
    return {
        "hoyer": hoyer(edges),
        "gini": gini(edges),
        "participation_ratio": participation_ratio(edges),
        "top_share": top_share(edges),
    }


def _relative(edges: ArrayLike) -> NDArray[np.float64]:
    """The edges as one vector, divided by the largest so that no square over- or underflows."""
    values = np.asarray(edges, dtype=np.float64).ravel()
    if not np.isfinite(values).all() or (values < 0).any():
        raise NumericalError(
            "Sparsity needs finite nonnegative edges: pass squared or absolute ones."
        )
    largest = values.max(initial=0.0)
    if largest == 0:
        raise NumericalError("Sparsity of edges that are all zero has no meaning: leave them out.")
    return np.asarray(values / largest)


def _unit(value: float) -> float:
    """Undo a rounding error that leaves the interval from 0 to 1."""
    return min(max(value, 0.0), 1.0)
