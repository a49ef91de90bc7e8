"""Attention heads that attend alike: as far apart as their patterns, in total variation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from libgraph.accumulate.sums import Sums, accumulate
from libgraph.backend.contract import Batch
from libgraph.backend.data import Data
from libgraph.degeneracy.synchrony.groups import (
    SUMMATION,
    Groups,
    check_tolerance,
    complete_linkage,
)
from libgraph.degeneracy.synchrony.watchers import (
    named_sections,
    samples_at_once,
    watching_inputs,
)
from libgraph.errors import NumericalError
from libgraph.network.network import Network
from libgraph.progress import Progress, silent
from libgraph.sections import Attention
from libgraph.sections.chunks import chunks


@dataclass(frozen=True, eq=False)
class HeadStatistics:
    """How far apart the heads of an attention section are.

    Args:
        distances: mean over samples and queries of ½ Σ_s |a^g_ts − a^h_ts|.
        width: coordinates of a head's values.
        own_values: whether no two heads share their values.
        noise: distances that are as good as zero.
    """

    distances: Float[Tensor, "heads heads"]
    width: int
    own_values: bool
    noise: float


@dataclass(frozen=True, eq=False)
class HeadGroups(Groups):
    """Heads of a section that attend alike.

    Args:
        width: coordinates of a head's values.
        own_values: whether no two heads share their values.
    """

    width: int = field(kw_only=True)
    own_values: bool = field(kw_only=True)

    @property
    def extra(self) -> list[int]:
        """Free directions of each group beyond those of its heads by themselves.

        c heads of one pattern are one linear map through c·width coordinates, which can be mixed
        freely: (c² − c) width² more than within heads. Heads that share values cannot be mixed
        so, and none are counted for them: what is left are c − 1 copies of the pattern.
        """
        return [count * self.width**2 * self.own_values for count in super().extra]


def head_statistics(
    network: Network, data: Data, progress: Progress = silent
) -> dict[str, HeadStatistics]:
    """Distances between the heads of every attention section, in one pass over the data.

    Raises:
        NumericalError: naming the first section in which a pattern is not finite.
        DataError: if the split is empty.
    """
    sections = _attentions(network)
    if not sections:
        return {}
    at_once = samples_at_once(network, data)

    def measure(batch: Batch) -> Sums:
        sums: dict[str, Tensor] = {}

        def adding(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
            def see(section: nn.Module, inputs: tuple[Tensor]) -> None:
                sums[name] = _variation(cast(Attention, section), *inputs) + sums.get(name, 0)

            return see

        with ExitStack() as stack:
            for name, section in sections.items():
                stack.enter_context(watching_inputs(section, adding(name)))
            for inputs in batch.inputs.split(at_once):
                network(inputs)
        return {**sums, "samples": torch.tensor(len(batch.inputs), dtype=torch.float64)}

    sums = accumulate(data, measure, stage="heads", progress=progress)
    result = {}
    for name, section in sections.items():
        distances = sums[name] / sums["samples"].to(sums[name])
        if not bool(distances.isfinite().all()):
            raise NumericalError(
                f"Attention of '{name}' is NaN or infinite: check the weights and the inputs."
            )
        result[name] = HeadStatistics(
            distances,
            section.query.shape[1] // section.heads,
            section.value.shape[1] == section.query.shape[1],
            SUMMATION * torch.finfo(data.dtype).eps,
        )
    return result


def head_groups(statistics: HeadStatistics, tolerance: float = 0.0) -> HeadGroups:
    """Groups of heads of which no two are further apart than the tolerance, and rounding errors.

    Raises:
        UsageError: if the tolerance is negative.
    """
    check_tolerance("tolerance", tolerance)
    distances = statistics.distances
    use = torch.ones(len(distances), dtype=torch.bool)
    groups, order = complete_linkage(distances, tolerance + statistics.noise, use)
    return HeadGroups(
        groups, order, distances, width=statistics.width, own_values=statistics.own_values
    )


def _attentions(network: Network) -> dict[str, Attention]:
    return {n: s for n, s in named_sections(network) if isinstance(s, Attention)}


def _variation(section: Attention, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "heads heads"]:
    """Sum over samples, and mean over queries, of the total variation between heads."""
    heads, positions = section.heads, section.before + x.shape[1]
    total = x.new_zeros(heads, heads, dtype=torch.float64)
    for samples in chunks(len(x), heads * x.shape[1] * positions, x):
        patterns = section.attention_pattern(x[samples])
        for head in range(heads):
            apart = (patterns - patterns[:, head : head + 1]).abs().sum(-1) / 2
            total[head] += apart.double().mean(-1).sum(0)
    return total
