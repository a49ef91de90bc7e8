"""Lesions: what a network loses without a module, and on what.

All features of a module are set to their means, in every node layer that has some of them, while
the network runs; the other features stay as what comes before them makes them. A module that is
about a token or a class is needed for that one more than for others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from libgraph.accumulate.sums import Sums, accumulate
from libgraph.backend.contract import Batch
from libgraph.backend.data import Data
from libgraph.errors import UsageError
from libgraph.graph.arrays import FloatArray, IndexArray
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.network.basis import Bases
from libgraph.network.cross_layer import carrying
from libgraph.network.network import Network
from libgraph.progress import Progress, silent

Loss = Callable[[Tensor, Tensor], Tensor]
"""Losses from outputs `(n, t, d)` of the network and targets, one or more for every sample."""


Groups = Callable[[Batch], Tensor]
"""The group of each loss of a batch, a whole number; in the shape of the losses."""


Removers = Mapping[str, Callable[[Tensor], Tensor]]
"""By node layer, activations to those without a module."""


@dataclass(frozen=True)
class Lesions:
    """Losses of a network, whole and without each module, by group.

    Args:
        count: How many losses there are of each group, shape ``(groups,)``.
        whole: Their mean in each group, NaN where there is none.
        lesioned: The same without each module, shape ``(modules, groups)``.
    """

    count: IndexArray
    whole: FloatArray
    lesioned: FloatArray

    @property
    def increase(self) -> FloatArray:
        """How much the loss of each group grows without each module, ``(modules, groups)``."""
        return self.lesioned - self.whole

    @property
    def total(self) -> FloatArray:
        """How much the loss grows over all groups, ``(modules,)``."""
        share = self.count / self.count.sum()
        grown: FloatArray = np.nansum(self.increase * share, axis=1)
        return grown


def lesion_modules(
    network: Network,
    bases: Bases,
    graph: InteractionGraph,
    data: Data,
    loss: Loss,
    groups: Groups,
    count: int,
    *,
    progress: Progress = silent,
) -> Lesions:
    """Measure what is lost without each module of a graph, by group.

    A lesion takes one run of the network for each module and batch.

    Args:
        network: In the dtype and on the device of the data.
        bases: Of its node layers, those that the graph is made of.
        graph: With a partition.
        data: Samples to measure on; means are taken over them too.
        loss: From outputs and targets.
        groups: The group of each loss: its target, say, or the token that it is predicted from.
        count: How many groups there are.
        progress: Told after every batch.

    Raises:
        UsageError: If the graph has no partition, or losses and groups do not fit together.
    """
    if graph.partition is None:
        raise UsageError(
            "This graph has no modules yet: attach find_communities(graph) by with_partition."
        )
    network = carrying(network, bases)
    with torch.no_grad():
        cast = {name: basis.to(data.dtype) for name, basis in bases.items()}
        means = _means(network, cast, data, progress)
        removers = [_removers(cast, graph, means, module) for module in range(graph.partition.size)]

        def measure(batch: Batch) -> Sums:
            members = groups(batch).flatten()
            runs: list[Removers] = [{}, *removers]
            losses = [
                _grouped(loss(_run(network, batch.inputs, run), batch.targets), members, count)
                for run in runs
            ]
            ones = torch.ones(len(members), dtype=torch.float64, device=members.device)
            return {"losses": torch.stack(losses), "count": _grouped(ones, members, count)}

        sums = accumulate(data, measure, stage="lesions", progress=progress)
    counted = sums["count"].cpu().numpy()
    with np.errstate(invalid="ignore"):
        by_group = sums["losses"].cpu().numpy() / counted
    return Lesions(counted.astype(np.int64), by_group[0], by_group[1:])


def _means(
    network: Network, bases: Bases, data: Data, progress: Progress
) -> dict[str, Float[Tensor, " k"]]:
    """Of every feature, over samples and positions."""

    def measure(batch: Batch) -> Sums:
        sums: dict[str, Tensor] = {}
        for layer, x in zip(network.node_layers, network.activations(batch.inputs), strict=True):
            f = bases[layer.name].features(x.flatten(0, 1))
            sums[layer.name] = f.sum(0, dtype=torch.float64)
            sums[f"{layer.name} count"] = torch.tensor(float(len(f)), dtype=torch.float64)
        return sums

    sums = accumulate(data, measure, stage="means of features", progress=progress)
    return {
        layer.name: (sums[layer.name] / sums[f"{layer.name} count"].to(sums[layer.name])).to(
            data.dtype
        )
        for layer in network.node_layers
    }


def _removers(
    bases: Bases, graph: InteractionGraph, means: Mapping[str, Tensor], module: int
) -> Removers:
    """By node layer, activations to those with the features of a module at their means."""

    def remover(name: str, members: IndexArray) -> Callable[[Tensor], Tensor]:
        basis, mean = bases[name], means[name]
        inside = torch.as_tensor(members, device=mean.device)
        decoder = basis.decoder[inside]

        def remove(x: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
            changed: Tensor = x + (mean[inside] - basis.features(x, inside)) @ decoder
            return changed

        return remove

    by_layer = {
        layer.name: np.flatnonzero(graph.membership(layer.name) == module) for layer in graph.layers
    }
    return {name: remover(name, members) for name, members in by_layer.items() if len(members)}


def _run(network: Network, inputs: Tensor, removers: Removers) -> Float[Tensor, "n t d_out"]:
    """The network's outputs, activations changed on the way."""
    x: Tensor = network.embed(inputs)
    for index, layer in enumerate(network.node_layers):
        x = network.sections[index - 1](x) if index else x
        if layer.name in removers:
            x = removers[layer.name](x)
    return x


def _grouped(values: Tensor, members: Int[Tensor, " m"], count: int) -> Float[Tensor, " groups"]:
    """Sums of values by group.

    Raises:
        UsageError: If there is not one group for each value, or one that is not below the count.
    """
    if values.numel() != len(members):
        raise UsageError(
            f"There are {values.numel()} losses and {len(members)} groups in a batch: give one "
            "group for each loss, and losses that are not averaged."
        )
    if len(members) and not 0 <= int(members.min()) <= int(members.max()) < count:
        raise UsageError(f"Group {int(members.max())} is none of {count}, from 0 on.")
    sums = torch.zeros(count, dtype=torch.float64, device=members.device)
    return sums.index_add_(0, members, values.flatten().double())
