"""Node ablation: how many of a basis's features the model's score really needs.

It keeps the first k features of one node layer, isolated ones besides, and runs on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from libgraph.accumulate.sums import Sums, accumulate
from libgraph.backend.contract import Backend, Batch
from libgraph.backend.data import Data
from libgraph.edges.curves import numbers_to_keep, sizes_between
from libgraph.edges.score import base_score
from libgraph.network.basis import Bases
from libgraph.network.network import Network
from libgraph.progress import Progress, silent


def ablate_nodes(
    network: Network,
    backend: Backend,
    bases: Bases,
    data: Data,
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
    numbers = {
        name: numbers_to_keep(len(basis), points) for name, basis in bases.items() if basis.rotated
    }
    curves: dict[str, dict[int, float]] = {name: {} for name in numbers}
    whole = base_score(network, backend, data) if tolerances else 0.0
    while any(numbers.values()):
        found = _node_scores(network, backend, bases, data, numbers, stage, progress)
        for name, scores in found.items():
            curves[name] = dict(sorted((curves[name] | scores).items(), reverse=True))
        numbers = {
            name: sorted(
                {
                    number
                    for tolerance in tolerances
                    for number in sizes_between(curve, whole, tolerance, backend.higher_is_better)
                }
            )
            for name, curve in curves.items()
        }
    return curves


def _node_scores(
    network: Network,
    backend: Backend,
    bases: Bases,
    data: Data,
    kept: Mapping[str, Sequence[int]],
    stage: str,
    progress: Progress,
) -> dict[str, dict[int, float]]:
    """Scores at these numbers of features, all in one pass over the data."""
    placed = {name: basis.to(data.dtype) for name, basis in bases.items()}

    def measure(batch: Batch) -> Sums:
        sums: dict[str, Tensor] = {"count": torch.tensor(len(batch.targets))}
        for index, x in enumerate(network.activations(batch.inputs)):
            name = network.node_layers[index].name
            for k in kept.get(name, ()):
                basis = placed[name]
                ablated = (x @ basis.encoder[:, :k]) @ basis.decoder[:k]
                scores = backend.score(network.from_layer(index, ablated), batch.targets)
                sums[f"{name} {k}"] = scores.sum()
        return sums

    sums = accumulate(data, measure, stage=stage, progress=progress)
    count = float(sums["count"])
    return {name: {k: float(sums[f"{name} {k}"]) / count for k in kept[name]} for name in kept}
