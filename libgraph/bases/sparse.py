"""The sparse basis: LIB's subspaces, rotated so that interactions are few (this project's own).

LIB aligns directions with what they do to the next node layer, and hopes that interactions are
sparse. Here the leading K features of every node layer, divided by their standard deviation, are
turned by orthogonal matrices Q, all node layers together, so that Σ_pairs Σ_ij (E_ij/E_total)^p is
small. Afterwards features are scaled by the root of their Jacobian importance (QᵀΛQ)_jj, and sorted
by it, as in LIB. Isolated features and those beyond the first K stay what they are.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributed as dist

from libgraph.accumulate import Data, Progress, ranks
from libgraph.bases.basis import Bases, Basis, Truncation, fixed_signs
from libgraph.bases.lib import lib
from libgraph.bases.pair_edges import Features, LayerPair, cayley, enough, objective, pair_edges
from libgraph.bases.random import random_rotation
from libgraph.bases.statistics import Statistics
from libgraph.checkpoints import Checkpoints
from libgraph.errors import NumericalError, UsageError
from libgraph.memory import memory_budget
from libgraph.network import Network
from libgraph.training import fit

LEARNING_RATE = 0.01
"""Of Adam, in radians a step; it falls to zero along a cosine."""

BATCH, LEAST_BATCH = 256, 64
"""Samples of a step, positions counted: fewer where more features than `WIDEST` are turned, because
a step's cost grows with the cube of their number."""

SAMPLES = 1024
"""Samples that rotations are found on, at most; fewer where they have many positions."""

PAIR_BYTES = 256 * 2**20
"""What the Jacobians of a layer pair take at most. Samples are the same whatever is free, as long
as they fit, so that an interrupted run can be taken up on another day."""

EVERY = 50
"""Steps between evaluations on all of these samples, which are also what a resumed run loses."""

WIDEST = 64
"""Leading features that are turned unless told otherwise."""

CHECKPOINTS = "sparse-*.safetensors"
"""What the checkpoints of all starts are called."""

log = logging.getLogger("libgraph")


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

    Raises:
        UsageError: if one of them is out of its range.
    """

    features: int | None = None
    power: float = 0.25
    steps: int = 800
    starts: int = 1
    seed: int = 0
    directory: Path | None = None

    def __post_init__(self) -> None:
        """Check what only the command's options check otherwise."""
        for name, right, wanted in (
            ("features", self.features is None or self.features >= 2, "at least 2"),
            ("power", 0 < self.power <= 1, "above 0 and at most 1"),
            ("steps", self.steps >= 0, "at least 0"),
            ("starts", self.starts >= 1, "at least 1"),
        ):
            if not right:
                value = getattr(self, name)
                raise UsageError(f"The sparse basis needs {name} of {wanted}, not {value}.")


DEFAULTS = SparseOptions()


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

    LIB itself, with a warning, where there is nothing to turn.

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
    found = dict(start or lib(network, statistics, data, truncation, progress))
    positions = max(each.positions for each in statistics.values())
    few = min(data.limit or SAMPLES, SAMPLES, enough(BATCH, positions))
    problem = Problem.of(network, found, replace(data, limit=few), options)
    if not problem.pairs:
        log.warning("The sparse basis is LIB: no node layer has two features that interact.")
        return found
    with tempfile.TemporaryDirectory() as temporary:
        directory, starts = options.directory or Path(temporary), range(options.starts)
        outcomes = [problem.minimise(number, directory, progress) for number in starts]
        best = min(outcomes, key=lambda outcome: outcome[0])[1]
        for number in starts:
            (directory / _checkpoint(number)).unlink(missing_ok=True)
    if ranks()[1] > 1:
        # Ranks that differ in rounding, or in free memory, may have come to other rotations.
        best = {name: rotation.contiguous() for name, rotation in best.items()}
        for rotation in best.values():
            dist.broadcast(rotation, 0)
    return found | {name: turned(found[name], rotation) for name, rotation in best.items()}


def turned(basis: Basis, rotation: Float[Tensor, "k k"]) -> Basis:
    """The basis with its leading features turned, scaled by their importance and sorted by it."""
    features = Features.of(basis, len(rotation), basis.encoder.dtype)
    rotation = rotation.to(basis.encoder)
    # Λ of LIB is the Jacobian Gram of its features at variance 1.
    order = features.scale(rotation).argsort(descending=True, stable=True)
    rotation = fixed_signs(rotation[:, order])
    root = features.scale(rotation).sqrt()
    encoder, decoder, importance = (
        each.clone() for each in (basis.encoder, basis.decoder, basis.importance)
    )
    some = slice(basis.isolated, basis.isolated + len(rotation))
    encoder[:, some] = features.encoder @ rotation * root
    decoder[some] = (rotation / root).T @ features.decoder
    importance[some] = root.square()
    return replace(basis, encoder=encoder, decoder=decoder, importance=importance)


