"""Options of the modular-addition backend: what `-o` takes, for analysis and for training."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from libgraph.backend.options import TypedOptions
from libgraph_backends.shared.options import heads_divide_width


class ModularAdditionOptions(TypedOptions):
    """Options of `libgraph analyze modular-addition -o key=value`."""

    weights: Path | None = Field(None, description="safetensors or TransformerLens .pt file")
    frac_train: float = Field(0.3, gt=0, lt=1, description="share of all pairs for training")
    split_seed: int = Field(0, ge=0, lt=2**63, description="seed of the split into train and test")


class TrainingOptions(TypedOptions):
    """Options of `libgraph train modular-addition -o key=value`; defaults made our weights."""

    seed: int = Field(0, ge=0, lt=2**63, description="seed of the initial weights")
    steps: int = Field(20_000, ge=1, description="full-batch steps")
    keep_every: int | None = Field(None, ge=1, description="steps between copies of the weights")
    learning_rate: float = Field(1e-3, gt=0, description="of AdamW")
    weight_decay: float = Field(1.0, ge=0, description="of AdamW; what makes it generalise")
    modulus: int = Field(113, ge=3, description="p")
    d_model: int = Field(128, ge=1, description="width of the residual stream")
    heads: int = Field(4, ge=1, description="attention heads, of d_model / heads each")
    d_mlp: int = Field(512, ge=1, description="hidden units of the MLP")
    frac_train: float = Field(0.3, gt=0, lt=1, description="share of all pairs for training")
    split_seed: int = Field(0, ge=0, lt=2**63, description="seed of the split into train and test")

    _heads_divide_width = field_validator("heads")(heads_divide_width)
