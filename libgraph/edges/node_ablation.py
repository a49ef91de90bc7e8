"""Node ablation: how many of a basis's features the model's score really needs.

It keeps the first k features of one node layer, isolated ones besides, and runs on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from libgraph.accumulate.ranks import shared_out
from libgraph.accumulate.sums import Sums, accumulate
from libgraph.backend.contract import Batch
from libgraph.edges.curves import sizes_between, sizes_to_try
from libgraph.edges.score import Scoring
from libgraph.network.basis import Bases
from libgraph.progress import Progress, silent
from libgraph.sections.linear import Linear


def ablate_nodes(
    scoring: Scoring,
    bases: Bases,
    *,
    tolerances: Sequence[float] = (),
    points: int = 24,
    stage: str = "node ablation",
    progress: Progress = silent,
) -> dict[str, dict[int, float]]:
    """Score by number of features kept, x C_k C_k⁺ in place of x, at every rotated node layer.

    Isolated features are the first ones, so 0 keeps nothing and 1 the mean alone. All node layers
    and numbers are measured in one pass over the data, and numbers between the last that is not
    enough for a tolerance Δ and the first that is in a few more. Source: docs/math.md §4.
    """
    scoring = scoring.carrying(bases)
    sizes = {
        layer: sizes_to_try(len(basis), points) for layer, basis in bases.items() if basis.rotated
    }
    curves: dict[str, dict[int, float]] = {layer: {} for layer in sizes}
    higher_is_better = scoring.backend.higher_is_better
    while any(sizes.values()):
        for layer, scores in _shared_scores(scoring, bases, sizes, stage, progress).items():
            curves[layer] = dict(sorted((curves[layer] | scores).items(), reverse=True))
        sizes = {
            layer: sorted(
                {
                    size
                    for tolerance in tolerances
                    for size in sizes_between(
                        curve, scoring.base_score, tolerance, higher_is_better
                    )
                }
            )
            for layer, curve in curves.items()
        }
    return curves


def _shared_scores(
    scoring: Scoring,
    bases: Bases,
    sizes: Mapping[str, Sequence[int]],
    stage: str,
    progress: Progress,
) -> dict[str, dict[int, float]]:
    """As `_scores`; where there are fewer batches than ranks, these share out node layers."""
    if scoring.shares_batches:
        return _scores(scoring, bases, sizes, stage, progress)
    tasks = [
        partial(_scores, scoring, bases, {layer: numbers}, stage, progress)
        for layer, numbers in sizes.items()
        if numbers
    ]
    return {layer: scores for of_layer in shared_out(tasks) for layer, scores in of_layer.items()}


def _scores(
    scoring: Scoring,
    bases: Bases,
    sizes: Mapping[str, Sequence[int]],
    stage: str,
    progress: Progress,
) -> dict[str, dict[int, float]]:
    """Scores at these numbers of features, all in one pass over the data."""
    network, backend, data = scoring.network, scoring.backend, scoring.data
    cast = {layer: bases[layer].to(data.dtype) for layer in sizes}
    behind = {
        source.name: section.rebase(cast[source.name].part_decoder)
        for source, _, section in network.pairs
        if source.name in sizes
    }

    def measure(batch: Batch) -> Sums:
        sums: dict[str, Tensor] = {"count": torch.tensor(len(batch.targets))}
        for index, x in enumerate(network.activations(batch.inputs)):
            layer = network.node_layers[index].name
            rising = sorted(sizes.get(layer, ()))
            if not rising:
                continue
            basis = cast[layer]
            parts, counts = basis.parts(x), [basis.part_count(size) for size in rising]
            behind_layer = behind.get(layer) or Linear(basis.part_decoder)
            ablated = behind_layer.nested(parts, counts)
            for k, y in zip(rising, ablated, strict=True):
                outputs = network.from_layer(min(index + 1, len(network.sections)), y)
                sums[f"{layer} {k}"] = backend.score(outputs, batch.targets).sum()
        return sums

    sums = accumulate(data, measure, stage=stage, progress=progress)
    count = float(sums["count"])
    return {
        layer: {k: float(sums[f"{layer} {k}"]) / count for k in sizes[layer]} for layer in sizes
    }
