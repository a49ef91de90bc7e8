"""How well the modules found agree with modules that are known.

Homogeneity says whether what is put together belongs together, and forgives modules that are too
fine; the adjusted Rand index forgives neither. Both are 1 for the same partition under any names.
Sources: Rosenberg & Hirschberg (2007), https://aclanthology.org/D07-1043; Hubert & Arabie (1985),
doi:10.1007/BF01908075.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from libgraph.graph import InteractionGraph


def homogeneity(found: Sequence[Hashable], truth: Sequence[Hashable]) -> float:
    """1 − H(truth | found) / H(truth); 1 where there is only one true module.

    Args:
        found: module of each member.
        truth: true module of each member.
    """
    table = _contingency(found, truth)
    total = table.sum()
    whole = _entropy(table.sum(0) / total) if total else 0.0
    if whole == 0:
        return 1.0
    left = sum(row.sum() / total * _entropy(row / row.sum()) for row in table)
    return float(1 - left / whole)


def adjusted_rand_index(found: Sequence[Hashable], truth: Sequence[Hashable]) -> float:
    """Share of pairs on which both agree, 0 where they agree no more than by chance.

    Args:
        found: module of each member.
        truth: true module of each member.
    """
    table = _contingency(found, truth)
    together, a, b = (_pairs(x) for x in (table, table.sum(1), table.sum(0)))
    chance = a * b / max(_pairs(table.sum()), 1)
    # Both are one module, or both all singletons: the same, though the index is 0/0.
    return float((together - chance) / ((a + b) / 2 - chance)) if a + b != 2 * chance else 1.0


def agreement_with_concepts(graph: InteractionGraph) -> dict[str, float | None]:
    """How well a graph's modules agree with the dominant concepts of its features.

    Returns:
        `homogeneity` and `adjusted_rand_index`, over features that have a module and a concept,
        None where there are none; and their `coverage`, the share of such features among those
        that have a concept and may have a module.
    """
    found: list[int] = []
    truth: list[str] = []
    candidates = 0
    for layer in graph.layers:
        if layer.labels is None or not layer.rotated:
            continue
        modules = graph.membership(layer.name)[layer.isolated :].tolist()
        for module, label in zip(modules, layer.labels[layer.isolated :], strict=True):
            concept = label.concept
            candidates += concept is not None
            if concept is not None and module >= 0:
                found.append(module)
                truth.append(concept)
    return {
        "homogeneity": homogeneity(found, truth) if found else None,
        "adjusted_rand_index": adjusted_rand_index(found, truth) if found else None,
        "coverage": len(found) / candidates if candidates else None,
    }


def _contingency(found: Sequence[Hashable], truth: Sequence[Hashable]) -> NDArray[np.float64]:
    """Number of members by found (rows) and true (columns) module."""
    rows, columns = (
        {name: number for number, name in enumerate(dict.fromkeys(names))}
        for names in (found, truth)
    )
    table = np.zeros((len(rows), len(columns)))
    for module, true in zip(found, truth, strict=True):
        table[rows[module], columns[true]] += 1
    return table


def _entropy(shares: NDArray[np.float64]) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def _pairs(counts: NDArray[np.float64]) -> float:
    return float((counts * (counts - 1) / 2).sum())
