"""Options of the MLP backend: what `-o` takes, for analysis and for training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from libgraph.backend.options import Sizes, TypedOptions, by_commas
from libgraph.errors import UsageError
from libgraph_backends.shared.options import ACTIVATION_NAMES, ORDER, ActivationName, Names

DOWNLOAD = "mnist: fetch it (11 MB) into the user's cache where data= is not given"


ACTIVATION = "between layers: " + ", ".join(ACTIVATION_NAMES)


Task = Literal["modular", "digits", "mnist", "own"]


WeightsName = Literal["normal", "orthogonal"]


class MLPOptions(TypedOptions):
    """Options of `libgraph analyze mlp -o key=value`."""

    task: Task = Field(
        "modular", description="modular (planted and hidden), digits, mnist, or own (a model)"
    )
    model: Path | None = Field(None, description="state dict of an MLP: safetensors or .pt")
    sizes: Sizes | None = Field(
        None, description="of the model's node layers, such as 784,100,10; by default as they are"
    )
    order: Names | None = Field(None, description=ORDER)
    activation: ActivationName = Field("relu", description=ACTIVATION)
    input_names: Names | None = Field(None, description="own: of the inputs, such as age,height")
    output_names: Names | None = Field(None, description="own: of the outputs, such as classes")
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
    weights: WeightsName = Field(
        "normal", description="modular: within blocks; orthogonal ones keep what deep ones lose"
    )
    skips: bool = Field(False, description="modular: whether hidden layers add to what they read")

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
        if strengths is not None and not all(0 <= strength < math.inf for strength in strengths):
            raise ValueError("use numbers from 0 on, such as 1,0.5")
        return strengths


class TrainingOptions(TypedOptions):
    """Options of `libgraph train mlp -o key=value`; with the defaults our digits were trained."""

    task: Literal["digits", "mnist"] = Field("digits", description="digits or mnist")
    data: Path | None = Field(None, description="mnist: folder of its files")
    download: bool = Field(False, description=DOWNLOAD)
    hidden: Sizes = Field((32, 32), description="sizes of hidden layers")
    activation: ActivationName = Field("relu", description=ACTIVATION)
    seed: int = Field(0, ge=0, lt=2**31, description="of the weights and of the batches")
    steps: int = Field(2000, ge=1, description="steps of AdamW")
    keep_every: int | None = Field(None, ge=1, description="steps between copies of the weights")
    batch_size: int = Field(128, ge=1, description="images in a step")
    learning_rate: float = Field(3e-3, gt=0, description="of AdamW")
    weight_decay: float = Field(0.1, ge=0, description="of AdamW")


def check_options(options: MLPOptions, task: Task, *, has_module: bool) -> None:
    """Raise a `UsageError` for options that say nothing together.

    Args:
        options: as given.
        task: the one that they come to, where a module was given too.
        has_module: whether there is one.
    """
    if task == "modular" and (options.model is not None or options.data is not None):
        name = "model" if options.model is not None else "data"
        raise UsageError(
            f"task=modular makes its own network and data: with {name}= use task=digits, "
            "task=mnist or task=own."
        )
    if task == "modular" and options.skips and (options.dead or options.duplicated):
        raise UsageError(
            "With skips=true no unit is dead or a copy: leave dead= and duplicated= out."
        )
    strengths = options.strengths
    if task == "modular" and strengths is not None and len(strengths) != options.blocks:
        raise UsageError(f"{len(strengths)} strengths do not fit {options.blocks} blocks.")
    has_model = has_module or options.model is not None
    if task != "own" and (options.input_names or options.output_names):
        raise UsageError(
            f"task={task} has names of its own: leave input_names= and output_names= out."
        )
    if task == "own" and not has_model:
        raise UsageError("task=own needs the state dict of an MLP: -o model=FILE.")
    if options.order is not None and options.model is None:
        raise UsageError("order= is that of the layers of model=FILE: give it too.")
    check_source(task, options.data, options.download)
    if task == "mnist" and not has_model:
        raise UsageError(
            "task=mnist needs a model: -o model=FILE, which "
            "'libgraph train mlp -o task=mnist -o data=DIR' makes."
        )
    _check_relevance(options, task, has_module=has_module)


PLANTED = {
    "seed", "samples", "activation", "blocks", "width", "layers", "strengths", "interaction",
    "correlation", "dead", "duplicated", "hide", "weights", "skips",
}  # fmt: skip
"""Options of task=modular."""


READ = {"model", "sizes", "order", "activation"}
"""Options of a model that is read."""


def _check_relevance(options: MLPOptions, task: Task, *, has_module: bool) -> None:
    """Raise a `UsageError` for an option that was given and that the task has no use for."""
    of_task = {
        "modular": PLANTED,
        "digits": READ,
        "mnist": READ | {"data", "download"},
        "own": READ | {"data", "seed", "samples", "input_names", "output_names"},
    }[task]
    relevant = {"task"} | of_task
    why = f"task={task}"
    if task in ("digits", "mnist") and options.model is None and not has_module:
        # Sizes are compared with those of the bundled model.
        relevant -= {"order", "activation"}
        why += " without model="
    if task == "own" and options.data is not None:
        relevant -= {"seed", "samples"}
        why += " with data="
    for name in sorted(options.model_fields_set - relevant):
        if getattr(options, name) != MLPOptions.model_fields[name].default:
            raise UsageError(f"{why} has no use for {name}=: leave it out.")


def check_source(task: Task, data: Path | None, download: bool) -> None:
    """Raise a `UsageError` unless it is clear where MNIST is from, if that is the task."""
    if download and task != "mnist":
        raise UsageError("download=true fetches MNIST: use it with task=mnist, or leave it out.")
    if download and data is not None:
        raise UsageError("data= and download=true are two places to have MNIST from: give one.")
    if task == "mnist" and data is None and not download:
        raise UsageError(
            "task=mnist needs the folder with the files of MNIST: -o data=DIR, or "
            "-o download=true to fetch them."
        )
