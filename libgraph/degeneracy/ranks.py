"""Directions of the weights that activations or gradients leave free.

With G the Gram of a weight's inputs and K that of the outputs' gradients at what it gives, a change
ΔW with P_K ΔW P_G = 0, P projections on their ranges, does nothing on the data: at least
d_in·d_out − rank(G)·rank(K) directions (arXiv 2405.10927). What is called free can be tried out.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from libgraph.accumulate import Data, Progress, Sums, accumulate, silent
from libgraph.backend import Batch
from libgraph.bases import Truncation
from libgraph.bases.basis import eigenbasis
from libgraph.degeneracy.weights import Weight, watching, weights_of
from libgraph.gradients import gradient_grams
from libgraph.network import Network


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of a Gram, largest first, its eigenvectors as columns, and its rank."""

    values: Float[Tensor, " k"]
    vectors: Float[Tensor, "k k"]
    rank: int

    @classmethod
    def of(cls, gram: Float[Tensor, "k k"], truncation: Truncation, where: str) -> Spectrum:
        """All eigenvalues, none below zero; those above the threshold make the rank.

        Raises:
            NumericalError: if the Gram is not finite; `where` names it.
        """
        values, vectors = eigenbasis(gram, Truncation(False, -1.0), where)
        values = values.clamp(min=0)
        return cls(values, vectors, truncation.count(values))

    @cached_property
    def projection(self) -> Float[Tensor, "k k"]:
        """P, onto the range."""
        kept = self.vectors[:, : self.rank]
        return kept @ kept.T


@dataclass(frozen=True, eq=False)
class WeightRanks:
    """What activations and gradients leave free of a weight.

    Args:
        weight: which.
        inputs: of G, the mean of xᵀx over samples and positions, not centred, so that the
            constant's row, the bias, is one direction like others.
        gradients: of K, the mean of Σ g gᵀ, g the gradient of an output coordinate at xW.
    """

    weight: Weight
    inputs: Spectrum
    gradients: Spectrum

    @property
    def parameters(self) -> int:
        """Entries of the weight."""
        rows, columns = self.weight.shape
        return rows * columns

    @property
    def used(self) -> int:
        """rank(G)·rank(K)."""
        return self.inputs.rank * self.gradients.rank

    @property
    def free(self) -> int:
        """Directions that change nothing."""
        return self.parameters - self.used

    def effective(self, epsilon: Float[Tensor, " m"], positions: int = 1) -> Float[Tensor, " m"]:
        """Eigenvalues of 2·positions·G ⊗ K above each ε.

        That would be the Hessian of the behavioural loss if activations and gradients were
        independent (Kronecker-factored curvature, arXiv 1503.05671).
        """
        products = 2 * positions * torch.outer(self.inputs.values, self.gradients.values)
        ordered = products.flatten().sort().values
        return len(ordered) - torch.searchsorted(ordered, epsilon.to(ordered), right=True)

    def used_part(self, change: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """P_G ΔW P_K: the rest of the change is free."""
        return self.inputs.projection @ change @ self.gradients.projection


def weight_ranks(
    network: Network,
    data: Data,
    truncation: Truncation,
    weights: Sequence[Weight] | None = None,
    progress: Progress = silent,
) -> list[WeightRanks]:
    """Spectra and ranks of every weight, from one pass over the data.

    Raises:
        NumericalError: for activations or gradients that are not finite, naming the weight.
    """
    weights = weights_of(network) if weights is None else weights
    numbers = itertools.count()

    def measure(batch: Batch) -> Sums:
        return _sums(network, weights, batch.inputs, next(numbers))

    sums = accumulate(data, measure, stage="ranks of weights", progress=progress)
    result = []
    for w in weights:
        count = sums[f"{w.name} count"]
        spectra = (
            Spectrum.of(sums[f"{w.name} {side}"] / count, truncation, f"Gram of {side} of {w.name}")
            for side in ("inputs", "gradients")
        )
        result.append(WeightRanks(w, *spectra))
    return result


def _sums(network: Network, weights: Sequence[Weight], inputs: Tensor, number: int) -> Sums:
    sums: dict[str, Tensor] = {}
    shifts: dict[Weight, Tensor] = {}

    def look(weight: Weight, x: Tensor, z: Tensor) -> None:
        rows = x.flatten(0, -2).double()
        sums[f"{weight.name} inputs"] = rows.T @ rows
        sums[f"{weight.name} count"] = torch.tensor(len(rows), dtype=torch.float64)
        shifts[weight] = torch.zeros_like(z)

    with watching(weights, look):
        network(inputs)

    def outputs(*given: Tensor) -> Tensor:
        by_weight = dict(zip(shifts, given, strict=True))
        with watching(weights, lambda weight, x, z: by_weight[weight]):
            found: Tensor = network(inputs)
        return found

    # The gradients are taken while nothing is recorded otherwise.
    with torch.enable_grad():
        grams = gradient_grams(outputs, list(shifts.values()), number)
    for weight, gram in zip(shifts, grams, strict=True):
        sums[f"{weight.name} gradients"] = gram
    return sums


@dataclass(frozen=True)
class Trial:
    """What moving a weight does to the outputs, as shares of their root mean square.

    Args:
        free: along a random free direction; None where there is none.
        used: along a random direction that is not free.
    """

    free: float | None
    used: float


def try_moves(
    network: Network,
    data: Data,
    found: Sequence[WeightRanks],
    *,
    step: float = 1e-3,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Trial]:
    """Move each weight along one random free and one random used direction, `step` of its norm.

    The change is the largest one of any output on the data.
    """
    moves: dict[str, Mapping[str, Tensor]] = {}
    for number, each in enumerate(found):
        matrix = each.weight.matrix.double()
        generator = torch.Generator().manual_seed(seed + number)
        change = torch.randn(matrix.shape, generator=generator, dtype=torch.float64).to(matrix)
        used = each.used_part(change)
        for kind, part in (("free", change - used), ("used", used)):
            if kind == "free" and not each.free:
                continue
            scale = step * matrix.norm() / part.norm() if bool(part.any()) else 0.0
            moves[f"{each.weight.name} {kind}"] = each.weight.moved(part * scale)
    largest = dict.fromkeys(moves, 0.0)

    def measure(batch: Batch) -> Sums:
        outputs = network(batch.inputs)
        for name, tensors in moves.items():
            changed = functional_call(network, dict(tensors), (batch.inputs,))
            largest[name] = max(largest[name], float((changed - outputs).abs().max()))
        square = outputs.double().square()
        return {"square": square.sum(), "count": torch.tensor(square.numel())}

    sums = accumulate(data, measure, stage="moving weights", progress=progress)
    scale = float((sums["square"] / sums["count"]).sqrt())
    return {
        each.weight.name: Trial(
            largest[f"{each.weight.name} free"] / scale if each.free else None,
            largest[f"{each.weight.name} used"] / scale,
        )
        for each in found
    }
