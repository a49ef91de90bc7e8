"""The options of faithfulness: how circuits are chosen, and what the rest of the network is at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from libgraph.backend.options import Shown, TypedOptions, by_commas
from libgraph.errors import UsageError

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Of the edges, as circuits are held against each other elsewhere."""


class FaithfulnessOptions(TypedOptions):
    """Everything that decides what faithfulness is, beside run and bases."""

    whose = "faithfulness"
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Circuits": ("shares", "alike", "order", "effect_samples"),
        "Beside them": ("draws", "restored", "restored_at", "apart"),
        "Samples": ("baseline", "limit", "seed"),
    }

    shares: Annotated[
        tuple[float, ...],
        BeforeValidator(by_commas),
        Shown("SHARE", "0.001, 0.002, 0.005, … 0.5, 1", flag="share"),
    ] = Field(SHARES, min_length=1, description="of all edges that circuits keep, above 0, up to 1")
    alike: bool = Field(
        False,
        description="as many edges in every basis: shares are of the most that one has",
    )
    order: Literal["interaction", "share", "effect", "both"] = Field(
        "interaction",
        description="by what edges are chosen: interaction, its share of the layer pair's, the "
        "effect on the score when cut alone, or interaction and effect",
    )
    effect_samples: int = Field(32, ge=1, description="that such effects are measured on")
    draws: int = Field(3, ge=0, description="of as many random edges to compare with")
    restored: Annotated[int, Shown(flag="restore")] = Field(
        0, ge=0, description="random subsets of the edges dropped that are put back, for the worst"
    )
    restored_at: Annotated[float, Shown("SHARE", flag="restore-at")] = Field(
        0.1, gt=0, lt=1, description="of the edges, to which those subsets are added"
    )
    apart: bool = Field(False, description="cut one layer pair, and one node layer, at a time too")
    baseline: Literal["mean", "zero", "resample"] = Field(
        "mean", description="what the inputs of edges that are dropped are at"
    )
    limit: int | None = Field(None, ge=1, description="use the first samples only")
    seed: int = Field(0, ge=0, description="of random edges and of samples that stand in")

    @field_validator("shares")
    @classmethod
    def _rising(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < value <= 1 for value in values):
            raise UsageError("A share of the edges is above 0, and 1 at most.")
        return tuple(sorted(set(values)))
