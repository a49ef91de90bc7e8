"""Edges from one run to another: kept in both, lost, gained, and whether their ranks are alike.

Edges are compared between matched features (`layers.py`) alone. Kept edges are those of
each run's own ε, as many as its score needs, so that a run with stronger interactions does not look
denser for it; ranks compare all interactions and know no threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from libgraph.comparison.layers import Matching
from libgraph.graph.arrays import FloatArray, Pair
from libgraph.graph.interaction_graph import InteractionGraph


@dataclass(frozen=True)
class PairDifference:
    """Kept edges of one layer pair; a feature without a counterpart takes its edges with it.

    Args:
        pair: the layer pair.
        both: kept in A and in B, both ends matched.
        lost: kept in A only, both ends matched.
        gained: kept in B only, both ends matched.
        unmatched: edges of A, and of B, of which an end has no counterpart.
        jaccard: both / (both + lost + gained); None if there are none.
        rank_correlation: Spearman's, of all interactions between matched features; None where
            fewer than two are matched, or all interactions are equal.
    """

    pair: Pair
    both: int
    lost: int
    gained: int
    unmatched: tuple[int, int]
    jaccard: float | None
    rank_correlation: float | None


def compare_edges(
    a: InteractionGraph, b: InteractionGraph, pair: Pair, matched: Mapping[str, Matching]
) -> PairDifference:
    """Kept edges, and ranks of all interactions, of one layer pair.

    Args:
        a: the graph of A.
        b: that of B.
        pair: in both.
        matched: features of both node layers that count as matched.
    """
    source, target = (matched[name] for name in pair)
    kept = _kept(a, pair), _kept(b, pair)
    here = kept[0][np.ix_(target.a, source.a)]
    there = kept[1][np.ix_(target.b, source.b)]
    both = int((here & there).sum())
    lost, gained = int(here.sum()) - both, int(there.sum()) - both
    union = both + lost + gained
    return PairDifference(
        pair=pair,
        both=both,
        lost=lost,
        gained=gained,
        unmatched=(int(kept[0].sum() - here.sum()), int(kept[1].sum() - there.sum())),
        jaccard=both / union if union else None,
        rank_correlation=rank_correlation(
            a.edges[pair][np.ix_(target.a, source.a)], b.edges[pair][np.ix_(target.b, source.b)]
        ),
    )


def _kept(graph: InteractionGraph, pair: Pair) -> NDArray[np.bool_]:
    """Which edges are kept, ``[out, in]``."""
    mask = np.zeros(graph.edges[pair].shape, dtype=bool)
    edges = graph.kept_edges(pair)
    mask[edges.outputs, edges.inputs] = True
    return mask


def rank_correlation(a: FloatArray, b: FloatArray) -> float | None:
    """Spearman's ρ, the correlation of ranks, equal values sharing their mean rank.

    Source: Spearman (1904), doi:10.2307/1412159. None where a side has fewer than two values, or
    only equal ones.
    """
    ranks = [rankdata(values) - (values.size + 1) / 2 for values in (a, b)]
    norm = float(np.prod([np.linalg.norm(centred) for centred in ranks]))
    # Rounding may carry it over 1 by a little.
    return min(max(float(ranks[0] @ ranks[1]) / norm, -1.0), 1.0) if norm > 0 else None
