"""How many parameters matter at a tolerance: the spectrum of the behavioural loss's Hessian.

L_B(θ) = mean ‖f_θ(x) − f_θ*(x)‖² is zero at θ*, so that its Hessian there is exactly 2 E[JᵀJ], J
the outputs' Jacobian in the parameters. The number of its eigenvalues above ε is the effective
number of parameters at ε where the loss is quadratic (arXiv 2405.10927); `volume` asks elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, jvp, vjp, vmap

from libgraph.accumulate.halfway import steps
from libgraph.accumulate.memory import chunk_bytes, memory_budget
from libgraph.accumulate.sums import Sums, accumulate
from libgraph.backend.contract import Batch
from libgraph.backend.data import Data
from libgraph.bases.method import Truncation
from libgraph.degeneracy.behaviour.lanczos import SHARP, HessianSpectrum, Product, lanczos
from libgraph.degeneracy.weights.jacobians import (
    CHUNK_BYTES,
    count_parameters,
    jacobian_gram,
    jacobian_rows,
    split_change,
)
from libgraph.degeneracy.weights.weights import Weight, moved, weights_of
from libgraph.errors import NumericalError, UsageError
from libgraph.network.network import Network
from libgraph.progress import Progress, silent

MOST_EXACT = 4000
"""Parameters, or output coordinates of all samples, up to which all eigenvalues are found."""


KERNEL_BYTES = 2 * 2**30
"""Jacobians that JJᵀ is made from take so much, or the memory budget where one is given; of one
weight alone, all samples have to fit."""


VECTOR_BYTES = 4 * 2**30
"""Vectors of probes that go on side by side take so much, or half of what is free if that is less;
a quarter of the memory budget where one is given."""


STAGE = "behavioural loss"


@dataclass(frozen=True)
class Probes:
    """Random signs that stochastic Lanczos starts from, where eigenvalues are too many.

    Args:
        count: how many, at least 2, so that they tell how far they differ.
        steps: products with the Hessian that each takes.
        seed: of the signs.

    Raises:
        UsageError: for fewer than two probes, or less than one step.
    """

    count: int = 8
    steps: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 2 or self.steps < 1:
            raise UsageError(
                f"{self.count} probes of {self.steps} steps: use at least 2 probes and 1 step."
            )

    def vectors(self, parameters: int) -> Float[Tensor, "m P"]:
        """±1 with equal chances."""
        generator = torch.Generator().manual_seed(self.seed)
        return 2 * torch.randint(2, (self.count, parameters), generator=generator).double() - 1


DEFAULT_PROBES = Probes()


def behaviour_spectrum(
    network: Network,
    data: Data,
    weights: Sequence[Weight] | None = None,
    *,
    truncation: Truncation = SHARP,
    most_exact: int = MOST_EXACT,
    probes: Probes = DEFAULT_PROBES,
    progress: Progress = silent,
) -> HessianSpectrum:
    """Spectrum of 2 E[JᵀJ] over the entries of these weights, all by default.

    Exact where parameters, or samples times output coordinates, are few enough: JᵀJ and JJᵀ have
    the same eigenvalues apart from zeros. Otherwise stochastic Lanczos quadrature, whose error
    says how far counts can be trusted.

    Args:
        truncation: below which eigenvalue a direction counts as free, for `HessianSpectrum.rank`.
        most_exact: the smaller side of J up to which all eigenvalues are found.
        probes: for Lanczos.

    Raises:
        UsageError: for no weights.
        NumericalError: if Jacobians are not finite.
    """
    weights = weights_of(network) if weights is None else weights
    if not weights:
        raise UsageError("The network has no weights to move: choose weights that are trained.")
    parameters = count_parameters(weights)
    samples, rows = _sizes(network, data)
    largest = max(count_parameters([weight]) for weight in weights)
    fits = parameters <= rows or largest * rows * 8 <= _kernel_bytes(data)
    if min(parameters, rows) > most_exact or not fits:
        product = _product(network, data, weights, samples)
        most = min(parameters, rows)
        return _estimated(product, parameters, most, data, truncation, probes, progress)
    if parameters <= rows:
        matrix = behaviour_hessian(network, data, weights, progress)
    else:
        matrix = _kernel(network, data, weights, rows, progress) * (2 / samples)
    eigenvalues = torch.linalg.eigvalsh(_finite(matrix)).flip(0).clamp(min=0)
    values = eigenvalues.new_zeros(parameters)
    values[: len(eigenvalues)] = eigenvalues
    return HessianSpectrum(parameters, values, torch.ones_like(values), True, truncation=truncation)


def _estimated(
    product: Product,
    parameters: int,
    most: int,
    data: Data,
    truncation: Truncation,
    probes: Probes,
    progress: Progress,
) -> HessianSpectrum:
    """By stochastic Lanczos quadrature; `most` eigenvalues at most are not zero."""
    group = max(1, _vector_bytes(data) // (parameters * probes.steps * 8))
    vectors = probes.vectors(parameters).to(data.device)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for part in vectors.split(group):
        told = _steps(progress, len(parts) * group, probes.count, len(part))
        # Who goes on with other memory has other probes side by side.
        label = f"lanczos, {group} at once"
        parts.append(lanczos(product, part, probes.steps, told, label=label))
    values, shares, ended = (torch.cat(part) for part in zip(*parts, strict=True))
    shares = shares * parameters / probes.count
    return HessianSpectrum(
        parameters,
        values.flatten(),
        shares.flatten(),
        exact=False,
        probes=probes.count,
        resolved=bool(ended.all()),
        truncation=truncation,
        most=most,
    )


def behaviour_hessian(
    network: Network, data: Data, weights: Sequence[Weight], progress: Progress = silent
) -> Float[Tensor, "P P"]:
    """2 E[JᵀJ], parameters in the order of `output_jacobians`."""

    def measure(batch: Batch) -> Sums:
        gram = jacobian_gram(network, batch.inputs, weights, data.memory)
        return {"gram": gram, "samples": torch.tensor(len(batch.inputs))}

    sums = accumulate(data, measure, stage=STAGE, progress=progress)
    return 2 * sums["gram"] / sums["samples"]


def behavioural_loss(
    network: Network,
    data: Data,
    changes: Mapping[Weight, Tensor],
    progress: Progress = silent,
) -> float:
    """L_B with these changes added to weights: mean over samples of ‖f_θ(x) − f_θ*(x)‖²."""
    tensors = moved(changes)

    def measure(batch: Batch) -> Sums:
        difference = functional_call(
            network, tensors, (batch.inputs,), tie_weights=False
        ) - network(batch.inputs)
        square = difference.double().square().sum()
        return {"square": square, "samples": torch.tensor(len(batch.inputs))}

    sums = accumulate(data, measure, stage=STAGE, progress=progress)
    return float(sums["square"] / sums["samples"])


def _kernel(
    network: Network, data: Data, weights: Sequence[Weight], rows: int, progress: Progress
) -> Float[Tensor, "rows rows"]:
    """JJᵀ of all samples, from so many weights at a time as memory has room for."""
    batches = [batch.inputs for batch in data]
    groups: list[list[Weight]] = [[]]
    for weight in weights:
        held = rows * count_parameters([*groups[-1], weight]) * 8
        if groups[-1] and held > _kernel_bytes(data):
            groups.append([])
        groups[-1].append(weight)
    with steps("outer products") as kept:
        total = kept.state.get("total", torch.zeros(rows, rows, dtype=torch.float64))
        total = total.to(data.device)
        for done in range(kept.done, len(groups)):
            progress(STAGE, done, len(groups))
            size = count_parameters(groups[done])
            jacobian = torch.zeros(rows, size, dtype=torch.float64, device=data.device)
            parts = (
                part
                for inputs in batches
                for part in jacobian_rows(network, inputs, groups[done], data.memory)
            )
            first = 0
            for part in parts:
                jacobian[first : first + len(part)] = part
                first += len(part)
            total = total + jacobian @ jacobian.T
            del jacobian
            kept.note(done + 1, {"total": total})
    progress(STAGE, len(groups), len(groups))
    return total


def _product(network: Network, data: Data, weights: Sequence[Weight], samples: int) -> Product:
    """Products with 2 E[JᵀJ], all vectors in the same passes over the data."""
    first = next(iter(data)).inputs
    with torch.no_grad():
        held = sum(x.numel() * x.element_size() for x in network.activations(first))
    # Of each there are tangents and gradients, and what the pass back keeps.
    at_once = max(1, chunk_bytes(CHUNK_BYTES, data.memory) // (4 * held))

    def product(vectors: Float[Tensor, "m P"]) -> Float[Tensor, "m P"]:
        def measure(batch: Batch) -> Sums:
            def outputs(flat: Tensor) -> Tensor:
                tensors = moved(split_change(flat, weights))
                y: Tensor = functional_call(network, tensors, (batch.inputs,), tie_weights=False)
                return y

            zeros = torch.zeros_like(vectors[0], dtype=data.dtype)
            pull = vjp(outputs, zeros)[1]

            def single(vector: Tensor) -> Tensor:
                back: Tensor = pull(jvp(outputs, (zeros,), (vector,))[1])[0]
                return back

            return {"products": vmap(single, chunk_size=at_once)(vectors.to(data.dtype))}

        sums = accumulate(data, measure)
        return _finite(sums["products"] * (2 / samples))

    return product


def _steps(progress: Progress, before: int, probes: int, together: int) -> Progress:
    """Progress of some probes, as a share of that of all."""

    def steps(stage: str, done: int, total: int | None, note: str = "") -> None:
        of_probe = total or 0
        progress(STAGE, before * of_probe + done * together, probes * of_probe)

    return steps


def _sizes(network: Network, data: Data) -> tuple[int, int]:
    """Samples in the data, and rows of their Jacobians: output coordinates of all positions."""
    samples = sum(len(batch.inputs) for batch in data)
    with torch.no_grad():
        outputs = network(next(iter(data)).inputs[:1]).numel()
    return samples, samples * outputs


def _finite(matrix: Tensor) -> Tensor:
    if not bool(matrix.isfinite().all()):
        raise NumericalError(
            "The Hessian of the behavioural loss is NaN or infinite: check the weights."
        )
    return matrix


def _kernel_bytes(data: Data) -> int:
    """Of J, of some weights; beside it are its product and what it is made from."""
    return KERNEL_BYTES if data.memory is None else min(KERNEL_BYTES, data.memory // 4)


def _vector_bytes(data: Data) -> int:
    """Of the vectors of all steps of the probes that go on side by side."""
    return min(
        VECTOR_BYTES, memory_budget(data.device) if data.memory is None else data.memory // 4
    )
