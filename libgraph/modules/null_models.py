"""Null models of one graph: what its interactions could be if its modules were accidents.

Each takes the matrix of every layer pair and puts chance where modules could be, keeping what has
nothing to do with modules; they differ in what that is (docs/significance.md has what came out).
Isolated features, unrotated layers and every ε stay as they are. Null models that need the network
are in `rotated_networks.py`. Sources: permutation of residuals, Freedman & Lane (1983),
J. Bus. Econ. Stat. 1, 292; the rest is ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from libgraph.graph.arrays import FloatArray, IndexArray, Pair
from libgraph.graph.interaction_graph import InteractionGraph

NullModel = Callable[[InteractionGraph, np.random.Generator], InteractionGraph]
"""One graph drawn at random from the null model of the one given."""


@runtime_checkable
class LazyNullModel(Protocol):
    """A null model that takes its chances at once, and measures what comes of them when asked.

    So several processes can have the same chances, and measure a part of the draws each.
    """

    def __call__(self, graph: InteractionGraph, rng: np.random.Generator) -> InteractionGraph:
        """One graph, as of any null model."""

    def drawn(
        self, graph: InteractionGraph, rng: np.random.Generator
    ) -> Callable[[], InteractionGraph]:
        """What gives that graph; it draws no more random numbers."""


ALIKE = 8
"""Features that :func:`relabelled` exchanges: so many of neighbouring strength."""


Blocks = tuple[slice, slice]


def permuted(graph: InteractionGraph, rng: np.random.Generator) -> InteractionGraph:
    """All entries of a layer pair change places.

    Keeps the values of every pair, and nothing else: strong features become like all others.
    """
    return _redrawn(graph, lambda pair, matrix: rng.permuted(matrix, axis=None))


def strengths(graph: InteractionGraph, rng: np.random.Generator) -> InteractionGraph:
    """log E_ij = r_i + c_j + residual, and the residuals change places.

    Keeps r and c, least-squares effects of rows and columns, and the values of the residuals. A
    zero counts as a tenth of the pair's smallest positive entry.
    """

    def draw(pair: Pair, matrix: FloatArray) -> FloatArray:
        logs = _logs(matrix)
        fitted = _additive(logs, np.ones(matrix.shape, dtype=bool))
        moved: FloatArray = np.exp(fitted + rng.permuted(logs - fitted, axis=None))
        return moved

    return _redrawn(graph, draw)


def matched(graph: InteractionGraph, rng: np.random.Generator) -> InteractionGraph:
    """As :func:`strengths`, but one-to-one partners stay, and residuals move among equals.

    Keeps the entries of :func:`greedy_matching`, which a residual stream makes large, and outside
    them r, c, and the residuals' values within each of √n groups of neighbouring fitted values,
    because small entries scatter more than large ones.
    """

    def draw(pair: Pair, matrix: FloatArray) -> FloatArray:
        logs = _logs(matrix)
        free = ~greedy_matching(matrix)
        fitted = _additive(logs, free)
        order = np.argsort(fitted[free], kind="stable")
        residuals = (logs - fitted)[free][order]
        moved = np.empty_like(residuals)
        size = max(ALIKE, int(np.sqrt(len(residuals))))
        moved[order] = residuals[_within_groups(len(residuals), size, rng)]
        drawn = matrix.copy()
        drawn[free] = np.exp(fitted[free] + moved)
        return drawn

    return _redrawn(graph, draw)


def relabelled(graph: InteractionGraph, rng: np.random.Generator) -> InteractionGraph:
    """Features of similar strength change names, in each layer pair by themselves.

    Keeps the matrix of every pair up to the order of its rows and columns, so that a diagonal
    stays a matching: only what joins one pair to the next is lost. Strength is the sum of
    clustering weights in the pair; groups of `ALIKE` begin at random places. A layer that only one
    pair has keeps its names, so that a graph of two layers is its own null model.
    """
    weights = graph.weights()
    taking_part = [pair for pair in graph.edges if _free(graph, pair) is not None]
    pairs = Counter(name for pair in taking_part for name in pair)

    def order(name: str, strength: FloatArray) -> IndexArray:
        names = np.arange(len(strength))
        if pairs[name] > 1:
            by_strength = np.argsort(strength, kind="stable")
            names[by_strength] = by_strength[_within_groups(len(names), ALIKE, rng)]
        return names

    def draw(pair: Pair, matrix: FloatArray) -> FloatArray:
        weight = weights[pair][_free(graph, pair)]
        rows, columns = order(pair[1], weight.sum(1)), order(pair[0], weight.sum(0))
        return matrix[np.ix_(rows, columns)]

    return _redrawn(graph, draw)


NULL_MODELS: dict[str, NullModel] = {
    "permuted": permuted,
    "strengths": strengths,
    "matched": matched,
    "relabelled": relabelled,
}
"""By name, null models that need nothing but the graph."""


def greedy_matching(matrix: FloatArray) -> NDArray[np.bool_]:
    """Largest entries first, those of which no row and no column has two, as a mask.

    In every round all entries match that are the largest both of their row and of their column.
    Zeros never match.
    """
    left = np.where(matrix > 0, matrix, -np.inf)
    mask = np.zeros(matrix.shape, dtype=bool)
    while np.isfinite(left).any():
        columns = left.argmax(1)
        rows = np.flatnonzero(left.argmax(0)[columns] == np.arange(len(left)))
        rows = rows[np.isfinite(left[rows, columns[rows]])]
        mask[rows, columns[rows]] = True
        left[rows], left[:, columns[rows]] = -np.inf, -np.inf
    return mask


def _free(graph: InteractionGraph, pair: Pair) -> Blocks | None:
    """Where a pair's matrix has features that take part in clustering, if they do."""
    source, target = graph.layer(pair[0]), graph.layer(pair[1])
    if not (source.rotated and target.rotated):
        return None
    return slice(target.isolated, None), slice(source.isolated, None)


