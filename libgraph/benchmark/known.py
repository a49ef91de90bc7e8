"""A network whose features and interactions are known, as a backend of tensors in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from libgraph.backend.contract import Backend, Batch, Split
from libgraph.benchmark.compiled import Compiled
from libgraph.graph.arrays import Pair
from libgraph.network.network import Network


class InMemory(Backend):
    """The same samples in both splits; scored by the relative error of its own outputs."""

    name = "benchmark"
    score_name = "error"
    higher_is_better = False

    def __init__(self, network: Network, inputs: Float[Tensor, "n s d"]) -> None:
        super().__init__()
        self._network, self.inputs = network, inputs
        self.targets = network(inputs)

    def network(self) -> Network:
        """A copy."""
        return deepcopy(self._network)

    def samples(self, split: Split) -> int:
        """All of them."""
        return len(self.inputs)

    def batches(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """In order."""
        pairs = zip(self.inputs.split(batch_size), self.targets.split(batch_size), strict=True)
        for inputs, targets in pairs:
            yield Batch(inputs, targets)

    def score(
        self, outputs: Float[Tensor, "n t d"], targets: Float[Tensor, "n t d"]
    ) -> Float[Tensor, " n"]:
        """Mean squares of differences."""
        return (outputs - targets).square().mean((1, 2))


@dataclass(frozen=True)
class Known:
    """A network and what is true of it.

    Args:
        name: of the problem.
        network: the network.
        inputs: samples.
        features: by node layer, what a feature of size 1 adds to the activation `(k, d)`, without
            the constant.
        edges: by layer pair, whether feature i acts on feature j, as `[j, i]`.
        modules: module of each feature, the same at all node layers; None where there are none.
        labelled: the backend the network is of, where that says what features stand for, instead
            of features that are known.
        program: that the network was compiled from, where its variables are known, likewise.
    """

    name: str
    network: Network
    inputs: Float[Tensor, "n s d"]
    features: Mapping[str, Float[Tensor, "k d"]]
    edges: Mapping[Pair, Bool[np.ndarray, "out in"]] = field(default_factory=dict)
    modules: tuple[int, ...] | None = None
    labelled: Backend | None = None
    program: Compiled | None = None

    @property
    def features_per_dimension(self) -> float:
        """How many features there are for each dimension; 1 where nobody knows."""
        for features in self.features.values():
            return features.shape[0] / features.shape[1]
        return 1.0

    def backend(self) -> Backend:
        """To be analysed."""
        return self.labelled or InMemory(self.network, self.inputs)
