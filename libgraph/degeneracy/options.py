"""The options of a degeneracy analysis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from libgraph.backend.options import Shown
from libgraph.pipeline.options import COMPUTING, ComputingOptions, known_basis


class DegeneracyOptions(ComputingOptions):
    """Everything that decides what a degeneracy analysis computes, beside the backend."""

    whose = "the degeneracy analysis"
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Weights and units": ("truncate", "synchrony"),
        "Behaviour": ("samples", "probes", "steps", "volume", "radius"),
        "Modules": ("basis", "draws"),
        "Computing": COMPUTING,
    }

    synchrony: Annotated[float, Shown("TOL")] = Field(
        0.01,
        ge=0,
        le=1,
        description="units are alike whose gates differ on less than this share of inputs",
    )
    samples: int = Field(
        500, ge=2, description="for the behavioural loss and modules, which cost most"
    )
    probes: int = Field(8, ge=2, description="where eigenvalues are too many to find all")
    steps: int = Field(100, ge=1, description="products with the Hessian that each probe takes")
    volume: bool = Field(False, description="estimate N_eff by sampling, too")
    radius: float = Field(1.0, gt=0, allow_inf_nan=False, description="of the box that is sampled")
    basis: Annotated[str, Shown("NAME")] = Field(
        "lib", description="whose modules the network is cut along"
    )
    draws: int = Field(10, ge=2, description="of random modules to compare with")

    _basis = field_validator("basis")(known_basis)
