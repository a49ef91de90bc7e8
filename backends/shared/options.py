"""Options that several backends have in common; no torch, so that help is fast."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, ValidationInfo

from libgraph.backend.options import by_commas

ActivationName = Literal[
    "relu", "leaky_relu", "gelu", "elu", "tanh", "silu", "sigmoid", "softplus", "linear"
]
"""What `-o activation=` takes; `layers.ACTIVATIONS` has the functions."""


ACTIVATION_NAMES: tuple[str, ...] = get_args(ActivationName)


Names = Annotated[tuple[str, ...], BeforeValidator(by_commas)]
"""Type of an option of several names, such as `order=("fc1", "fc2")`."""


ORDER = "of the model's layers, such as fc1,fc2,out; by default as in the file, or by numbers"


def heads_divide_width(heads: int, info: ValidationInfo) -> int:
    """Validates a number of attention heads, which share the option `d_model` among them."""
    width = info.data.get("d_model", heads)
    if width % heads:
        raise ValueError(f"heads have to divide d_model, {width}")
    return heads
