"""Curvature of the behavioural loss in coordinates of features, and spectra of its blocks.

H = 2 E[JᵀJ] is kept as itself where parameters are few, as rows of J otherwise: random sums of
output coordinates where those are too many. A block's eigenvalues come from its smaller side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libgraph.accumulate.halfway import steps
from libgraph.accumulate.memory import chunk_bytes
from libgraph.accumulate.sums import Sums, accumulate
from libgraph.backend.contract import Batch
from libgraph.backend.data import Data
from libgraph.degeneracy.modules.feature_weights import FeatureWeight
from libgraph.degeneracy.weights.jacobians import (
    CHUNK_BYTES,
    count_parameters,
    jacobian_parts,
    jacobian_rows,
    output_jacobians,
)
from libgraph.errors import NumericalError, TooLarge, UsageError
from libgraph.files.limits import in_bytes
from libgraph.network.network import Network, NodeLayer
from libgraph.progress import Progress
from libgraph.sections import Function

JACOBIAN_BYTES = 4 * 2**30
"""J with what its blocks take at most, however much is free, so that the same command finds the
same; a third of the memory budget where one is given, as J is made a part at a time beside it."""


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
        elif sum(int(entries.sum()) for entries in chosen) < self.rows:
            pairs = zip(self.jacobian, chosen, strict=True)
            block = torch.cat([piece[:, entries] for piece, entries in pairs], dim=1)
            gram = block.T @ block
        else:
            gram = self.jacobian[0].new_zeros(self.rows, self.rows)
            for piece, entries in zip(self.jacobian, chosen, strict=True):
                block = piece if bool(entries.all()) else piece[:, entries]
                gram += block @ block.T
        values: Tensor = torch.linalg.eigvalsh(gram)
        return values.clamp(min=0)


def block_curvature(
    network: Network,
    data: Data,
    weights: Sequence[FeatureWeight],
    *,
    rows: int,
    seed: int,
    stage: str,
    progress: Progress,
) -> BlockCurvature:
    """H = 2 E[JᵀJ] over these parameters, weight by weight.

    Of all samples if these are all the parameters, or all the outputs, that `rows` allows; else
    from signed sums of outputs, equally many from each of as many samples as there are.

    Args:
        network: whose outputs count.
        data: what the mean is over.
        weights: in coordinates of features.
        rows: of J or H at most; fewer where J would take more than `JACOBIAN_BYTES`.
        seed: of the signs.
        stage: name under which progress is reported.
        progress: told of it.

    Raises:
        UsageError: if there are no weights.
        TooLarge: for too many parameters, so that less than `LEAST_ROWS` would fit.
        NumericalError: if derivatives are not finite.
    """
    if not weights:
        raise UsageError("The network has no weights to move: choose weights that are trained.")
    parameters = sum(len(weight.modules) for weight in weights)
    samples = sum(len(batch.inputs) for batch in data)
    with torch.no_grad():
        outputs = network(next(iter(data)).inputs[:1]).numel()
    if parameters <= rows:
        hessian = _hessian(network, data, weights, stage, progress) / samples
        return BlockCurvature(hessian, (), samples, samples * outputs, True)
    room = JACOBIAN_BYTES if data.memory is None else min(JACOBIAN_BYTES, data.memory // 3)
    # Blocks are copied weight by weight; of the Gram there are three copies with eigenvalues.
    columns = parameters + max(len(weight.modules) for weight in weights)
    fitting = _most_rows(room // 8, columns, 3)
    if fitting < min(rows, LEAST_ROWS):
        smaller = "" if room == JACOBIAN_BYTES else " or a larger memory='…'"
        raise TooLarge(
            f"Derivatives by {parameters} parameters leave room for {fitting} rows of them in "
            f"{in_bytes(room)}: degeneracy by module needs a smaller network{smaller}."
        )
    most = min(rows, fitting)
    if exact := samples * outputs <= most:
        count, pieces = samples * outputs, _exact_rows(network, data, weights)
    else:
        samples = min(samples, most)
        count, draws = samples * (most // samples), most // samples
        pieces = _signed_rows(network, data, weights, samples, draws, seed)
    jacobian = _gathered(pieces, weights, samples, count, partial(progress, stage))
    return BlockCurvature(None, jacobian, samples, count, exact)


def _most_rows(room: int, columns: int, squares: int) -> int:
    """The largest r with squares·r² + columns·r ≤ room."""
    return (math.isqrt(columns**2 + 4 * squares * room) - columns) // (2 * squares)


def _hessian(
    network: Network,
    data: Data,
    weights: Sequence[FeatureWeight],
    stage: str,
    progress: Progress,
) -> Float[Tensor, "P P"]:
    """2 Σ_x JᵀJ."""
    parameters = sum(len(weight.modules) for weight in weights)
    matrices = [weight.weight for weight in weights]

    def measure(batch: Batch) -> Sums:
        gram = torch.zeros(parameters, parameters, dtype=torch.float64, device=data.device)
        for rows in jacobian_rows(network, batch.inputs, matrices, data.memory):
            joined = torch.cat(_by_features(rows, weights), dim=1)
            gram += joined.T @ joined
        return {"gram": gram}

    return 2 * accumulate(data, measure, stage=stage, progress=progress)["gram"]


def _by_features(
    rows: Float[Tensor, "rows P"], weights: Sequence[FeatureWeight]
) -> list[Float[Tensor, "rows entries"]]:
    """Rows of J in coordinates of features, weight by weight."""
    if not bool(rows.isfinite().all()):
        raise NumericalError("Derivatives by parameters are NaN or infinite: check weights.")
    sizes = [count_parameters([weight.weight]) for weight in weights]
    pairs = zip(weights, rows.split(sizes, dim=1), strict=True)
    return [weight.changed(columns) for weight, columns in pairs]


def _gathered(
    pieces: Iterable[Callable[[], Float[Tensor, "rows P"]]],
    weights: Sequence[FeatureWeight],
    samples: int,
    count: int,
    told: Callable[[int, int], None],
) -> list[Float[Tensor, "count entries"]]:
    """J √(2/samples) from some of its rows at a time, weight by weight, by features."""
    jacobian: list[Tensor] = []
    with steps("rows of J") as kept:
        before = [kept.state[str(number)] for number in range(len(kept.state))]
        done = len(before[0]) if before else 0
        for number, compute in enumerate(pieces):
            if number < kept.done:
                continue
            told(done, count)
            columns = _by_features(compute(), weights)
            if not jacobian:
                jacobian = [column.new_empty(count, column.shape[1]) for column in columns]
                for piece, rows in zip(jacobian, before, strict=False):
                    piece[:done] = rows
                before.clear()
            more = done + len(columns[0])
            for piece, column in zip(jacobian, columns, strict=True):
                piece[done:more] = column * math.sqrt(2 / samples)
            done = more
            # Of the rows those up to here, which stay as they are.
            state = {str(place): piece[:done] for place, piece in enumerate(jacobian)}
            kept.note(number + 1, state)
        # Unless all were there.
        jacobian = jacobian or [rows.to(weights[0].weight.rows.device) for rows in before]
    told(count, count)
    return jacobian


def _exact_rows(
    network: Network, data: Data, weights: Sequence[FeatureWeight]
) -> Iterator[Callable[[], Float[Tensor, "rows P"]]]:
    """J of all samples, some of them at a time."""
    matrices = [weight.weight for weight in weights]
    for batch in data:
        yield from jacobian_parts(network, batch.inputs, matrices, data.memory)


def _signed_rows(
    network: Network,
    data: Data,
    weights: Sequence[FeatureWeight],
    samples: int,
    draws: int,
    seed: int,
) -> Iterator[Callable[[], Float[Tensor, "rows P"]]]:
    """φᵀJ/√draws of each of the first samples, φ random signs: E[φφᵀ] = 1 keeps E[JᵀJ]."""
    matrices = [weight.weight for weight in weights]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        outputs = network(next(iter(data)).inputs[:1]).numel()
    held = 8 * draws * max(outputs, count_parameters(matrices))
    at_once = max(1, chunk_bytes(CHUNK_BYTES, data.memory) // held)

    def rows(inputs: Tensor, signs: Tensor) -> Float[Tensor, "rows P"]:
        summed = _under_signs(network, signs)
        return output_jacobians(summed, inputs, matrices, data.memory).double()

    for batch in data:
        for inputs in batch.inputs[:samples].split(at_once):
            shape = (len(inputs), draws, outputs)
            signs = 2 * torch.randint(2, shape, generator=generator) - 1
            yield partial(rows, inputs, signs)
        samples -= min(samples, len(batch.inputs))
        if not samples:
            return


def _under_signs(network: Network, signs: Int[Tensor, "n draws outputs"]) -> Network:
    """The network with signed sums of its outputs in place of them, over the root of the draws."""
    draws = signs.shape[1]

    def summed(y: Float[Tensor, "n t d"]) -> Float[Tensor, "n 1 draws"]:
        sums: Tensor = torch.einsum("no,nro->nr", y.flatten(1), signs.to(y))
        return sums.unsqueeze(1) / math.sqrt(draws)

    last = Function(summed, network.node_layers[-1].size, draws)
    layer = NodeLayer("under signs", draws, constant=False, rotated=False)
    return Network(network.embed, [*network.sections, last], [*network.node_layers, layer])