def _redrawn(
    graph: InteractionGraph, draw: Callable[[Pair, FloatArray], FloatArray]
) -> InteractionGraph:
    """The graph with `draw` of each pair's matrix, isolated features left out of it."""
    edges = dict(graph.edges)
    for pair, matrix in graph.edges.items():
        block = _free(graph, pair)
        if block is not None and matrix[block].any():
            edges[pair] = matrix.copy()
            edges[pair][block] = draw(pair, matrix[block])
    return replace(graph, edges=edges, partition=None)


def _logs(matrix: FloatArray) -> FloatArray:
    smallest = matrix[matrix > 0].min()
    # Subnormal numbers have no tenth.
    floor = max(smallest / 10, np.finfo(np.float64).tiny)
    logs: FloatArray = np.log(np.where(matrix > 0, np.maximum(matrix, floor), floor))
    return logs


def _additive(logs: FloatArray, free: NDArray[np.bool_]) -> FloatArray:
    """r_i + c_j nearest to the free entries, by alternating means."""
    rows, columns = np.zeros((len(logs), 1)), np.zeros((1, logs.shape[1]))
    in_rows, in_columns = (np.maximum(free.sum(axis, keepdims=True), 1) for axis in (1, 0))
    # One round is exact where all are free, and a matching leaves out little.
    for _ in range(10):
        rows = ((logs - columns) * free).sum(1, keepdims=True) / in_rows
        columns = ((logs - rows) * free).sum(0, keepdims=True) / in_columns
    return rows + columns


def _within_groups(count: int, size: int, rng: np.random.Generator) -> IndexArray:
    """A permutation of `count` things that moves none out of its group of `size` neighbours."""
    groups = (np.arange(count) + rng.integers(size)) // size
    return np.lexsort((rng.random(count), groups))
