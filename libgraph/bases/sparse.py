"""The sparse basis: LIB's subspaces, rotated so that interactions are few (this project's own).

LIB aligns directions with what they do to the next node layer, and hopes that interactions are
sparse. Here the leading K features of every node layer, divided by their standard deviation, are
turned by orthogonal matrices Q, all node layers together, so that Σ_pairs Σ_ij (E_ij/E_total)^p is
small. Afterwards features are scaled by the root of their Jacobian importance (QᵀΛQ)_jj, and sorted
by it, as in LIB. Isolated features and those beyond the first K stay what they are.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.accumulate import Data, Progress
from libgraph.bases.basis import Bases, Basis, Truncation, fixed_signs
from libgraph.bases.lib import lib
from libgraph.bases.pair_edges import Features, PairEdges, objective, pair_edges
from libgraph.bases.random import random_rotation
from libgraph.bases.statistics import Statistics
from libgraph.errors import NumericalError, UsageError
from libgraph.memory import memory_budget
from libgraph.network import Network
from libgraph.training import fit

LEARNING_RATE = 0.01
"""Of Adam, in radians a step; it falls to zero along a cosine."""

BATCH = 256
"""Samples of a step, positions counted."""

SAMPLES = 1024
"""Samples that rotations are found on, at most."""

EVERY = 50
"""Steps between evaluations on all of these samples, which are also what a resumed run loses."""


@dataclass(frozen=True)
class SparseOptions:
    """How the sparse basis is found.

    Args:
        features: K, leading features of each node layer that are turned; None for up to `WIDEST`.
        power: p, in (0, 1].
        steps: of the optimiser, from each start.
        starts: 1: from LIB; 2: from principal components too; beyond: from random rotations.
        seed: of batches and random rotations.
        directory: where an interrupted run is taken up again; None for nowhere.
    """

    features: int | None = None
    power: float = 0.25
    steps: int = 800
    starts: int = 1
    seed: int = 0
    directory: Path | None = None


DEFAULTS = SparseOptions()

WIDEST = 64
"""Leading features that are turned unless told otherwise."""


def sparse(
    network: Network,
    statistics: Mapping[str, Statistics],
    data: Data,
    truncation: Truncation,
    progress: Progress,
    options: SparseOptions = DEFAULTS,
    start: Bases | None = None,
) -> dict[str, Basis]:
    """Rotations of LIB with few interactions; the best of several starts by the objective.

    Args:
        network: as for every method.
        statistics: likewise.
        data: rotations are found on its first samples.
        truncation: of LIB.
        progress: told the objective beside the steps.
        options: see there.
        start: LIB, if it is known already.

    Raises:
        UsageError: if no node layer has so many features.
        NumericalError: if an interaction stops being finite, naming the layer pair; the last good
            rotation is kept in the options' directory.
    """
    found = (
        dict(start) if start is not None else lib(network, statistics, data, truncation, progress)
    )
    layers = _turned(found, options.features)
    problem = Problem.of(network, found, layers, data, options)
    outcomes = []
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.directory or Path(temporary)
        for number in range(options.starts):
            first = problem.start(number)
            outcomes.append(problem.minimise(first, number, directory, progress))
        best = min(outcomes, key=lambda outcome: outcome[0])[1]
        for number in range(options.starts):
            (directory / _checkpoint(number)).unlink(missing_ok=True)
    return {
        name: turned(basis, best[name]) if name in best else basis for name, basis in found.items()
    }


def turned(basis: Basis, rotation: Float[Tensor, "k k"]) -> Basis:
    """The basis with its leading features turned, scaled by their importance and sorted by it."""
    isolated, k = basis.isolated, len(rotation)
    rotation = rotation.to(basis.encoder)
    old = basis.importance[isolated : isolated + k]
    # Λ of LIB is the Jacobian Gram of its features at variance 1.
    importance = old @ rotation.square()
    order = importance.argsort(descending=True, stable=True)
    rotation, importance = fixed_signs(rotation[:, order]), importance[order]
    rest = len(basis) - isolated - k
    eyes = [torch.eye(size).to(rotation) for size in (isolated, rest)]
    into = torch.block_diag(eyes[0], rotation * importance.sqrt() / old.sqrt()[:, None], eyes[1])
    back = torch.block_diag(
        eyes[0], (rotation / importance.sqrt() * old.sqrt()[:, None]).T, eyes[1]
    )
    everything = basis.importance.clone()
    everything[isolated : isolated + k] = importance
    return replace(
        basis, encoder=basis.encoder @ into, decoder=back @ basis.decoder, importance=everything
    )


def _turned(bases: Bases, wanted: int | None) -> dict[str, int]:
    """How many leading features of each node layer are turned; layers with fewer than 2 are not."""
    kept = {name: len(basis) - basis.isolated for name, basis in bases.items() if basis.rotated}
    if wanted is not None and wanted > max(kept.values(), default=0):
        counts = ", ".join(f"{count} at {name}" for name, count in kept.items()) or "none"
        raise UsageError(
            f"The sparse basis cannot turn {wanted} features: kept are {counts}. Choose fewer."
        )
    chosen = {name: min(wanted or WIDEST, count) for name, count in kept.items()}
    return {name: count for name, count in chosen.items() if count > 1}


@dataclass(frozen=True)
class Problem:
    """What is minimised: edges of all layer pairs as functions of the rotations of node layers.

    Args:
        pairs: names of the node layers on both sides, and the edges between them.
        features: of every node layer.
        totals: of each pair's edges in LIB.
        options: as given.
    """

    pairs: tuple[tuple[str, str, PairEdges], ...]
    features: Mapping[str, Features]
    turned: Mapping[str, int]
    totals: tuple[Tensor, ...]
    options: SparseOptions

    @classmethod
    def of(
        cls,
        network: Network,
        bases: Bases,
        layers: Mapping[str, int],
        data: Data,
        options: SparseOptions,
    ) -> Problem:
        """With Jacobians on the first samples of the data."""
        features = {
            layer.name: _features(bases[layer.name], layers.get(layer.name), data.dtype)
            for layer in network.node_layers
        }
        generator = torch.Generator().manual_seed(options.seed)
        memory = data.memory if data.memory is not None else memory_budget(data.device)
        batches = iter(replace(data, limit=min(data.limit or SAMPLES, SAMPLES)))
        with torch.no_grad():
            inputs = torch.cat([batch.inputs for batch in batches])
            pairs = tuple(
                (
                    a.name,
                    b.name,
                    pair_edges(
                        section,
                        x,
                        features[a.name],
                        features[b.name],
                        batch=BATCH,
                        memory=memory // (2 * len(network.sections)),
                        generator=generator,
                    ),
                )
                for (a, b, section), x in zip(
                    network.pairs, network.activations(inputs), strict=False
                )
            )
        blank = cls(pairs, features, layers, (), options)
        identity = {name: torch.eye(k).to(inputs.device, data.dtype) for name, k in layers.items()}
        totals = tuple(edges.sum() for edges in blank.whole(identity))
        return replace(blank, totals=totals)

    def edges(
        self, rotations: Mapping[str, Tensor], chosen: Sequence[Tensor | slice]
    ) -> Iterator[Float[Tensor, "out in"]]:
        """Of every layer pair on the chosen samples, outputs scaled by the root of importance."""
        for (a, b, pair), some in zip(self.pairs, chosen, strict=True):
            found = pair(some, rotations.get(a), rotations.get(b))
            outputs = self.features[b]
            if outputs.importance is not None:
                scale = outputs.importance
                if b in rotations:
                    scale = outputs.scale(rotations[b])
                found = found * scale.unsqueeze(1)
            if not bool(found.isfinite().all()):
                raise NumericalError(f"Interactions {a}->{b} are not finite in the sparse basis.")
            yield found

    @torch.no_grad()
    def whole(self, rotations: Mapping[str, Tensor]) -> list[Float[Tensor, "out in"]]:
        """The same on all samples, a batch at a time."""
        result = []
        for a, b, pair in self.pairs:
            one = replace(self, pairs=((a, b, pair),))
            total = torch.zeros(()).to(self.features[a].encoder)
            for first in range(0, pair.count, pair.batch):
                some = slice(first, min(first + pair.batch, pair.count))
                (found,) = one.edges(rotations, [some])
                found = found * ((some.stop - some.start) / pair.count)
                total = total + found
            result.append(total)
        return result

    def value(self, rotations: Mapping[str, Tensor]) -> float:
        """The objective on all samples."""
        parts = objective(self.whole(rotations), self.totals, self.options.power)
        return float(sum(parts))

    def start(self, number: int) -> dict[str, Float[Tensor, "k k"]]:
        """Rotations to begin with: none, those to principal components, or random ones."""
        result = {}
        for index, (name, k) in enumerate(self.turned.items()):
            if number == 0:
                rotation = torch.eye(k, dtype=torch.float64)
            elif number == 1:
                rotation = _to_principal(self.features[name])
            else:
                rng = np.random.default_rng([self.options.seed, number, index])
                rotation = torch.as_tensor(random_rotation(k, rng))
            result[name] = rotation.to(self.features[name].encoder.device, torch.float64)
        return result

    def minimise(
        self, first: Mapping[str, Tensor], number: int, directory: Path, progress: Progress
    ) -> tuple[float, dict[str, Float[Tensor, "k k"]]]:
        """The objective on all samples and the rotations, after all steps from a start."""
        options = self.options
        angles = {
            name: torch.zeros_like(q, dtype=self.features[name].encoder.dtype).requires_grad_()
            for name, q in first.items()
        }
        optimizer = torch.optim.Adam(angles.values(), lr=LEARNING_RATE)

        def rotations() -> dict[str, Tensor]:
            return {name: first[name].to(s.dtype) @ cayley(s) for name, s in angles.items()}

        def loss(step: int) -> Tensor:
            # Here, so that a run that is taken up again has the same rate.
            rate = LEARNING_RATE * (1 + math.cos(math.pi * step / options.steps)) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate
            generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
            chosen = [
                torch.randperm(pair.count, generator=generator)[: pair.batch]
                for _, _, pair in self.pairs
            ]
            edges = list(self.edges(rotations(), chosen))
            total: Tensor = torch.stack(objective(edges, self.totals, options.power)).sum()
            return total

        if options.steps and angles:
            plural = f", start {number + 1} of {options.starts}" if options.starts > 1 else ""
            fit(
                angles,
                loss,
                optimizer=optimizer,
                steps=options.steps,
                directory=directory,
                settings={
                    **asdict(replace(options, directory=None)),
                    "start": number,
                    "sizes": dict(self.turned),
                    "totals": [float(total) for total in self.totals],
                },
                evaluate=lambda: {"objective": self.value(rotations())},
                evaluate_every=EVERY,
                checkpoint=_checkpoint(number),
                stage=f"sparse basis{plural}",
                progress=progress,
            )
        with torch.no_grad():
            value = self.value(rotations())
            # Orthogonal to double precision, whatever the steps were taken in.
            return value, {name: first[name] @ cayley(s.double()) for name, s in angles.items()}


def cayley(angles: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
    """An orthogonal matrix, (I − A)⁻¹(I + A), of the skew-symmetric A = (S − Sᵀ)/2."""
    skew = (angles - angles.T) / 2
    eye = torch.eye(len(angles)).to(angles)
    result: Tensor = torch.linalg.solve(eye - skew, eye + skew)
    return result


def _features(basis: Basis, count: int | None, dtype: torch.dtype) -> Features:
    """Those that are turned, of variance 1; of other layers the same, or all neurons."""
    basis = basis.to(dtype)
    if not basis.rotated:
        return Features(basis.encoder, basis.decoder, None)
    some = slice(basis.isolated, basis.isolated + (count or len(basis)))
    root = basis.importance[some].sqrt()
    return Features(
        basis.encoder[:, some] / root, root.unsqueeze(1) * basis.decoder[some], root.square()
    )


def _to_principal(features: Features) -> Float[Tensor, "k k"]:
    """From features of variance 1 to the principal components of what they span."""
    covariance = features.decoder.double() @ features.decoder.double().T
    return fixed_signs(torch.linalg.eigh(covariance).eigenvectors.flip(-1))


def _checkpoint(number: int) -> str:
    return f"sparse-{number}.safetensors"
