"""What the sparse basis is going to take, from its first step on a few samples."""

from __future__ import annotations

from dataclasses import replace

import torch

from libgraph.bases.lib import lib
from libgraph.bases.method import Probe
from libgraph.bases.sparse.options import BATCH, EVERY, SAMPLES, sparse_options
from libgraph.bases.sparse.pair_edges import enough
from libgraph.bases.sparse.problem import Problem
from libgraph.bases.statistics import node_statistics
from libgraph.progress import silent


def sparse_seconds(probe: Probe) -> float:
    """Of all steps from all starts, as the first one takes on rotations of a LIB of few samples."""
    network, options = probe.network, sparse_options(probe.options)
    most = min(SAMPLES, enough(BATCH, probe.positions), probe.limit or SAMPLES)
    count = min(BATCH, most)
    data = replace(probe.data, limit=count, batch_size=count)
    start = lib(network, node_statistics(network, data), data, probe.truncation, silent)
    widths = [len(basis) - basis.isolated for basis in start.values() if basis.rotated]
    # Few samples may have fewer features than all of them do.
    features = options.features and min(options.features, max(widths, default=2))
    attainable = sparse_options({**probe.options, "sparse_features": features})
    problem = Problem.of(network, start, data, attainable)
    if not problem.pairs:
        return 0.0
    rotations = {name: q.requires_grad_() for name, q in problem.start(0).items()}
    evaluation = probe.seconds(lambda: problem.value(rotations)) * most / count
    with torch.enable_grad():
        step = probe.seconds(lambda: problem.loss(rotations, 0).backward())
    return (step + evaluation / EVERY) * options.steps * options.starts
