"""Whether single precision is enough for scores: held against double on a few samples."""

from __future__ import annotations

from dataclasses import replace

import torch

from libgraph.edges.score import Scoring, base_score
from libgraph.errors import NumericalError
from libgraph.network.network import Network

SAMPLES = 16
"""On which both are computed."""

SHARE = 0.1
"""Of what edges may cost: by so much a score may be off."""

SAME = 1e-4
"""Scores nearer than this are the same, whatever edges may cost."""


def why_too_rough(scoring: Scoring, network: Network, tolerance: float) -> str | None:
    """What is wrong with scores in single precision; None if nothing is.

    Args:
        scoring: in single precision.
        network: the same in double precision.
        tolerance: Δ, the least that edges may cost.
    """
    try:
        # Of all samples, which is asked for anyway: it may be finite for a few alone.
        float(scoring.base_score)
        few = replace(scoring.data, limit=min(scoring.data.limit or SAMPLES, SAMPLES))
        single = base_score(scoring.network, scoring.backend, few)
        double = base_score(network, scoring.backend, replace(few, dtype=torch.float64))
    except NumericalError:
        return "it is not finite"
    off = abs(single - double)
    if off <= max(SHARE * tolerance, SAME):
        return None
    return f"that of {SAMPLES} samples is off by {off:.2g}"
