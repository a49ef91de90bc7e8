"""Options of the sparse basis, and the sizes of its optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libgraph.errors import UsageError

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


READS = ("sparse_features", "sparse_power", "sparse_steps", "sparse_starts", "seed", "memory")
"""Options of an analysis that the sparse basis depends on; memory decides its samples."""


def sparse_options(values: Mapping[str, object], directory: Path | None = None) -> SparseOptions:
    """The options from those of an analysis; what is not among them is as by default.

    Args:
        values: by the names in `READS`.
        directory: where an interrupted run is taken up again; None for nowhere.
    """
    named: dict[str, Any] = {"seed": values.get("seed", 0), "directory": directory}
    for name, value in values.items():
        if name.startswith("sparse_"):
            named[name.removeprefix("sparse_")] = value
    return SparseOptions(**named)


def checkpoint_file(number: int) -> str:
    """What the checkpoint of a start is called."""
    return CHECKPOINTS.replace("*", str(number))
