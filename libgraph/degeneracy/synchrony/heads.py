"""Attention heads that attend alike, and what it costs to let what is alike act as one.

Two heads are as far apart as their patterns, in total variation. Whether units or heads of a group
really do the same is seen by swapping: each goes on with the gate, or the pattern, of the member in
the middle of its group, and the outputs of the network show what that changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from libgraph.accumulate.sums import Sums, accumulate
from libgraph.backend.contract import Batch
from libgraph.backend.data import Data
from libgraph.degeneracy.synchrony.gates import UnitGroups, gates_of, linear_part
from libgraph.degeneracy.synchrony.groups import (
    SUMMATION,
    Groups,
    check_tolerance,
    complete_linkage,
)
from libgraph.degeneracy.synchrony.watchers import (
    Gated,
    Products,
    named_sections,
    samples_at_once,
    watched,
    watcher_of_units,
)
from libgraph.errors import NumericalError, UsageError
from libgraph.network.network import Network
from libgraph.progress import Progress, silent
from libgraph.sections import Attention, Section
from libgraph.sections.chunks import chunks
from libgraph.sections.section import Watcher


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
        return [each * self.width**2 * self.own_values for each in super().extra]


@dataclass(frozen=True)
class SwapLoss:
    """What swapping does to the outputs.

    Args:
        loss: mean over samples of ‖f_swapped(x) − f(x)‖², summed over positions and coordinates.
        variance: the same of f(x) less its mean over samples and positions.
    """

    loss: float
    variance: float

    @property
    def share(self) -> float:
        """The loss as a part of the variance."""
        if self.variance > 0:
            return self.loss / self.variance
        return math.inf if self.loss > 0 else 0.0


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
                found = _variation(cast(Attention, section), *inputs)
                sums[name] = found + sums.get(name, 0)

            return see

        with ExitStack() as stack:
            for name, section in sections.items():
                stack.enter_context(_hooked(section, adding(name)))
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
    every = torch.ones(len(distances), dtype=torch.bool)
    groups, order = complete_linkage(distances, tolerance + statistics.noise, every)
    return HeadGroups(
        groups, order, distances, width=statistics.width, own_values=statistics.own_values
    )


@contextmanager
def swapped(network: Network, groups: Mapping[str, Groups]) -> Iterator[Network]:
    """While this lasts every unit and head of a group goes on with the gate of its medoid.

    Units become h = γ z with the medoid's γ, which for `GatedMLP` is brought to the unit's own
    scale; heads read their own values under the medoid's pattern. Nothing else may watch these
    sections in the meantime.

    Args:
        network: changed in place, and changed back at the end.
        groups: by name of the section, `UnitGroups` and `HeadGroups` as they come.

    Raises:
        UsageError: naming groups that belong to no section of the network.
    """
    sections = dict(named_sections(network))
    watchers: dict[Section, Watcher] = {}
    with ExitStack() as stack:
        for name, found in groups.items():
            section = sections.get(name)
            if isinstance(found, UnitGroups) and isinstance(section, Gated):
                watchers[section] = watcher_of_units(_swapping_units(found))
            elif isinstance(found, HeadGroups) and isinstance(section, Attention):
                inputs: list[Tensor] = []
                watchers[section] = _swapping_heads(found, inputs)
                stack.enter_context(_hooked(section, _remembering(inputs)))
            else:
                raise UsageError(
                    f"The network has no section '{name}' for these groups: take groups that were "
                    "found in this network."
                )
        stack.enter_context(watched(watchers))
        yield network


def swap_loss(
    network: Network, data: Data, groups: Mapping[str, Groups], progress: Progress = silent
) -> SwapLoss:
    """How much the outputs change when groups are `swapped`, in one pass over the data.

    Raises:
        UsageError: naming groups that belong to no section of the network.
        DataError: if the split is empty.
    """
    at_once = samples_at_once(network, data)
    with torch.no_grad():
        # Squares are taken about a typical output, so that they do not drown in that of the mean.
        shift = network(next(iter(data)).inputs[:1]).mean((0, 1))

    def measure(batch: Batch) -> Sums:
        names = ("loss", "first", "second", "rows", "samples")
        sums = dict.fromkeys(names, torch.zeros((), dtype=torch.float64, device=shift.device))
        for inputs in batch.inputs.split(at_once):
            outputs = network(inputs)
            with swapped(network, groups):
                changed = network(inputs)
            y = (outputs - shift).double().flatten(0, 1)
            counts = {"rows": len(y), "samples": len(inputs)}
            squares = {"loss": (changed - outputs).double(), "second": y}
            sums["first"] = sums["first"] + y.sum(0)
            sums |= {name: sums[name] + count for name, count in counts.items()}
            sums |= {name: sums[name] + each.square().sum() for name, each in squares.items()}
        return sums

    sums = accumulate(data, measure, stage="swaps", progress=progress)
    samples = float(sums["samples"])
    about_mean = sums["second"] - sums["first"].square().sum() / sums["rows"]
    return SwapLoss(float(sums["loss"]) / samples, max(float(about_mean), 0.0) / samples)


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


def _swapping_units(groups: UnitGroups) -> Callable[[Gated, Products, Tensor, Tensor], Tensor]:
    members, medoids = groups.sources

    def see(section: Gated, products: Products, hidden: Tensor, out: Tensor) -> Tensor:
        scale = groups.scale[members] / groups.scale[medoids]
        gates = gates_of(section, products, hidden)[..., medoids] * scale.to(hidden)
        changed = hidden.clone()
        changed[..., members] = gates * linear_part(section, products)[..., members]
        return changed @ section.factor("outer")

    return see


def _swapping_heads(groups: HeadGroups, inputs: list[Tensor]) -> Watcher:
    """A watcher that finds the section's input in `inputs` and takes it."""
    members, medoids = groups.sources

    def watcher(section: Section, name: str, x: Tensor, z: Tensor) -> Tensor:
        if name != "output":
            return z
        attention, before = cast(Attention, section), inputs.pop()
        values = attention.project(before).v[:, members]
        patterns = attention.attention_pattern(before)[:, medoids]
        changed: Tensor = x.unflatten(-1, (attention.heads, -1)).clone()
        changed[..., members, :] = (patterns @ values).transpose(1, 2)
        out: Tensor = changed.flatten(-2) @ section.factor("output")
        return out

    return watcher


def _remembering(inputs: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor]], None]:
    def see(section: nn.Module, given: tuple[Tensor]) -> None:
        inputs[:] = given

    return see


@contextmanager
def _hooked(section: Section, see: Callable[[nn.Module, tuple[Tensor]], None]) -> Iterator[None]:
    """Let `see` look at what goes into a section while this lasts."""
    handle = section.register_forward_pre_hook(see)
    try:
        yield
    finally:
        handle.remove()
