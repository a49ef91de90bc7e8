"""What the sparse basis minimises: the p-th powers of interactions, over rotations.

Rotations are parametrised by skew-symmetric matrices of all node layers together; the loss is taken
on batches, its value on all samples that the optimisation sees.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.accumulate.kept_activations import KeptActivations
from libgraph.accumulate.memory import memory_budget
from libgraph.backend.data import Data
from libgraph.bases.random_basis import random_rotation
from libgraph.bases.sparse.options import (
    BATCH,
    EVERY,
    LEARNING_RATE,
    LEAST_BATCH,
    PAIR_BYTES,
    WIDEST,
    SparseOptions,
    checkpoint_file,
)
from libgraph.bases.sparse.pair_edges import (
    Features,
    LayerPair,
    cayley,
    objective,
    pair_edges,
)
from libgraph.errors import NumericalError, UsageError
from libgraph.fit import Course, fit
from libgraph.network.basis import Bases
from libgraph.network.network import Network
from libgraph.progress import Progress


def _counts(bases: Bases, wanted: int | None) -> dict[str, int]:
    """How many leading features of each node layer are turned; layers with fewer than 2 are not."""
    widths = {name: len(basis) - basis.isolated for name, basis in bases.items() if basis.rotated}
    if wanted is not None and wanted > max(widths.values(), default=0):
        counts = ", ".join(f"{width} at {name}" for name, width in widths.items()) or "none"
        raise UsageError(
            f"The sparse basis cannot turn {wanted} features: kept are {counts}. Choose fewer."
        )
    chosen = {name: min(wanted or WIDEST, width) for name, width in widths.items()}
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
        activations = KeptActivations(network, data)
        pairs: list[LayerPair] = []
        for index, (a, b, section) in reversed(list(enumerate(network.pairs))):
            names, (inputs, outputs) = (a.name, b.name), (features[a.name], features[b.name])
            if not (len(inputs) and len(outputs) and counts.keys() & names):
                continue
            with torch.no_grad():
                x = torch.cat([compute() for compute in activations.at(index)])
            widest = max(len(inputs), len(outputs), WIDEST)
            batch = max(LEAST_BATCH, BATCH * WIDEST // widest)
            between = pair_edges(
                section, x, inputs, outputs, batch=batch, memory=memory, generator=generator
            )
            pair = LayerPair(*names, between, outputs)
            total = float(pair.on_all({}).sum())
            # What is left of interactions that cancel is noise, and not to be turned after.
            if total > torch.finfo(data.dtype).eps * float(inputs.importance.sum()):
                pairs.insert(0, replace(pair, total=total))
        met = {name for pair in pairs for name in (pair.source, pair.target)}
        return cls(tuple(pairs), {n: features[n] for n in counts if n in met}, options)

    def value(self, rotations: Mapping[str, Tensor]) -> float:
        """The objective on all samples."""
        power = self.options.power
        return sum(float(objective(p.on_all(rotations), p.total, power)) for p in self.pairs)

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
                Course(
                    steps=options.steps,
                    directory=directory,
                    settings={
                        **options.model_copy(update={"directory": None}).model_dump(),
                        "start": number,
                        "pairs": {f"{p.source}->{p.target}": p.total for p in self.pairs},
                    },
                    evaluate_every=EVERY,
                    checkpoint=checkpoint_file(number),
                    stage=f"sparse basis{plural}",
                    advice="check the weights, or use a larger power",
                ),
                optimizer=optimizer,
                evaluate=lambda: {"objective": self.value(rotations())},
                progress=progress,
            )
        except NumericalError as error:
            path = directory / checkpoint_file(number)
            if options.directory is None or not path.is_file() or str(path) in str(error):
                raise
            raise NumericalError(f"{error} The last good rotation is in '{path}'.") from None
        # Orthogonal to double precision, whatever the steps were taken in; and never worse than
        # the start, which a step may be where there is nothing to gain.
        last = {name: first[name] @ cayley(s.detach().double()) for name, s in angles.items()}
        return min(((self.value(end), end) for end in (first, last)), key=lambda end: end[0])
