"""Node ablation: how many of a basis's features the model's score really needs.

It keeps the first k features of one node layer, isolated ones besides, and runs on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from libgraph.accumulate.pieces import Piece
from libgraph.accumulate.reached import AtLayers, Reached
from libgraph.accumulate.sums import Sums, accumulate
from libgraph.edges.curves import sizes_between, sizes_to_try
from libgraph.edges.interactions import LARGE
from libgraph.edges.score import Scoring
from libgraph.network.basis import Bases
from libgraph.progress import Progress, silent
from libgraph.sections import Section
from libgraph.sections.linear import Linear

LONG = 2**40
"""Multiplications after which numbers of features are another step: some ten seconds."""


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
        for layer, scores in _scores(scoring, bases, sizes, stage, progress).items():
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

    # Of one node layer at a time where together they are a second, large model.
    @lru_cache(maxsize=1 if network.weight_bytes > LARGE else None)
    def behind(index: int) -> Section:
        decoder = cast[network.node_layers[index].name].part_decoder
        ends = index == len(network.sections)
        return Linear(decoder) if ends else network.sections[index].rebase(decoder)

    def measure(piece: Piece[Reached]) -> Sums:
        reached = piece.batch
        index, (x,), rising = reached.index, reached.activations, reached.asked
        layer, targets = network.node_layers[index].name, reached.batch.targets
        basis = cast[layer]
        parts, counts = basis.parts(x), [basis.part_count(size) for size in rising]
        sums: dict[str, Tensor] = {}
        for k, y in zip(rising, behind(index).nested(parts, counts), strict=True):
            outputs = network.from_layer(min(index + 1, len(network.sections)), y)
            sums[f"{layer} {k}"] = backend.score(outputs, targets).sum()
            sums[f"{layer} {k} samples"] = torch.tensor(len(targets))
        return sums

    steps = AtLayers(data, network, _steps(scoring, sizes))
    sums = accumulate(steps, measure, stage=stage, progress=progress)
    return {
        layer: {k: float(sums[f"{layer} {k}"]) / float(sums[f"{layer} {k} samples"]) for k in tried}
        for layer, tried in sizes.items()
    }


def _steps(scoring: Scoring, sizes: Mapping[str, Sequence[int]]) -> list[list[tuple[int, ...]]]:
    """Rising numbers of each node layer, as many in a step as take not too long."""
    network, data = scoring.network, scoring.data
    layers = network.node_layers
    matrices = sum(a.size * b.size for a, b in pairwise(layers))
    single = next(iter(replace(data, limit=1, batch_size=1)))
    steps = []
    for layer, x in zip(layers, network.activations(single.inputs), strict=True):
        rising = sorted(sizes.get(layer.name, ()))
        at_once = max(1, LONG // max(1, data.batch_size * x.shape[1] * matrices))
        steps.append([tuple(rising[i : i + at_once]) for i in range(0, len(rising), at_once)])
    return steps
