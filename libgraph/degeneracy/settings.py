"""The options of a degeneracy analysis."""

from __future__ import annotations

from typing import Literal

from pydantic import ByteSize, Field, field_validator

from libgraph.backend import TypedOptions
from libgraph.bases import Truncation, basis_name
from libgraph.settings import available_device


class DegeneracyOptions(TypedOptions):
    """Everything that decides what a degeneracy analysis computes, beside the backend."""

    truncate: str = Field("rel:1e-10", description="below which eigenvalue a direction is free")
    synchrony: float = Field(0.01, ge=0, le=1, description="distance within a group of units")
    samples: int = Field(500, ge=2, description="for the behavioural loss and the modules")
    probes: int = Field(8, ge=2, description="where eigenvalues are too many to find them all")
    steps: int = Field(100, ge=1, description="of each probe")
    volume: bool = Field(False, description="whether N_eff is estimated by sampling as well")
    radius: float = Field(1.0, gt=0, allow_inf_nan=False, description="of the box that is sampled")
    basis: str = Field("lib", description="basis whose modules the network is cut along")
    draws: int = Field(10, ge=2, description="of random modules beside those")
    seed: int = Field(0, ge=0, lt=2**31, description="of all that is random")
    dtype: Literal["float32", "float64"] = Field("float64", description="of the network")
    device: str = Field("cpu", description="where to compute")
    batch_size: int | None = Field(None, ge=1, description="samples in a batch, or what fits")
    memory: ByteSize | None = Field(None, ge=2**20, description="for batches")
    limit: int | None = Field(None, ge=1, description="first samples to use")

    _device = field_validator("device")(available_device)

    @field_validator("truncate")
    @classmethod
    def _truncation(cls, text: str) -> str:
        return str(Truncation.parse(text))

    @field_validator("basis")
    @classmethod
    def _known(cls, chosen: str) -> str:
        basis_name(chosen)
        return chosen
