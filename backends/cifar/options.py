"""Options of the CIFAR-10 backend: what `-o` takes, for analysis and for training."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from libgraph.backend.options import Sizes, TypedOptions
from libgraph.errors import UsageError
from libgraph_backends.shared.options import ORDER, Names

Arch = Literal["conv", "mlp"]


class SourceOptions(TypedOptions):
    """Which network, and where the images are from."""

    arch: Arch = Field("conv", description="conv (a conv net) or mlp (3072–100–100–10)")
    data: Path | None = Field(None, description="folder with the batches of CIFAR-10")
    download: bool = Field(
        False, description="fetch CIFAR-10 (162 MB) into the user's cache where data= is not given"
    )


class CIFAROptions(SourceOptions):
    """Options of `libgraph analyze cifar -o key=value`."""

    samples: int = Field(
        10_000, ge=1, description="first training images, for bases and interactions"
    )
    model: Path | None = Field(None, description="state dict: safetensors or .pt; or the bundled")
    order: Names | None = Field(None, description=ORDER)
    strides: Sizes = Field((2, 2, 2, 1), description="conv: of the convolutions")


class TrainingOptions(SourceOptions):
    """Options of `libgraph train cifar -o key=value`; with the defaults ours were trained."""

    seed: int = Field(0, ge=0, lt=2**31, description="of the weights and of the batches")
    steps: int = Field(10_000, ge=1, description="steps of AdamW")
    keep_every: int | None = Field(None, ge=1, description="steps between copies of the weights")
    batch_size: int = Field(128, ge=1, description="images in a step, moved and mirrored")
    channels: Sizes = Field((16, 32, 64, 64), description="conv: of the convolutions")
    kernels: Sizes = Field((5, 3, 3, 3), description="conv: widths of their windows, odd")
    strides: Sizes = Field((2, 2, 2, 1), description="conv: of the convolutions")
    hidden: Sizes = Field((100, 100), description="mlp: sizes of hidden layers")
    learning_rate: float | None = Field(
        None, gt=0, description="of AdamW, at its highest; by default 0.004, for mlp 0.001"
    )
    weight_decay: float = Field(0.05, ge=0, description="of AdamW")
    bfloat16: bool = Field(True, description="whether products are in bfloat16")


def check_source(options: SourceOptions) -> None:
    """Raise a `UsageError` unless it is clear where the images are from."""
    if options.data is not None and options.download:
        raise UsageError("data= and download=true are two places to have CIFAR-10 from: give one.")
    if options.data is None and not options.download:
        raise UsageError(
            "The backend cifar needs the folder with the batches of CIFAR-10: -o data=DIR, or "
            "-o download=true to fetch them (162 MB)."
        )
