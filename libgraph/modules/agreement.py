"""How well two divisions into modules agree: one found with one known, or runs among themselves.

Homogeneity says whether what is put together belongs together, and forgives modules that are too
fine; the adjusted Rand index and the adjusted mutual information forgive neither, and the latter
does not let large modules outvote small ones. All are 1 for the same partition under any names.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from libgraph.graph.arrays import FloatArray, IndexArray
from libgraph.graph.interaction_graph import InteractionGraph

Names = Sequence[Hashable] | IndexArray


def homogeneity(modules: Names, truth: Names) -> float:
    """1 − H(truth | modules) / H(truth); 1 where there is only one true module.

    Source: Rosenberg & Hirschberg (2007), https://aclanthology.org/D07-1043.

    Args:
        modules: module of each member.
        truth: true module of each member.
    """
    table = _contingency(modules, truth)
    entropy = _entropy(table.columns)
    if entropy == 0:
        return 1.0
    shares = table.joint / table.joint.sum()
    conditional = -(shares * np.log(table.joint / table.rows[table.row])).sum()
    return float(1 - conditional / entropy)


def adjusted_rand_index(modules: Names, truth: Names) -> float:
    """Share of pairs on which both agree, 0 where they agree no more than by chance.

    Source: Hubert & Arabie (1985), doi:10.1007/BF01908075.

    Args:
        modules: module of each member.
        truth: true module of each member.
    """
    table = _contingency(modules, truth)
    together, a, b = (_pairs(x) for x in (table.joint, table.rows, table.columns))
    chance = a * b / max(_pairs(table.rows.sum()), 1)
    # Both are one module, or both all singletons: the same, though the index is 0/0.
    return float((together - chance) / ((a + b) / 2 - chance)) if a + b != 2 * chance else 1.0


def adjusted_mutual_information(modules: Names, truth: Names) -> float:
    r"""Information that each holds about the other, 0 where no more than by chance.

    .. math:: \mathrm{AMI} = \frac{I - E[I]}{(H_a + H_b) / 2 - E[I]}, \quad
              E[I] = \sum_{ij} \sum_n \frac nN \log \frac{N n}{a_i b_j}
              \frac{\binom{a_i}{n} \binom{N - a_i}{b_j - n}}{\binom{N}{b_j}}

    with module sizes a and b of N members, and n the size of an overlap, which is hypergeometric
    where members are shuffled. Source: Vinh, Epps & Bailey (2010),
    https://jmlr.org/papers/v11/vinh10a.html.

    Args:
        modules: module of each member.
        truth: true module of each member.
    """
    table = _contingency(modules, truth)
    sizes = {len(x) for x in (table.joint, table.rows, table.columns)}
    # One to one: the same, though the measure is 0/0 for one module or all singletons.
    if len(sizes) == 1:
        return 1.0
    expected = _expected_information(table.rows, table.columns)
    mean = (_entropy(table.rows) + _entropy(table.columns)) / 2
    return (table.information() - expected) / (mean - expected)


def mean_agreement(partitions: Sequence[IndexArray]) -> float:
    """Mean adjusted mutual information over all pairs of partitions; 1 if there is only one.

    Args:
        partitions: module of each feature; −1 for features in no module, which are left out where
            either of two partitions has them.
    """
    values = [
        adjusted_mutual_information(a[both], b[both])
        for a, b in combinations(partitions, 2)
        for both in [(a >= 0) & (b >= 0)]
    ]
    return float(np.mean(values)) if values else 1.0


def agreement_with_concepts(graph: InteractionGraph) -> dict[str, float | None]:
    """How well a graph's modules agree with the dominant concepts of its features.

    Returns:
        `homogeneity` and `adjusted_rand_index`, over features that have a module and a concept,
        None where there are none; and their `coverage`, the share of such features among those
        that have a concept and may have a module.
    """
    modules: list[int] = []
    concepts: list[str] = []
    candidates = 0
    for layer in graph.layers:
        if layer.labels is None or not layer.rotated:
            continue
        members = graph.membership(layer.name)[layer.isolated :].tolist()
        for module, label in zip(members, layer.labels[layer.isolated :], strict=True):
            concept = label.concept
            candidates += concept is not None
            if concept is not None and module >= 0:
                modules.append(module)
                concepts.append(concept)
    return {
        "homogeneity": homogeneity(modules, concepts) if modules else None,
        "adjusted_rand_index": adjusted_rand_index(modules, concepts) if modules else None,
        "coverage": len(modules) / candidates if candidates else None,
    }


class _Contingency(NamedTuple):
    """How many members two divisions have in common.

    Args:
        joint: members of every pair of modules that share any, shape ``(pairs,)``.
        row: the first module of each such pair.
        column: the second.
        rows: members of every first module.
        columns: members of every second module.
    """

    joint: FloatArray
    row: IndexArray
    column: IndexArray
    rows: FloatArray
    columns: FloatArray

    def information(self) -> float:
        """Mutual information in nats; of no members 0."""
        total = self.joint.sum()
        independent = self.rows[self.row] * self.columns[self.column]
        return float((self.joint * np.log(total * self.joint / independent)).sum() / max(total, 1))


def _contingency(modules: Names, truth: Names) -> _Contingency:
    if len(modules) != len(truth):
        raise ValueError(f"{len(modules)} members are not {len(truth)}")
    rows, columns = _numbers(modules), _numbers(truth)
    width = int(columns.max(initial=-1)) + 1
    pairs, joint = np.unique(rows * width + columns, return_counts=True)
    return _Contingency(
        joint.astype(np.float64),
        pairs // max(width, 1),
        pairs % max(width, 1),
        np.bincount(rows).astype(np.float64),
        np.bincount(columns).astype(np.float64),
    )


def _numbers(names: Names) -> IndexArray:
    """Modules numbered from 0 without gaps."""
    if isinstance(names, np.ndarray):
        return np.unique(names, return_inverse=True)[1].astype(np.int64)
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def _entropy(counts: FloatArray) -> float:
    shares = counts / max(counts.sum(), 1)
    return float(-(shares * np.log(shares)).sum())


def _expected_information(rows: FloatArray, columns: FloatArray) -> float:
    """Mutual information of two divisions with these module sizes if members are shuffled."""
    total = int(rows.sum())
    # Modules of one size have one expectation; there are at most √(2N) sizes.
    sizes_a, times_a = np.unique(rows.astype(np.int64), return_counts=True)
    sizes_b, times_b = np.unique(columns.astype(np.int64), return_counts=True)
    a, b = (x.ravel() for x in np.meshgrid(sizes_a, sizes_b, indexing="ij"))
    times = np.outer(times_a, times_b).ravel()
    low, high = np.maximum(a + b - total, 1), np.minimum(a, b)
    # All overlaps n = low, …, high of all pairs of sizes, one after the other.
    length = high - low + 1
    a, b, low, times = (np.repeat(x, length) for x in (a, b, low, times))
    n = low + np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    log_probability = (
        factorial[a] + factorial[b] + factorial[total - a] + factorial[total - b]
        - factorial[total] - factorial[n] - factorial[a - n] - factorial[b - n]
        - factorial[total - a - b + n]
    )  # fmt: skip
    information = n / total * (np.log(total) + np.log(n) - np.log(a) - np.log(b))
    return float((times * information * np.exp(log_probability)).sum())


def _pairs(counts: FloatArray) -> float:
    return float((counts * (counts - 1) / 2).sum())
