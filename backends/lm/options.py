"""Options of the language-model backend: what `-o` takes, for analysis and for training."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from libgraph.backend.options import TypedOptions
from libgraph_backends.shared.options import heads_divide_width

Cuts = Literal["all", "mlps", "sublayers", "blocks"]


def _is_encoding(name: str) -> str:
    try:
        "".encode(name)
    except (LookupError, ValueError):
        raise ValueError("use an encoding that Python knows, such as latin-1") from None
    return name


class LMOptions(TypedOptions):
    """Options of `libgraph analyze lm -o key=value`."""

    model: str | None = Field(None, description="hub name, folder, or weights beside a config.json")
    revision: str | None = Field(None, description="of a model on the hub: branch, tag or commit")
    text: str | None = Field(
        None,
        description="file (.txt, .jsonl, .npy of token ids), - for a pipe, or data set on the hub",
    )
    encoding: str = Field("utf-8", description="of a text file, such as latin-1")
    column: str = Field("text", description="field of a data set, or of .jsonl, with the text")
    n_ctx: int | None = Field(None, ge=2, description="positions in a sequence; by default 128")
    sequences: int | None = Field(None, ge=2, description="rows of text to take")
    test_share: float = Field(0.25, gt=0, lt=1, description="share of rows held out for scores")
    gram_sequences: int | None = Field(
        None, ge=1, description="rows that bases are made from, where `limit` limits the rest"
    )
    layers: str | None = Field(None, description="blocks to analyse, such as 4:6; all by default")
    cuts: Cuts = Field(
        "all",
        description="node layers: all, around attention and MLP (sublayers), or blocks alone; "
        "mlps: all, and for transcoders those of MLPs' inputs and outputs",
    )
    skip_first: bool = Field(
        False, description="begin-of-text stands before every row and is left out"
    )
    # No result depends on it.
    check: bool = Field(
        False,
        exclude=True,
        description="compare logits with the library's again, also where they agreed before",
    )

    _is_encoding = field_validator("encoding")(_is_encoding)

    @field_validator("layers")
    @classmethod
    def _is_range(cls, text: str | None) -> str | None:
        if text is None:
            return text
        first, colon, last = text.partition(":")
        if not colon or not all(part.isdecimal() or not part for part in (first, last)):
            raise ValueError("use FIRST:LAST, such as 4:6 for blocks 4 and 5")
        return text


class TrainingOptions(TypedOptions):
    """Options of `libgraph train lm -o key=value`; with the defaults our model was trained."""

    text: Path = Field(description="text file; its last tenth is held out")
    encoding: str = Field("utf-8", description="of the text file, such as latin-1")
    seed: int = Field(0, ge=0, lt=2**31, description="of the weights and of the batches")
    steps: int = Field(6000, ge=1, description="steps of AdamW")
    batch_size: int = Field(32, ge=1, description="windows of text in a step")
    n_ctx: int = Field(128, ge=2, description="characters in a window")
    layers: int = Field(4, ge=1, description="blocks")
    d_model: int = Field(128, ge=1, description="width of the residual stream")
    heads: int = Field(4, ge=1, description="attention heads, of d_model / heads each")
    learning_rate: float = Field(3e-3, gt=0, description="of AdamW, at its highest")
    weight_decay: float = Field(0.1, ge=0, description="of AdamW")
    bfloat16: bool = Field(True, description="whether products are in bfloat16")

    _is_encoding = field_validator("encoding")(_is_encoding)
    _heads_divide_width = field_validator("heads")(heads_divide_width)
