"""Options of learned dictionaries, and the sizes of their optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from libgraph.backend.options import Shown, TypedOptions

LEARNING_RATE = 1e-2
"""Of Adam; it rises over the first steps and falls to zero along a cosine."""


READING = 0.1
"""Of encoders that begin with directions that are read, relative to all else: activations alone
would turn them to what is written together."""


WARMING = 50
"""Steps over which it rises."""


SAMPLES = 50_000
"""Activations that dictionaries are learned from, positions counted, at most."""


LAYER_BYTES = 256 * 2**20
"""What activations and gradients of a node layer take at most."""


PROBES = 4
"""Random directions after each activation whose gradients are kept."""


EDGE_BATCH = 256
"""Activations of a batch that interactions are taken from, at most; at least one sample's."""


CODED, CODING_BATCH, CODING_ROUNDS = 40_000, 2000, 80
"""Gradients that encoders begin with a sparse code of, those of a round, and rounds."""


DIRECTIONS_AT_ONCE = 3
"""Directions that a gradient is coded by."""


SEEDED = 20_000
"""Activations or gradients among which first directions are chosen."""


QUIET = 100
"""Batches without a single activation after which a latent counts as dead."""


REVIVAL = 1 / 16
"""Weight of what dead latents explain of the error."""


EVERY = 100
"""Steps between evaluations, which are also what a resumed run loses."""


CHECKPOINT = "dictionary.safetensors"
"""What the checkpoint is called."""


FOLDER = "dictionaries"
"""Where dictionaries are written for other tools, in the directory of a run."""


Metric = Literal["lib", "whitened", "raw"]
"""Coordinates in which errors are measured: the next node layer's, or principal components of
variance 1, or activations as they are."""


Penalty = Literal["powers", "jacobian"]
"""What λ weighs: Σ (E/E_total)^p, or Σ |J| of pairs active together, as Jacobian SAEs have it."""


class DictionaryOptions(TypedOptions):
    """How dictionaries are learned.

    Raises:
        UsageError: if an option is out of its range.
    """

    whose = "the learned dictionaries"

    latents: Annotated[float, Shown("M")] = Field(
        4.0, gt=0, le=64, description="latents of a dictionary, for every dimension"
    )
    active: Annotated[int, Shown("K")] = Field(
        4, ge=1, description="latents that are active at once"
    )
    gradients: Annotated[float, Shown("MU")] = Field(
        1.0, ge=0, allow_inf_nan=False, description="weight of the error of gradients"
    )
    interactions: Annotated[float, Shown("LAMBDA")] = Field(
        0.0, ge=0, allow_inf_nan=False, description="weight of interactions; 0: they are free"
    )
    power: Annotated[float, Shown("P")] = Field(
        0.25, gt=0, le=1, description="of interactions of dictionaries"
    )
    penalty: Penalty = Field(
        "powers", description="of interactions: powers, or for comparison jacobian"
    )
    metric: Metric = Field("lib", description="of errors: lib, or for comparison whitened or raw")
    steps: int = Field(2000, ge=0, description="of the dictionaries' optimiser")
    batch: int = Field(512, ge=1, description="activations in each of its batches")
    seed: int = Field(0, description="of batches and of what dictionaries begin with")
    directory: Path | None = Field(
        None, description="where an interrupted run is taken up again, if anywhere"
    )


DEFAULTS = DictionaryOptions()


FIELDS = ("latents", "active", "gradients", "interactions", "power", "metric", "steps", "batch")
"""Those that an analysis hands on, under names of its own: `dictionary_latents` and so on."""


READS = (*(f"dictionary_{name}" for name in FIELDS), "seed", "memory")
"""Options of an analysis that dictionaries depend on; memory decides their samples."""


def dictionary_options(
    values: Mapping[str, object], directory: Path | None = None
) -> DictionaryOptions:
    """The options from those of an analysis; what is not among them is as by default.

    Args:
        values: by the names in `READS`.
        directory: where an interrupted run is taken up again; None for nowhere.
    """
    named: dict[str, Any] = {"seed": values.get("seed", 0), "directory": directory}
    for name, value in values.items():
        if name.startswith("dictionary_"):
            named[name.removeprefix("dictionary_")] = value
    return DictionaryOptions(**named)
