"""The options of an analysis: everything that decides what it computes, beside the backend.

Values are checked when the options are made, so that a run fails in its first second or not at all
for a mistake in them.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import ByteSize, Field, field_validator

from libgraph.backend.options import TypedOptions, by_commas
from libgraph.bases.method import Truncation
from libgraph.bases.methods import basis_name
from libgraph.errors import UsageError
from libgraph.sections.quadrature import Quadrature


def available_device(name: str) -> str:
    """The device, once something could be put there.

    Raises:
        UsageError: if it cannot be used.
    """
    try:
        # All sums are in float64, which not every device has.
        float(torch.zeros(1, device=name, dtype=torch.float64))
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0].split(".")[0].split(",")[0]
        raise UsageError(f"Device '{name}' cannot be used ({reason}): try cpu.") from None
    return name


class ComputingOptions(TypedOptions):
    """What decides how anything is computed, and on how many samples."""

    truncate: str = Field("rel:1e-10", description="below which eigenvalue directions are dropped")
    seed: int = Field(0, ge=0, lt=2**31, description="of all that is random")
    dtype: Literal["float32", "float64"] = Field("float64", description="of bases and edges")
    device: str = Field("cpu", description="where to compute")
    batch_size: int | None = Field(None, ge=1, description="samples in a batch, or what fits")
    memory: ByteSize | None = Field(None, ge=2**20, description="for batches and activations")
    limit: int | None = Field(None, description="first samples of each split to use")

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
        return str(Truncation.parse(text))

    @property
    def truncation(self) -> Truncation:
        """Parsed."""
        return Truncation.parse(self.truncate)


class AnalysisOptions(ComputingOptions):
    """Everything that decides what an analysis computes, beside the backend and its options."""

    basis: str = Field("lib", description="basis of the graph")
    beside: tuple[str, ...] = Field(("pca",), description="bases that are measured beside it")
    integration: str = Field("gradient", description="quadrature of the interactions")
    signs: int = Field(0, description="random signs that interactions are estimated from; 0: exact")
    resolution: float = Field(1.0, gt=0, allow_inf_nan=False, description="γ of Leiden")
    seeds: int = Field(10, ge=1, description="runs of Leiden, the best of which is kept")
    score_dtype: Literal["float32", "float64"] = Field("float32", description="of ablations")
    tolerances: tuple[float, ...] = Field((0.001,), min_length=1, description="Δ of the score")
    ablate: bool = Field(True, description="whether to run ablations")
    curves: bool = Field(False, description="whether edge ablation tries powers of two as well")
    halves: bool = Field(False, description="whether modules of even and odd samples are compared")
    draws: int = Field(0, ge=0, description="of rotated networks, to tell modules from chance")

    sparse_features: int | None = Field(None, ge=2, description="turned in the sparse basis")
    sparse_power: float = Field(0.25, gt=0, le=1, description="p of the sparse basis")
    sparse_steps: int = Field(800, ge=0, description="of the sparse basis's optimiser")
    sparse_starts: int = Field(1, ge=1, description="of it: LIB, PCA, random rotations")

    _beside = field_validator("beside", mode="before")(by_commas)

    @field_validator("basis")
    @classmethod
    def _known(cls, chosen: str) -> str:
        basis_name(chosen)
        return chosen

    @field_validator("beside")
    @classmethod
    def _all_known(cls, chosen: tuple[str, ...]) -> tuple[str, ...]:
        for basis in chosen:
            basis_name(basis)
        return chosen

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
        return Quadrature.parse(text).name

    @field_validator("tolerances")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 <= value < math.inf for value in values):
            raise UsageError("A tolerance Δ has to be zero or more.")
        return values

    @property
    def bases(self) -> dict[str, str]:
        """What was asked for by the name of each basis, that of the graph first."""
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
