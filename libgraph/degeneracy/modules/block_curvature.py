"""Curvature of the behavioural loss in coordinates of features, and spectra of its blocks.

H = 2 E[JᵀJ] is kept as itself where parameters are few, as rows of J otherwise: random sums of
output coordinates where those are too many. A block's eigenvalues come from its smaller side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libgraph.accumulate.sums import Sums, accumulate
from libgraph.backend.contract import Batch
from libgraph.backend.data import Data
from libgraph.degeneracy.modules.feature_weights import FeatureWeight
from libgraph.degeneracy.weights.jacobians import (
    CHUNK_BYTES,
    count_parameters,
    jacobian_rows,
    output_jacobians,
)
from libgraph.degeneracy.weights.weights import Weight
from libgraph.errors import NumericalError, TooLarge, UsageError
from libgraph.network.network import Network, NodeLayer
from libgraph.progress import Progress
from libgraph.sections import Function

JACOBIAN_BYTES = 4 * 2**30
"""J takes so much at most, however much is free, so that the same command finds the same."""


LEAST_ROWS = 100
"""With fewer rows than this, or than asked for, no count of parameters would mean anything."""


@dataclass(frozen=True, eq=False)
class BlockCurvature:
    """H itself, or J with H = JᵀJ.

    Args:
        hessian: H; None where it is too large.
        jacobian: J, weight by weight; nothing beside H.
        samples: how many the mean is over.
        rows: output coordinates, or sums of them, of all samples.
        exact: whether these are all output coordinates of all samples.
    """

    hessian: Tensor | None
    jacobian: Sequence[Float[Tensor, "rows entries"]]
    samples: int
    rows: int
    exact: bool

    def eigenvalues(self, chosen: Sequence[Bool[Tensor, " entries"]]) -> Float[Tensor, " k"]:
        """Of the block of these entries, zeros left out where they are known to be."""
        if self.hessian is not None:
            indices = torch.cat(list(chosen)).nonzero().squeeze(1)
            gram = self.hessian[indices][:, indices]
        elif sum(int(each.sum()) for each in chosen) < self.rows:
            pairs = zip(self.jacobian, chosen, strict=True)
            part = torch.cat([piece[:, each] for piece, each in pairs], dim=1)
            gram = part.T @ part
        else:
            gram = self.jacobian[0].new_zeros(self.rows, self.rows)
            for piece, each in zip(self.jacobian, chosen, strict=True):
                taken = piece if bool(each.all()) else piece[:, each]
                gram += taken @ taken.T
        found: Tensor = torch.linalg.eigvalsh(gram)
        return found.clamp(min=0)


def block_curvature(
    network: Network,
    data: Data,
    parts: Sequence[FeatureWeight],
    *,
    rows: int,
    seed: int,
    stage: str,
    progress: Progress,
) -> BlockCurvature:
    """H = 2 E[JᵀJ] over these parameters, parts in turn.

    Of all samples if these are all the parameters, or all the outputs, that `rows` allows; else
    from signed sums of outputs, equally many from each of as many samples as there are.

    Args:
        network: whose outputs count.
        data: what the mean is over.
        parts: weights in coordinates of features.
        rows: of J or H at most; fewer where J would take more than `JACOBIAN_BYTES`.
        seed: of the signs.
        stage: name under which progress is reported.
        progress: told of it.

    Raises:
        UsageError: if there are no weights.
        TooLarge: for too many parameters, so that less than `LEAST_ROWS` would fit.
        NumericalError: if derivatives are not finite.
    """
    if not parts:
        raise UsageError("The network has no weights to move: choose weights that are trained.")
    weights = [each.weight for each in parts]
    sizes = [count_parameters([weight]) for weight in weights]
    parameters = sum(len(each.modules) for each in parts)
    samples = sum(len(batch.inputs) for batch in data)
    with torch.no_grad():
        outputs = network(next(iter(data)).inputs[:1]).numel()

    def changed(found: Tensor) -> list[Tensor]:
        if not bool(found.isfinite().all()):
            raise NumericalError("Derivatives by parameters are NaN or infinite: check weights.")
        return [p.changed(j) for p, j in zip(parts, found.split(sizes, dim=1), strict=True)]

    if parameters <= rows:

        def measure(batch: Batch) -> Sums:
            gram = torch.zeros(parameters, parameters, dtype=torch.float64, device=data.device)
            for found in jacobian_rows(network, batch.inputs, weights):
                joined = torch.cat(changed(found), dim=1)
                gram += joined.T @ joined
            return {"gram": gram}

        gram = accumulate(data, measure, stage=stage, progress=progress)["gram"]
        return BlockCurvature(2 * gram / samples, (), samples, samples * outputs, True)
    fitting = JACOBIAN_BYTES // (8 * parameters)
    if fitting < min(rows, LEAST_ROWS):
        raise TooLarge(
            f"Derivatives by {parameters} parameters leave room for {fitting} rows of them: "
            "degeneracy by module needs a smaller network."
        )
    limit = min(rows, fitting)
    exact = samples * outputs <= limit
    taken = samples if exact else min(samples, limit)
    each = outputs if exact else limit // taken
    count = taken * each
    pieces = [
        torch.empty(count, len(part.modules), dtype=torch.float64, device=data.device)
        for part in parts
    ]
    found = (
        (part for batch in data for part in jacobian_rows(network, batch.inputs, weights))
        if exact
        else _signed_rows(network, data, weights, taken, each, outputs, seed)
    )
    done = 0
    for part in found:
        progress(stage, done, count)
        for piece, columns in zip(pieces, changed(part), strict=True):
            piece[done : done + len(part)] = columns * math.sqrt(2 / taken)
        done += len(part)
    progress(stage, count, count)
    return BlockCurvature(None, pieces, taken, count, exact)


def _signed_rows(
    network: Network,
    data: Data,
    weights: Sequence[Weight],
    samples: int,
    draws: int,
    outputs: int,
    seed: int,
) -> Iterator[Float[Tensor, "rows P"]]:
    """φᵀJ/√draws of each of the first samples, φ random signs: E[φφᵀ] = 1 keeps E[JᵀJ]."""
    generator = torch.Generator().manual_seed(seed)
    held = 8 * draws * max(outputs, count_parameters(weights))
    at_once = max(1, CHUNK_BYTES // held)
    for batch in data:
        for inputs in batch.inputs[:samples].split(at_once):
            shape = (len(inputs), draws, outputs)
            signs = 2 * torch.randint(2, shape, generator=generator) - 1
            yield output_jacobians(_under_signs(network, signs), inputs, weights).double()
        samples -= min(samples, len(batch.inputs))
        if not samples:
            return


def _under_signs(network: Network, signs: Int[Tensor, "n draws outputs"]) -> Network:
    """The network with signed sums of its outputs in place of them, over the root of the draws."""
    draws = signs.shape[1]

    def summed(y: Float[Tensor, "n t d"]) -> Float[Tensor, "n 1 draws"]:
        found: Tensor = torch.einsum("no,nro->nr", y.flatten(1), signs.to(y))
        return found.unsqueeze(1) / math.sqrt(draws)

    last = Function(summed, network.node_layers[-1].size, draws)
    layer = NodeLayer("under signs", draws, constant=False, rotated=False)
    return Network(network.embed, [*network.sections, last], [*network.node_layers, layer])
