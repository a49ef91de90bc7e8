"""Options of the sparse basis, and the sizes of its optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from libgraph.backend.options import Shown, TypedOptions

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


class SparseOptions(TypedOptions):
    """How the sparse basis is found.

    Raises:
        UsageError: if an option is out of its range.
    """

    whose = "the sparse basis"

    features: Annotated[int | None, Shown("K", default=f"all, at most {WIDEST}")] = Field(
        None, ge=2, description="leading features of each node layer that the sparse basis turns"
    )
    power: Annotated[float, Shown("P")] = Field(
        0.25, gt=0, le=1, description="of interactions in the sparse basis"
    )
    steps: int = Field(800, ge=0, description="of the sparse basis's optimiser, from each start")
    starts: int = Field(
        1, ge=1, description="of the sparse basis: LIB, PCA, then random rotations; the best"
    )
    seed: int = Field(0, description="of batches and random rotations")
    directory: Path | None = Field(
        None, description="where an interrupted run is taken up again, if anywhere"
    )


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
