"""Options of the MLP backend: what `-o` takes, for analysis and for training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from libgraph.backend.options import Sizes, TypedOptions, by_commas
from libgraph_backends.shared.layers import (
    ACTIVATIONS,
)

DOWNLOAD = "mnist: fetch it (11 MB) into the user's cache where data= is not given"


ActivationName = Literal[
    "relu", "leaky_relu", "gelu", "elu", "tanh", "silu", "sigmoid", "softplus", "linear"
]


class MLPOptions(TypedOptions):
    """Options of `libgraph analyze mlp -o key=value`."""

    task: Literal["modular", "digits", "mnist", "own"] = Field(
        "modular", description="modular (planted and hidden), digits, mnist, or own (a model)"
    )
    model: Path | None = Field(None, description="state dict of an MLP: safetensors or .pt")
    sizes: Sizes | None = Field(
        None, description="of the model's node layers, such as 784,100,10; by default as they are"
    )
    activation: ActivationName = Field(
        "relu", description="between layers: " + ", ".join(ACTIVATIONS)
    )
    data: Path | None = Field(
        None, description="mnist: folder of its files; own: inputs, .npy with a row for each"
    )
    download: bool = Field(False, description=DOWNLOAD)
    seed: int = Field(0, ge=0, lt=2**31, description="modular: of everything; own: of inputs")
    samples: int = Field(
        20_000, ge=2, description="modular, own: inputs drawn; a fifth as many more for scores"
    )
    blocks: int = Field(2, ge=1, description="modular: networks side by side")
    width: int = Field(6, ge=1, description="modular: units of each of them in every layer")
    layers: int = Field(4, ge=1, description="modular: hidden layers")
    strengths: tuple[float, ...] | None = Field(
        None, description="modular: factor on each block's outputs, such as 1,0.5; by default 1"
    )
    interaction: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="modular: weights between blocks; 1: no blocks"
    )
    correlation: float = Field(
        0.0, ge=0, le=1, description="modular: of inputs between blocks, from a shared source"
    )
    dead: int = Field(0, ge=0, description="modular: hidden units that are off or unread")
    duplicated: int = Field(0, ge=0, description="modular: hidden units that are copies")
    hide: bool = Field(True, description="modular: whether to change the basis of hidden layers")

    _strengths_by_commas = field_validator("strengths", mode="before")(by_commas)

    @field_validator("sizes")
    @classmethod
    def _sizes(cls, sizes: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if sizes is not None and len(sizes) < 2:
            raise ValueError("use at least two positive numbers, such as 784,100,10")
        return sizes

    @field_validator("strengths")
    @classmethod
    def _strengths(cls, strengths: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if strengths is not None and not all(0 <= each < math.inf for each in strengths):
            raise ValueError("use numbers from 0 on, such as 1,0.5")
        return strengths


class TrainingOptions(TypedOptions):
    """Options of `libgraph train mlp -o key=value`; with the defaults our digits were trained."""

    task: Literal["digits", "mnist"] = Field("digits", description="digits or mnist")
    data: Path | None = Field(None, description="mnist: folder of its files")
    download: bool = Field(False, description=DOWNLOAD)
    hidden: Sizes = Field((32, 32), description="sizes of hidden layers")
    activation: ActivationName = Field(
        "relu", description="between layers: " + ", ".join(ACTIVATIONS)
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of the weights and of the batches")
    steps: int = Field(2000, ge=1, description="steps of AdamW")
    keep_every: int | None = Field(None, ge=1, description="steps between copies of the weights")
    batch_size: int = Field(128, ge=1, description="images in a step")
    learning_rate: float = Field(3e-3, gt=0, description="of AdamW")
    weight_decay: float = Field(0.1, ge=0, description="of AdamW")
