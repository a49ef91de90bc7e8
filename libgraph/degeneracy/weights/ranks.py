"""Directions of the weights that activations or gradients leave free.

With G the Gram of a weight's inputs and K that of the outputs' gradients at what it gives, a change
ΔW with P_G ΔW P_K = 0, P projections on their ranges, does nothing on the data to first order: at
least d_in·d_out − rank(G)·rank(K) directions (arXiv 2405.10927). `try_moves` tries them out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import pad

from libgraph.accumulate.exact import LARGEST
from libgraph.accumulate.gradient_grams import MOST_PASSES, gradient_grams
from libgraph.accumulate.memory import chunk_bytes
from libgraph.accumulate.pieces import Piece
from libgraph.accumulate.sums import Numbered, Sums, accumulate
from libgraph.backend.contract import Batch
from libgraph.backend.data import Data
from libgraph.bases.method import Truncation, eigenbasis
from libgraph.degeneracy.weights.weights import Weight, watching, weights_of
from libgraph.network.network import Network
from libgraph.progress import Progress, silent
from libgraph.sections.chunks import DERIVATIVES

log = logging.getLogger("libgraph")


@dataclass(frozen=True, eq=False)
class GramSpectrum:
    """Eigenvalues of a Gram, largest first, its eigenvectors as columns, and its rank."""

    values: Float[Tensor, " k"]
    vectors: Float[Tensor, "k k"]
    rank: int

    @classmethod
    def of(cls, gram: Float[Tensor, "k k"], truncation: Truncation, where: str) -> GramSpectrum:
        """All eigenvalues, none below zero; those above the threshold make the rank.

        Raises:
            NumericalError: if the Gram is not finite; `where` names it.
        """
        values, vectors = eigenbasis(gram, Truncation(False, 0.0), where)
        # What rounding errors made negative is zero.
        rest = torch.linalg.qr(vectors, mode="complete").Q[:, len(values) :]
        values = pad(values, (0, rest.shape[1]))
        return cls(values, torch.cat([vectors, rest], dim=1), truncation.count(values))

    @cached_property
    def projection(self) -> Float[Tensor, "k k"]:
        """P, onto the range."""
        basis = self.vectors[:, : self.rank]
        return basis @ basis.T


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
    inputs: GramSpectrum
    gradients: GramSpectrum

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
        """Directions that change nothing, to first order."""
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

    Weights that the network never multiplies by are left out: nothing can be said of them.

    Raises:
        NumericalError: for activations or gradients that are not finite, naming the weight.
    """
    weights = weights_of(network) if weights is None else weights
    if not weights:
        return []

    room = chunk_bytes(DERIVATIVES.processor, data.memory)

    def measure(piece: Piece[Batch]) -> Sums:
        return _sums(network, weights, piece.batch.inputs, piece.seed, room)

    sums = accumulate(Numbered(data), measure, stage="ranks of weights", progress=progress)
    result = []
    for weight in weights:
        name = weight.name
        if f"{name} count" not in sums:
            continue
        count = sums[f"{name} count"]
        inputs, gradients = (
            GramSpectrum.of(sums[f"{name} {side}"] / count, truncation, f"Gram of {side} of {name}")
            for side in ("inputs", "gradients")
        )
        if gradients.rank == MOST_PASSES * int(count) < weight.shape[1]:
            log.warning(
                "Gradients at %s come from so few samples that random signs cannot tell their "
                "rank, and too much seems free: use more samples.",
                name,
            )
        result.append(WeightRanks(weight, inputs, gradients))
    return result


def _sums(
    network: Network, weights: Sequence[Weight], inputs: Tensor, number: int, room: int
) -> Sums:
    sums: dict[str, Tensor] = {}
    # One a product: what is used several times has several.
    shifts: list[tuple[Weight, Tensor]] = []

    def add(name: str, value: Tensor) -> None:
        sums[name] = sums[name] + value if name in sums else value

    def look(weight: Weight, x: Tensor, z: Tensor) -> None:
        rows = x.flatten(0, -2).double()
        add(f"{weight.name} inputs", rows.T @ rows)
        add(f"{weight.name} count", torch.tensor(len(rows), dtype=torch.float64))
        shifts.append((weight, torch.zeros_like(z)))

    with watching(weights, look):
        network(inputs)

    def outputs(*given: Tensor) -> Tensor:
        in_turn = iter(given)
        with watching(weights, lambda weight, x, z: next(in_turn)):
            y: Tensor = network(inputs)
        return y

    # The gradients are taken while nothing is recorded otherwise.
    with torch.enable_grad():
        grams = gradient_grams(outputs, [shift for _, shift in shifts], number, room=room)
    for (weight, _), gram in zip(shifts, grams, strict=True):
        add(f"{weight.name} gradients", gram)
    return sums


@dataclass(frozen=True)
class MoveTrial:
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
    ranks: Sequence[WeightRanks],
    *,
    step: float = 1e-3,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, MoveTrial]:
    """Move each weight along one random free and one random used direction, `step` of its norm.

    The change is the largest one of any output on the data; where all outputs are zero, as it is.
    """
    moves: dict[str, Mapping[str, Tensor]] = {}
    for number, of_weight in enumerate(ranks):
        weight = of_weight.weight
        matrix = weight.matrix.detach().double()
        generator = torch.Generator().manual_seed(seed + number)
        change = torch.randn(matrix.shape, generator=generator, dtype=torch.float64).to(matrix)
        used = of_weight.used_part(change)
        for kind, part in (("free", change - used), ("used", used)):
            if kind == "free" and not of_weight.free:
                continue
            scale = step * matrix.norm() / part.norm() if bool(part.any()) else 0.0
            moves[f"{weight.name} {kind}"] = weight.moved(part * scale)

    def measure(batch: Batch) -> Sums:
        outputs = network(batch.inputs)
        square = outputs.double().square()
        found = {"square": square.sum(), "count": torch.tensor(square.numel())}
        for name, tensors in moves.items():
            # With ties a module that stands in two places would not be put back as it was.
            changed = functional_call(network, dict(tensors), (batch.inputs,), tie_weights=False)
            found[f"{LARGEST}{name}"] = (changed - outputs).abs().max()
        return found

    sums = accumulate(data, measure, stage="moving weights", progress=progress)
    largest = {name: float(sums[f"{LARGEST}{name}"]) for name in moves}
    scale = float((sums["square"] / sums["count"]).sqrt()) or 1.0
    trials = {}
    for of_weight in ranks:
        name = of_weight.weight.name
        free = largest[f"{name} free"] / scale if of_weight.free else None
        trials[name] = MoveTrial(free, largest[f"{name} used"] / scale)
    return trials
