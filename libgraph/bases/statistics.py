"""Mean and covariance of every node layer, from one pass over the data.

Positions count as samples. The sums are taken about the mean of the first batch, so that the
covariance does not drown in the square of the mean; a node layer with NaN or infinite activations
is named here, before anything is built on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.accumulate.sums import Sums, accumulate
from libgraph.backend.contract import Batch
from libgraph.backend.data import Data
from libgraph.errors import BackendError
from libgraph.network.network import Network, NodeLayer, check_finite
from libgraph.progress import Progress, silent


@dataclass(frozen=True)
class Statistics:
    """Of one node layer.

    Args:
        mean: `(d,)`, over samples and positions.
        covariance: `(d, d)`, divided by the number of samples and positions.
        count: samples.
        positions: positions per sample.
    """

    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]
    count: int
    positions: int


def node_statistics(
    network: Network, data: Data, progress: Progress = silent
) -> dict[str, Statistics]:
    """Statistics of every node layer (docs/math.md §2, steps 1 and 2), in float64.

    Raises:
        BackendError: naming the node layer that lacks the constant it should have: everything after
            it would be computed wrong without a word.
        NumericalError: naming the first node layer whose activations are not finite.
        DataError: if the split is empty.
    """
    shifts: dict[str, Tensor] = {}
    positions: dict[str, int] = {}
    with torch.no_grad():
        # One node layer after the other: all of them together are far more than a batch.
        first = network.activations(next(iter(data)).inputs)
        for layer, x in zip(network.node_layers, first, strict=True):
            shifts[layer.name] = x.flatten(0, 1).double().mean(0)
            positions[layer.name] = x.shape[1]

    def measure(batch: Batch) -> Sums:
        sums = {"count": torch.tensor(len(batch.inputs), dtype=torch.float64)}
        for layer, x in zip(network.node_layers, network.activations(batch.inputs), strict=True):
            check_finite(x, layer)
            name = layer.name
            shifted = x.flatten(0, 1).double() - shifts[name]
            sums[f"{name} first"] = shifted.sum(0)
            sums[f"{name} second"] = shifted.T @ shifted
        return sums

    sums = accumulate(data, measure, stage="statistics", progress=progress)
    count = int(sums["count"])
    result = {}
    for layer in network.node_layers:
        name = layer.name
        total = count * positions[name]
        offset = sums[f"{name} first"] / total
        covariance = sums[f"{name} second"] / total - torch.outer(offset, offset)
        result[name] = Statistics(shifts[name] + offset, covariance, count, positions[name])
        if layer.constant:
            _check_constant(layer, result[name], data.dtype)
    return result


def _check_constant(layer: NodeLayer, statistics: Statistics, dtype: torch.dtype) -> None:
    """Raise a `BackendError` unless the last coordinate is 1 at all samples, up to rounding."""
    mean, variance = float(statistics.mean[-1]), float(statistics.covariance[-1, -1])
    rounding = torch.finfo(dtype).eps ** 0.5
    if abs(mean - 1) > rounding or variance > rounding:
        raise BackendError(
            f"The last coordinate of node layer '{layer.name}' is not 1 (its mean is {mean:.4g}, "
            f"its variance {variance:.2g}): append the constant to activations and pass it on, or "
            "say constant=False of the node layer."
        )
