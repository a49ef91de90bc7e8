"""The options of a degeneracy analysis."""

from __future__ import annotations

from pydantic import Field, field_validator

from libgraph.bases.methods import basis_name
from libgraph.pipeline.options import ComputingOptions


class DegeneracyOptions(ComputingOptions):
    """Everything that decides what a degeneracy analysis computes, beside the backend."""

    synchrony: float = Field(0.01, ge=0, le=1, description="distance within a group of units")
    samples: int = Field(500, ge=2, description="for the behavioural loss and the modules")
    probes: int = Field(8, ge=2, description="where eigenvalues are too many to find them all")
    steps: int = Field(100, ge=1, description="of each probe")
    volume: bool = Field(False, description="whether N_eff is estimated by sampling as well")
    radius: float = Field(1.0, gt=0, allow_inf_nan=False, description="of the box that is sampled")
    basis: str = Field("lib", description="basis whose modules the network is cut along")
    draws: int = Field(10, ge=2, description="of random modules beside those")

    @field_validator("basis")
    @classmethod
    def _known(cls, chosen: str) -> str:
        basis_name(chosen)
        return chosen
