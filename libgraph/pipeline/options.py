"""The options of an analysis: everything that decides what it computes, beside the backend.

Values are checked when the options are made, so that a run fails in its first second or not at all
for a mistake in them. The libraries that checks need are imported by the checks: the command's help
comes from these fields, and comes without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ByteSize, Field, field_validator

from libgraph.backend.options import Shown, TypedOptions, by_commas, option_of
from libgraph.bases.learned.options import FIELDS, DictionaryOptions, Metric
from libgraph.bases.methods import FILE, METHODS, basis_name
from libgraph.bases.sparse.options import SparseOptions
from libgraph.errors import UsageError
from libgraph.modules.objectives import ObjectiveName

if TYPE_CHECKING:
    from libgraph.bases.method import Truncation

COMPARED = ("neuron", "pca", "random", "global", "lib")
"""Bases that a comparison measures beside each other where none are named."""

DRAWS = 19
"""Rotated networks that tell the modules of a comparison from chance: the smallest p is 1 / 20."""


def available_device(name: str) -> str:
    """The device, once something could be put there.

    Raises:
        UsageError: if it cannot be used.
    """
    import torch

    try:
        # All sums are in float64, which not every device has.
        float(torch.zeros(1, device=name, dtype=torch.float64))
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0].split(".")[0].split(",")[0]
        raise UsageError(f"Device '{name}' cannot be used ({reason}): try cpu.") from None
    return name


def known_basis(chosen: str) -> str:
    """The basis as it was asked for, once its name is known to be one."""
    basis_name(chosen)
    return chosen


class ComputingOptions(TypedOptions):
    """What decides how anything is computed, and on how many samples."""

    truncate: Annotated[str, Shown("rel:TOL|abs:TOL")] = Field(
        "rel:1e-10", description="smaller eigenvalues count as zero"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of all that is random")
    dtype: Literal["float32", "float64"] = Field(
        "float64", description="precision of all but scores"
    )
    device: str = Field("cpu", description="where to compute: cpu, cuda, cuda:1, …")
    batch_size: Annotated[int | None, Shown(default="what fits, at most 1024")] = Field(
        None, ge=1, description="samples in a batch"
    )
    memory: Annotated[ByteSize | None, Shown("BYTES", default="half of what is free")] = Field(
        None, ge=2**20, description="for batches and kept activations: 4GiB, 500MB, …"
    )
    limit: int | None = Field(None, description="use only the first samples of each split")

    _device = field_validator("device")(available_device)

    @field_validator("limit")
    @classmethod
    def _some(cls, limit: int | None) -> int | None:
        if limit is not None and limit < 1:
            raise UsageError(f"A limit of {limit} leaves no samples: use at least 1.")
        return limit

    @field_validator("truncate")
    @classmethod
    def _truncation(cls, text: str) -> str:
        from libgraph.bases.method import Truncation

        return str(Truncation.parse(text))

    @property
    def truncation(self) -> Truncation:
        """Parsed."""
        from libgraph.bases.method import Truncation

        return Truncation.parse(self.truncate)


COMPUTING = ("limit", "batch_size", "memory", "dtype", "device", "seed")
"""Options of any analysis that are shown together, as what it takes and where it runs."""


class AnalysisOptions(ComputingOptions):
    """Everything that decides what an analysis computes, beside the backend and its options."""

    whose = "the analysis"
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Bases": ("basis", "beside", "truncate"),
        "Interactions": ("integration", "signs"),
        "Modules": ("objective", "resolution", "seeds"),
        "Ablations": ("ablate", "tolerances", "score_dtype", "curves"),
        "Checks": ("halves", "draws", "lesions"),
        "Sparse basis": ("sparse_features", "sparse_power", "sparse_steps", "sparse_starts"),
        "Learned dictionaries": tuple(f"dictionary_{name}" for name in FIELDS),
        "Computing": COMPUTING,
    }

    basis: Annotated[str, Shown("NAME")] = Field(
        "lib", description=f"of the graph: {', '.join(METHODS)}, or a file of directions, *{FILE}"
    )
    beside: Annotated[tuple[str, ...], Shown("NAMES")] = Field(
        ("pca",), description="bases that are measured beside it, with commas between"
    )
    integration: Annotated[str, Shown("RULE")] = Field(
        "gradient",
        description="of interactions: gradient, trapezoid[:POINTS] or gauss-legendre[:POINTS]",
    )
    signs: int = Field(0, description="estimate interactions from this many random signs; 0: exact")
    objective: ObjectiveName = Field(
        "layered", description="of Leiden, what modules are to have much of"
    )
    resolution: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="γ of Leiden: the larger, the smaller the modules",
    )
    seeds: int = Field(10, ge=1, description="runs of Leiden, the best of which is kept")
    score_dtype: Literal["float32", "float64"] = Field(
        "float32", description="precision of scores and ablations"
    )
    tolerances: Annotated[
        tuple[float, ...],
        Shown(flag="tolerance", default="the backend's: 0.001, 0.01 or 0.05 nats"),
    ] = Field((0.001,), min_length=1, description="Δ: how much score edges may cost")
    ablate: Annotated[bool, Shown(flag="no-ablation")] = Field(
        True, description="run ablations; without them modules use all edges"
    )
    curves: bool = Field(False, description="try powers of two as well when edges are ablated")
    halves: bool = Field(False, description="compare modules of even and of odd samples")
    lesions: bool = Field(
        False, description="switch off every feature and every module, and test the edges"
    )
    draws: int = Field(
        0, ge=0, description="rotated networks that tell modules from chance; 0: none"
    )

    sparse_features: int | None = option_of(SparseOptions, "features")
    sparse_power: float = option_of(SparseOptions, "power")
    sparse_steps: int = option_of(SparseOptions, "steps")
    sparse_starts: int = option_of(SparseOptions, "starts")

    dictionary_latents: float = option_of(DictionaryOptions, "latents")
    dictionary_active: int = option_of(DictionaryOptions, "active")
    dictionary_gradients: float = option_of(DictionaryOptions, "gradients")
    dictionary_interactions: float = option_of(DictionaryOptions, "interactions")
    dictionary_power: float = option_of(DictionaryOptions, "power")
    dictionary_metric: Metric = option_of(DictionaryOptions, "metric")
    dictionary_steps: int = option_of(DictionaryOptions, "steps")
    dictionary_batch: int = option_of(DictionaryOptions, "batch")

    _basis = field_validator("basis")(known_basis)
    _beside = field_validator("beside", mode="before")(by_commas)

    @field_validator("beside")
    @classmethod
    def _all_known(cls, bases: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(known_basis, bases))

    @field_validator("signs")
    @classmethod
    def _enough(cls, signs: int) -> int:
        if signs < 0 or signs == 1:
            raise UsageError(
                f"Interactions cannot be estimated from {signs} random signs: use at least 2, or 0 "
                "for exact ones."
            )
        return signs

    @field_validator("integration")
    @classmethod
    def _quadrature(cls, text: str) -> str:
        from libgraph.sections.quadrature import Quadrature

        return Quadrature.parse(text).name

    @field_validator("tolerances")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 <= value < math.inf for value in values):
            raise UsageError("A tolerance Δ has to be zero or more.")
        return values

    @property
    def bases(self) -> dict[str, str]:
        """What was asked for by the name of each basis, that of the graph first.

        Raises:
            UsageError: if two would have one name.
        """
        names: dict[str, str] = {}
        for chosen in (self.basis, *self.beside):
            name = basis_name(chosen)
            if names.setdefault(name, chosen) != chosen:
                raise UsageError(
                    f"'{names[name]}' and '{chosen}' would both be called {name}: rename a file."
                )
        return names

    @property
    def main(self) -> str:
        """Name of the basis of the graph."""
        return basis_name(self.basis)