def _counts(bases: Bases, wanted: int | None) -> dict[str, int]:
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
    """What is minimised.

    Args:
        pairs: those of which a side is turned and that interact at all.
        features: of the node layers that are turned.
        options: as given.
    """

    pairs: tuple[LayerPair, ...]
    features: Mapping[str, Features]
    options: SparseOptions

    @classmethod
    def of(cls, network: Network, bases: Bases, data: Data, options: SparseOptions) -> Problem:
        """On all of the data, as far as memory allows."""
        counts = _counts(bases, options.features)
        features = {
            name: Features.of(basis, counts.get(name), data.dtype) for name, basis in bases.items()
        }
        generator = torch.Generator().manual_seed(options.seed)
        free = data.memory if data.memory is not None else memory_budget(data.device)
        memory = min(PAIR_BYTES, free // (2 * len(network.sections)))
        checkpoints = Checkpoints(network, data)
        pairs: list[LayerPair] = []
        for index, (a, b, section) in reversed(list(enumerate(network.pairs))):
            names, (inputs, outputs) = (a.name, b.name), (features[a.name], features[b.name])
            if not (len(inputs) and len(outputs) and counts.keys() & names):
                continue
            with torch.no_grad():
                x = torch.cat([activations() for activations in checkpoints.at(index)])
            widest = max(len(inputs), len(outputs), WIDEST)
            batch = max(LEAST_BATCH, BATCH * WIDEST // widest)
            between = pair_edges(
                section, x, inputs, outputs, batch=batch, memory=memory, generator=generator
            )
            pair = LayerPair(*names, between, outputs)
            total = float(pair.whole({}).sum())
            # What is left of interactions that cancel is noise, and not to be turned after.
            if total > torch.finfo(data.dtype).eps * float(inputs.importance.sum()):
                pairs.insert(0, replace(pair, total=total))
        met = {name for pair in pairs for name in (pair.source, pair.target)}
        return cls(tuple(pairs), {n: features[n] for n in counts if n in met}, options)

    def value(self, rotations: Mapping[str, Tensor]) -> float:
        """The objective on all samples."""
        power = self.options.power
        return sum(float(objective(p.whole(rotations), p.total, power)) for p in self.pairs)

    def loss(self, rotations: Mapping[str, Tensor], step: int) -> Tensor:
        """The objective on the batch of a step, to be differentiated."""
        generator = torch.Generator().manual_seed(self.options.seed * 1_000_003 + step)
        parts = []
        for pair in self.pairs:
            chosen = torch.randperm(pair.between.count, generator=generator)
            chosen = chosen[: pair.between.batch].to(pair.outputs.encoder.device)
            edges = pair.edges(rotations, chosen)
            parts.append(objective(edges, pair.total, self.options.power))
        return torch.stack(parts).sum()

    def start(self, number: int) -> dict[str, Float[Tensor, "k k"]]:
        """Rotations to begin with: none, those to principal components, or random ones."""
        if number == 1:
            return {name: features.to_principal() for name, features in self.features.items()}
        rng = np.random.default_rng([self.options.seed, number])
        return {
            name: torch.as_tensor(
                random_rotation(len(features), rng) if number else np.eye(len(features))
            ).to(features.encoder.device)
            for name, features in self.features.items()
        }

    @torch.enable_grad()
    def minimise(
        self, number: int, directory: Path, progress: Progress
    ) -> tuple[float, dict[str, Float[Tensor, "k k"]]]:
        """The objective on all samples and the rotations, after all steps from a start."""
        options, first = self.options, self.start(number)
        angles = {
            name: torch.zeros_like(q, dtype=self.features[name].encoder.dtype).requires_grad_()
            for name, q in first.items()
        }
        optimizer = torch.optim.Adam(angles.values(), lr=LEARNING_RATE)

        def rotations() -> dict[str, Tensor]:
            return {name: first[name].to(s) @ cayley(s) for name, s in angles.items()}

        def loss(step: int) -> Tensor:
            # Here, so that a run that is taken up again has the same rate.
            rate = LEARNING_RATE * (1 + math.cos(math.pi * step / options.steps)) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate
            return self.loss(rotations(), step)

        plural = f", start {number + 1} of {options.starts}" if options.starts > 1 else ""
        try:
            fit(
                angles,
                loss,
                optimizer=optimizer,
                steps=options.steps,
                directory=directory,
                settings={
                    **asdict(replace(options, directory=None)),
                    "start": number,
                    "pairs": {f"{p.source}->{p.target}": p.total for p in self.pairs},
                },
                evaluate=lambda: {"objective": self.value(rotations())},
                evaluate_every=EVERY,
                checkpoint=_checkpoint(number),
                stage=f"sparse basis{plural}",
                advice="check the weights, or use a larger power",
                progress=progress,
            )
        except NumericalError as error:
            path = directory / _checkpoint(number)
            if options.directory is None or not path.is_file() or str(path) in str(error):
                raise
            raise NumericalError(f"{error} The last good rotation is in '{path}'.") from None
        # Orthogonal to double precision, whatever the steps were taken in; and never worse than
        # the start, which a step may be where there is nothing to gain.
        last = {name: first[name] @ cayley(s.detach().double()) for name, s in angles.items()}
        return min(((self.value(each), each) for each in (first, last)), key=lambda end: end[0])


def _checkpoint(number: int) -> str:
    return CHECKPOINTS.replace("*", str(number))
