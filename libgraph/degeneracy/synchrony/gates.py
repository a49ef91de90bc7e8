"""Hidden units whose non-linearities act as one (arXiv 2405.10927).

A unit's gate γ is what its non-linearity multiplies by: h = γ z. Units with the same gate on all
data are one linear block, in which parameters may move without changing what the network does.
Gates are compared through their second moments, from one pass over the data; complete linkage makes
groups in which every two are close.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

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
    Gated,
    Products,
    named_sections,
    samples_at_once,
    watched,
    watcher_of_units,
)
from libgraph.errors import NumericalError
from libgraph.network.network import Network
from libgraph.progress import Progress, silent
from libgraph.sections import GatedMLP
from libgraph.sections.chunks import chunk_length
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import Watcher
from libgraph.sections.skip_mlp import average_slopes

ROUNDING = 16
"""Units are rounded by less than this times what their dtype can tell from 1."""


@dataclass(frozen=True, eq=False)
class UnitGroups(Groups):
    """Hidden units of a section that are gated alike.

    Args:
        dead: units that are zero on all data; they are in no group.
        constant: units that are always the same, but not zero.
        scale: what each unit's gate was divided by: 1, or the root mean square for `GatedMLP`.
    """

    dead: list[int]
    constant: list[int]
    scale: Float[Tensor, " units"] = field(repr=False)


@dataclass(frozen=True, eq=False)
class GateStatistics:
    """Moments of the gates γ and the outputs h of a section's hidden units.

    Args:
        rows: samples times positions; all means are over these.
        gate: mean of γ.
        gate_products: mean of γᵀγ.
        hidden: mean of h.
        hidden_square: mean of h².
        normalized: whether gates are compared after division by their root mean square.
        epsilon: what the dtype of the data can tell from 1.
    """

    rows: int
    gate: Float[Tensor, " units"]
    gate_products: Float[Tensor, "units units"]
    hidden: Float[Tensor, " units"]
    hidden_square: Float[Tensor, " units"]
    normalized: bool
    epsilon: float

    @property
    def scale(self) -> Float[Tensor, " units"]:
        """What the gates are divided by before they are compared; never zero."""
        square = self.gate_products.diagonal()
        if not self.normalized:
            return torch.ones_like(square)
        return torch.where(square > 0, square, 1).sqrt()

    @property
    def distances(self) -> Float[Tensor, "units units"]:
        """mean (γ_i − γ_j)²; for ReLU the share of rows at which just one of the two is on."""
        products = self.gate_products / torch.outer(self.scale, self.scale)
        square = products.diagonal()
        distances = (square.unsqueeze(1) + square - 2 * products).clamp_min(0)
        return distances.fill_diagonal_(0)

    @property
    def noise(self) -> float:
        """Distances, and variances as parts of mean squares, that are as good as zero."""
        summed = SUMMATION * torch.finfo(torch.float64).eps
        return max(summed, (ROUNDING * self.epsilon) ** 2)


def gated_sections(network: Network) -> dict[str, Gated]:
    """All sections with hidden units, named by their layer pair and place in it."""
    return {n: s for n, s in named_sections(network) if isinstance(s, Gated)}


def ungated(network: Network) -> dict[str, str]:
    """Sections whose hidden units have no gate, and why."""
    reasons = {}
    for name, section in gated_sections(network).items():
        if not _has_gates(section):
            activation = section.extra_repr()
            reasons[name] = f"{activation} is not zero at zero, so that no factor makes φ(z) from z"
    return reasons


def gate_statistics(
    network: Network, data: Data, progress: Progress = silent
) -> dict[str, GateStatistics]:
    """Statistics of every section whose units have gates, in one pass over the data.

    The gate of a unit is φ(z)/z, and φ'(0) at z = 0 (for ReLU: whether it is on); in a `GatedMLP`
    it is φ(xA). Sections that are left out are in `ungated`.

    Raises:
        NumericalError: naming the first section in which something is not finite.
        DataError: if the split is empty.
    """
    sections = {n: s for n, s in gated_sections(network).items() if _has_gates(s)}
    if not sections:
        return {}
    at_once = samples_at_once(network, data)

    def measure(batch: Batch) -> Sums:
        sums: dict[str, Tensor] = {}

        def adding(name: str) -> Watcher:
            def see(section: Gated, products: Products, hidden: Tensor, out: Tensor) -> Tensor:
                for key, value in _moments(section, products, hidden).items():
                    sums[f"{name} {key}"] = value + sums.get(f"{name} {key}", 0)
                return out

            return watcher_of_units(see)

        with watched({section: adding(name) for name, section in sections.items()}):
            for inputs in batch.inputs.split(at_once):
                network(inputs)
        return sums

    sums = accumulate(data, measure, stage="gates", progress=progress)
    result = {}
    for name, section in sections.items():
        rows = int(sums[f"{name} rows"])
        keys = ("gate", "gate products", "hidden", "hidden square")
        gate, products, hidden, square = (sums[f"{name} {key}"] / rows for key in keys)
        if not bool(products.isfinite().all() and square.isfinite().all()):
            raise NumericalError(
                f"Hidden units of '{name}' are NaN or infinite: check the weights and the inputs."
            )
        normalized, epsilon = isinstance(section, GatedMLP), torch.finfo(data.dtype).eps
        result[name] = GateStatistics(rows, gate, products, hidden, square, normalized, epsilon)
    return result


def unit_groups(
    statistics: GateStatistics,
    tolerance: float = 0.0,
    dead: float = 0.0,
    constant: float = 0.0,
) -> UnitGroups:
    """Groups of units of which no two gates are further apart than the tolerance.

    Rounding errors (`ROUNDING`, `SUMMATION`) are allowed on top of each of the tolerances.

    Args:
        statistics: of the section.
        tolerance: largest distance within a group.
        dead: a unit is dead if the root mean square of its output is at most this times the
            largest one in the section.
        constant: a unit is constant if the standard deviation of its output is at most this times
            its root mean square.

    Raises:
        UsageError: if a tolerance is negative.
    """
    for name, value in {"tolerance": tolerance, "dead": dead, "constant": constant}.items():
        check_tolerance(name, value)
    square, noise = statistics.hidden_square, statistics.noise
    is_dead = square <= (dead + ROUNDING * statistics.epsilon) ** 2 * square.max()
    variance = square - statistics.hidden**2
    is_constant = ~is_dead & (variance <= (constant**2 + noise) * square)
    distances = statistics.distances
    scaled = statistics.gate_products.diagonal() / statistics.scale**2
    groups, order = complete_linkage(distances, tolerance + noise * float(scaled.max()), ~is_dead)
    return UnitGroups(
        groups,
        order,
        distances,
        is_dead.nonzero().squeeze(1).tolist(),
        is_constant.nonzero().squeeze(1).tolist(),
        statistics.scale,
    )


def gates_of(section: Gated, products: Products, hidden: Tensor) -> Float[Tensor, "*n units"]:
    """γ, as large as it is, with h = γ times `linear_part`."""
    z = products["inner"]
    if isinstance(section, GatedMLP):
        return section.activation(z)
    zero = z.new_zeros(z.shape[-1])
    limit = average_slopes(section.activation, zero, Quadrature.gradient())
    return torch.where(z == 0, limit, hidden / torch.where(z == 0, 1, z))


def linear_part(section: Gated, products: Products) -> Float[Tensor, "*n units"]:
    """What the gates multiply."""
    return products["gate" if isinstance(section, GatedMLP) else "inner"]


def _has_gates(section: Gated) -> bool:
    if isinstance(section, GatedMLP):
        return True
    with torch.no_grad():
        return not bool(section.activation(torch.zeros_like(section.outer[:, 0])).any())


def _moments(section: Gated, products: Products, hidden: Tensor) -> dict[str, Tensor]:
    """Sums over all rows, some rows at a time."""
    hidden = hidden.flatten(0, -2)
    products = {name: z.flatten(0, -2) for name, z in products.items()}
    units = hidden.shape[1]
    first, mean, square = hidden.new_zeros(3, units, dtype=torch.float64)
    second = hidden.new_zeros(units, units, dtype=torch.float64)
    # Adding a product up costs as much as a row for each unit: chunks have at least so many.
    length = max(units, chunk_length(units, first))
    for start in range(0, len(hidden), length):
        rows = slice(start, start + length)
        h = hidden[rows]
        gates = gates_of(section, {n: z[rows] for n, z in products.items()}, h).double()
        first += gates.sum(0)
        second += gates.T @ gates
        mean += h.double().sum(0)
        square += h.double().square().sum(0)
    return {
        "rows": torch.tensor(len(hidden), dtype=torch.float64),
        "gate": first,
        "gate products": second,
        "hidden": mean,
        "hidden square": square,
    }
