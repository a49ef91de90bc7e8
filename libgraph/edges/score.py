"""The score of a network on a split, the mean over its samples: what ablations are held against."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from libgraph.accumulate.ranks import ranks
from libgraph.accumulate.sums import Sums, accumulate
from libgraph.backend.checks import check_scores
from libgraph.backend.contract import Backend, Batch
from libgraph.backend.data import Data
from libgraph.errors import NumericalError
from libgraph.network.basis import Bases
from libgraph.network.cross_layer import carrying
from libgraph.network.network import Network, not_finite


@dataclass(frozen=True, eq=False)
class Scoring:
    """A network whose outputs a backend scores on some data.

    Args:
        network: in the dtype of `data`.
        backend: scores the outputs.
        data: usually the test split.
    """

    network: Network
    backend: Backend
    data: Data

    def carrying(self, bases: Bases) -> Scoring:
        """The same where bases carry latents beside activations, which scores do not see."""
        network = carrying(self.network, bases)
        return (
            self if network is self.network else _Carrying(network, self.backend, self.data, self)
        )

    @cached_property
    def base_score(self) -> float:
        """Mean score of the whole model, computed once.

        Raises:
            NumericalError: naming the first node layer whose activations are not finite.
        """
        return base_score(self.network, self.backend, self.data)

    @property
    def shares_batches(self) -> bool:
        """Whether there are batches for all ranks of a job; otherwise these share out tasks."""
        return len(self.data) >= ranks()[1]


@dataclass(frozen=True, eq=False)
class _Carrying(Scoring):
    """With latents beside activations, and the score of the network without."""

    plain: Scoring

    @cached_property
    def base_score(self) -> float:
        """Of the model itself."""
        return self.plain.base_score


def base_score(network: Network, backend: Backend, data: Data) -> float:
    """Mean score of the whole model.

    Raises:
        BackendError: if there is not one score a sample.
        NumericalError: naming the first node layer whose activations are not finite.
    """

    def measure(batch: Batch) -> Sums:
        flags = []
        # One node layer after the other, of which the last one stays.
        for x in network.activations(batch.inputs):
            flags.append(~x.isfinite().all())
        broken = torch.stack(flags)
        count = torch.tensor(len(batch.inputs))
        if bool(broken.any()):
            return {"score": torch.zeros(()), "count": count, "broken": broken}
        scores = check_scores(backend.score(x, batch.targets), len(batch.inputs))
        return {"score": scores.sum(), "count": count, "broken": broken}

    sums = accumulate(data, measure, label="score of the whole model")
    # Added up, so that all ranks find it out, and do the same about it.
    for layer, broken in zip(network.node_layers, sums["broken"].tolist(), strict=True):
        if broken:
            raise not_finite(layer, data.dtype)
    mean = mean_score(sums)
    if not math.isfinite(mean):
        raise NumericalError(
            f"The score of the whole model, its {backend.score_name}, is {mean:g} in "
            f"{str(data.dtype).removeprefix('torch.')}: check inputs and targets for values whose "
            "squares are too large, or use score_dtype='float64'."
        )
    return mean


def mean_score(sums: Sums) -> float:
    """From summed scores and their count."""
    return float(sums["score"]) / float(sums["count"])
