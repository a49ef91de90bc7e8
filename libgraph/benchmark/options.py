"""Options of the benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from libgraph.backend.options import Shown, TypedOptions
from libgraph.errors import UsageError

CONTENDERS = (
    "pca", "lib", "sparse", "topk-raw", "topk-whitened", "topk-lib", "jacobian", "edges",
    "dictionary", "dictionary+edges",
)  # fmt: skip
"""Bases by what the table calls them: TopK autoencoders in several coordinates, with a penalty of
Jacobians or of interactions, and dictionaries that begin with what is read, with and without."""

PROBLEMS = ("planted", "separate", "random", "toy", "tracr", "frequencies")


def _parts(value: object) -> object:
    """Names with commas between, once or several times."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        return value
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


class BenchmarkOptions(TypedOptions):
    """What is measured, and how often."""

    whose = "the benchmark"
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Problems": ("problems", "features", "dimensions", "probability", "samples", "read"),
        "Bases": (
            "bases",
            "active",
            "overcomplete",
            "gradients",
            "interactions",
            "steps",
            "restarts",
        ),
        "Repeats": ("seeds", "seed"),
    }

    problems: Annotated[tuple[str, ...], Shown("NAMES")] = Field(
        ("planted", "toy"), description=f"any of {', '.join(PROBLEMS)}, with commas between"
    )
    features: int = Field(24, ge=2, description="planted at each node layer")
    dimensions: int = Field(12, ge=2, description="that they share; separate ones have one each")
    probability: float = Field(0.05, gt=0, lt=1, description="of a feature in the first layer")
    samples: int = Field(8000, ge=100, description="of planted networks and toy models")
    read: bool = Field(True, description="planted networks end with what is read of each feature")
    bases: Annotated[tuple[str, ...], Shown("NAMES")] = Field(
        CONTENDERS, description=f"any of {', '.join(CONTENDERS)}"
    )
    active: int = Field(3, ge=1, description="latents of planted networks that are active at once")
    overcomplete: float = Field(1.0, gt=0, description="latents for each feature that there is")
    gradients: float = Field(1.0, ge=0, description="weight of gradients of dictionaries")
    interactions: float = Field(1e-3, ge=0, description="weight of interactions, where they have")
    steps: int = Field(300, ge=1, description="of the optimiser of dictionaries")
    restarts: int = Field(1, ge=1, description="of which the one that misses least is kept")
    seeds: int = Field(3, ge=1, description="networks of each kind")
    seed: int = Field(0, ge=0, lt=2**31, description="of the first of them")

    _split = field_validator("problems", "bases", mode="before")(_parts)

    @field_validator("problems")
    @classmethod
    def _problems(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _known(names, PROBLEMS, "problem")

    @field_validator("bases")
    @classmethod
    def _bases(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _known(names, CONTENDERS, "basis")


def _known(names: tuple[str, ...], choice: tuple[str, ...], what: str) -> tuple[str, ...]:
    if not names:
        raise UsageError(f"The benchmark needs a {what}: give any of {', '.join(choice)}.")
    for name in names:
        if name not in choice:
            raise UsageError(
                f"The benchmark has no {what} '{name}': use any of {', '.join(choice)}."
            )
    return tuple(dict.fromkeys(names))
