"""What it costs to let what is alike act as one.

Each unit or head goes on with the gate, or the pattern, of the member in the middle of its group,
and the outputs of the network show what that changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from libgraph.accumulate.sums import Sums, accumulate
from libgraph.backend.contract import Batch
from libgraph.backend.data import Data
from libgraph.degeneracy.synchrony.gates import UnitGroups, gates_of, linear_part
from libgraph.degeneracy.synchrony.groups import Groups
from libgraph.degeneracy.synchrony.heads import HeadGroups
from libgraph.degeneracy.synchrony.watchers import (
    Gated,
    Products,
    named_sections,
    samples_at_once,
    watched,
    watcher_of_units,
    watching_inputs,
)
from libgraph.errors import UsageError
from libgraph.network.network import Network
from libgraph.progress import Progress, silent
from libgraph.sections import Attention, Section
from libgraph.sections.section import Watcher


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
        for name, of_section in groups.items():
            section = sections.get(name)
            if isinstance(of_section, UnitGroups) and isinstance(section, Gated):
                watchers[section] = watcher_of_units(_swapping_units(of_section))
            elif isinstance(of_section, HeadGroups) and isinstance(section, Attention):
                inputs: list[Tensor] = []
                watchers[section] = _swapping_heads(of_section, inputs)
                stack.enter_context(watching_inputs(section, _remembering(inputs)))
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
            sums |= {name: sums[name] + part.square().sum() for name, part in squares.items()}
        return sums

    sums = accumulate(data, measure, stage="swaps", progress=progress)
    samples = float(sums["samples"])
    about_mean = sums["second"] - sums["first"].square().sum() / sums["rows"]
    return SwapLoss(float(sums["loss"]) / samples, max(float(about_mean), 0.0) / samples)


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
