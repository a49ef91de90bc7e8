"""Options of the backend of PyTorch's modules: what `-o` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from libgraph.backend.options import TypedOptions
from libgraph_backends.shared.options import Names

ScoreName = Literal["accuracy", "cross-entropy", "mean-squared-error"]


class TorchOptions(TypedOptions):
    """Options of `libgraph analyze torch -o key=value`."""

    model: str | None = Field(
        None,
        description="package.module:build or file.py:build, a function or module; or a .pt2 file",
    )
    weights: Path | None = Field(
        None, description="parameters for it: safetensors (or a folder of them) or a state dict"
    )
    data: str | None = Field(
        None,
        description="package.module:data or file.py:data, a function, data set or tensors",
    )
    at: Names | None = Field(
        None, description="submodules whose outputs are node layers, such as layer1,layer2"
    )
    inside: bool = Field(
        True, description="node layers inside of blocks as well, so that all have closed forms"
    )
    score: ScoreName | str | None = Field(
        None,
        description="accuracy, cross-entropy, mean-squared-error, or package.module:function; "
        "by default as the targets are",
    )
    test_share: float = Field(
        0.2, gt=0, lt=1, description="share of samples held out, where data has no splits"
    )
    samples: int | None = Field(None, ge=2, description="first training samples to use, this many")
    classes: Names | None = Field(None, description="names of the outputs, such as cat,dog")
