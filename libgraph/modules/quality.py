"""Layered modularity: what a division into modules is worth where edges join neighbouring layers.

On one layer pair it is Barber's modularity of bipartite graphs. Source: Barber (2007),
doi:10.1103/PhysRevE.76.066102; the sum over layer pairs is ours (docs/math.md §7).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from libgraph.graph.arrays import FloatArray, IndexArray, Pair


def layered_modularity(
    weights: Mapping[Pair, FloatArray],
    membership: Mapping[str, IndexArray],
    resolution: float = 1.0,
    *,
    equal: bool = False,
) -> float:
    r"""Layered modularity of a division into modules; 0 without edges.

    .. math:: Q_γ = \frac{1}{\sum_p m_p} \sum_p \sum_{ij}
              \left(w^p_{ij} - γ \frac{k^p_i k^p_j}{m_p}\right) δ(c_i, c_j)

    with the weights of layer pair p, the degrees k and the total weight m within the pair. Its
    source is docs/math.md §7.

    Args:
        weights: By layer pair, shape ``(out, in)``.
        membership: By node layer, shape ``(features,)``; −1 for features in no module.
        resolution: γ.
        equal: Whether every layer pair counts the same: weights are divided by m.
    """
    value = total = 0.0
    for (source, target), matrix in weights.items():
        weight = float(matrix.sum())
        if weight <= 0:
            continue
        outputs, inputs = membership[target], membership[source]
        same = (outputs[:, None] == inputs[None, :]) & (outputs >= 0)[:, None]
        count = 1 + max(int(outputs.max(initial=-1)), int(inputs.max(initial=-1)))
        expected = _by_module(outputs, matrix.sum(1), count) @ _by_module(
            inputs, matrix.sum(0), count
        )
        excess = float(matrix.sum(where=same)) - resolution * float(expected) / weight
        value += excess / weight if equal else excess
        total += 1.0 if equal else weight
    return value / total if total else 0.0


def _by_module(members: IndexArray, degrees: FloatArray, count: int) -> FloatArray:
    """Sum of degrees over the features of each module."""
    inside = members >= 0
    sums = np.bincount(members[inside], weights=degrees[inside], minlength=count)
    return sums.astype(np.float64)
