"""MLPs: with modules that were planted and hidden, of digits, of MNIST, or anyone's own.

Every linear layer with its activation is one section, the biases in the row of the constant. The
planted networks are scored by how much of their own output's variance is lost, and know which
modules should be found; networks that classify are scored by accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, field_validator
from torch import Tensor, nn

from libgraph.accumulate import Progress
from libgraph.backend import Backend, Batch, Encode, Sizes, Split, TypedOptions, by_commas
from libgraph.bases import Bases
from libgraph.errors import BackendError, DataError, UsageError
from libgraph.graph import FeatureLabel
from libgraph.network import Network
from libgraph.store import read_weights
from libgraph_backends.idx import download_mnist, read_mnist
from libgraph_backends.image_labels import image_labels
from libgraph_backends.layers import (
    ACTIVATIONS,
    Layer,
    forward,
    from_module,
    from_state_dict,
    network_of,
)
from libgraph_backends.planted import Plan, Planted

BUNDLED = files("libgraph_backends") / "weights" / "mlp" / "digits.safetensors"

TEST_SHARE = 0.2
"""Share of the samples held out for scores, where there is no test set."""

SPLIT_SEED = 0
"""Of the split of the digits, the same for training and analysis."""

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

LABELLED_AT_ONCE = 1024
"""Samples whose features are looked at at a time."""

RELATIVE_ERROR = 0.01
"""Δ of the relative error: ablations keep 99 % of the outputs' variance."""

DOWNLOAD = "mnist: fetch it (11 MB) into the user's cache where data= is not given"

ActivationName = Literal[
    "relu", "leaky_relu", "gelu", "elu", "tanh", "silu", "sigmoid", "softplus", "linear"
]
Samples = tuple[Float[Tensor, "n d"], Tensor]
"""Inputs as rows and their targets."""


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


class MLP(Backend):
    """Plain networks of linear layers and pointwise activations.

    Args:
        options: which network, and what it runs on.
        module: a model of your own, in place of `options.model`: a `Sequential`.
        inputs: for `module`, `(n, …)`, the last fifth held out for scores; by default those of
            `options.task`, or normal ones.
        targets: classes `(n,)`, which accuracy is measured by; by default the model's own outputs.
    """

    name = "mlp"
    summary = "MLPs: planted modules, digits, MNIST, or a state dict of your own"
    Options = MLPOptions
    Training = TrainingOptions
    options: MLPOptions

    def __init__(
        self,
        options: TypedOptions | None = None,
        *,
        module: nn.Module | None = None,
        inputs: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> None:
        super().__init__(options)
        if module is None and (inputs is not None or targets is not None):
            raise UsageError("Inputs and targets are for a module of your own: give it too.")
        self._module = None if module is None else from_module(module)
        self._given = None if inputs is None else (as_rows(inputs), targets)
        self.task = self.options.task
        if inputs is not None or (module is not None and self.task == "modular"):
            self.task = "own"
        self._check_options()
        if self.task == "modular":
            self.concept, self.modules_known = "block", True
        elif self.classifies:
            self.concept = "class"
        if not self.classifies:
            self.score_name, self.higher_is_better = "relative error", False
            self.tolerances = (RELATIVE_ERROR,)

    def _check_options(self) -> None:
        """Raise a `UsageError` for options that say nothing together."""
        options, strengths = self.options, self.options.strengths
        if self.task == "modular" and (options.model is not None or options.data is not None):
            given = "model" if options.model is not None else "data"
            raise UsageError(
                f"task=modular makes its own network and data: with {given}= use task=digits, "
                "task=mnist or task=own."
            )
        if self.task == "modular" and strengths is not None and len(strengths) != options.blocks:
            raise UsageError(f"{len(strengths)} strengths do not fit {options.blocks} blocks.")
        if self.task == "own" and self._module is None and options.model is None:
            raise UsageError("task=own needs the state dict of an MLP: -o model=FILE.")
        check_source(self.task, options.data, options.download)
        if self.task == "mnist" and options.model is None and self._module is None:
            raise UsageError(
                "task=mnist needs a model: -o model=FILE, which "
                "'libgraph train mlp -o task=mnist -o data=DIR' makes."
            )

    @property
    def classifies(self) -> bool:
        """Whether targets are classes and the score is accuracy."""
        own = self.task == "own" and (self._given is None or self._given[1] is None)
        return self.task != "modular" and not own

    # The model

    @cached_property
    def planted(self) -> Planted:
        """The planted network of task=modular."""
        options = self.options
        plan = Plan(
            strengths=options.strengths or (1.0,) * options.blocks,
            **options.model_dump(include=set(Plan.__annotations__) - {"strengths"}),
        )
        return Planted(plan, self._function())

    def _function(self) -> nn.Module | None:
        name = self.options.activation
        return None if name == "linear" else ACTIVATIONS[name]()

    @cached_property
    def layers(self) -> list[Layer]:
        """Of the network, in order."""
        if self._module is not None:
            return self._module
        if self.task == "modular":
            return self.planted.layers
        options = self.options
        if options.model is not None:
            return from_state_dict(
                read_weights(options.model), options.sizes, options.activation, str(options.model)
            )
        with as_file(BUNDLED) as path:
            weights = read_weights(path)
        return from_state_dict(weights, options.sizes, "relu", "the bundled weights")

    def network(self) -> Network:
        """A section for every linear layer with its activation."""
        return network_of(self.layers)

    # The data

    @cached_property
    def _splits(self) -> dict[Split, Samples]:
        splits = self._read()
        wanted, outputs = len(self.layers[0].matrix) - 1, self.layers[-1].matrix.shape[1]
        for split, (inputs, targets) in splits.items():
            if inputs.shape[1] != wanted:
                raise BackendError(
                    f"The model takes {wanted} inputs, but the data have {inputs.shape[1]} for "
                    "each sample."
                )
            if self.classifies and len(targets) and int(targets.max()) >= outputs:
                raise BackendError(
                    f"The model has {outputs} outputs, but the {split} split has class "
                    f"{int(targets.max())}."
                )
        train = splits["train"][0]
        if not bool(train.isfinite().all()):
            raise DataError("The inputs hold NaN or infinite values.")
        if len(train) and bool((train == train[0]).all()):
            raise DataError("The inputs are all the same: without variance nothing can be found.")
        return splits

    def _read(self) -> dict[Split, Samples]:
        """Of each split, inputs and classes, or inputs and what the model makes of them."""
        if self.task == "digits":
            return digits()
        if self.task == "mnist":
            return mnist(self.options.data)
        count, held_out = self.options.samples, max(1, round(TEST_SHARE * self.options.samples))
        if self.task == "modular":
            inputs = {"train": self.planted.inputs(count, 0)}
            inputs["test"] = self.planted.inputs(held_out, 1)
            return {"train": self._own(inputs["train"]), "test": self._own(inputs["test"])}
        if self._given is not None:
            rows, targets = self._given
        elif self.options.data is not None:
            rows, targets = read_rows(self.options.data), None
        else:
            generator = torch.Generator().manual_seed(self.options.seed)
            size = (count + held_out, len(self.layers[0].matrix) - 1)
            return self._split(torch.randn(size, generator=generator), None, held_out)
        return self._split(rows, targets, max(1, round(TEST_SHARE * len(rows))))

    def _split(self, rows: Tensor, targets: Tensor | None, test: int) -> dict[Split, Samples]:
        """The last rows held out, `test` of them."""
        if len(rows) - test < 2:
            raise DataError(f"{len(rows)} samples are too few: give at least 3.")
        if targets is None:
            wanted = len(self.layers[0].matrix) - 1
            if rows.shape[1] != wanted:
                raise BackendError(
                    f"The model takes {wanted} inputs, but the data have {rows.shape[1]} for "
                    "each sample."
                )
            return {"train": self._own(rows[:-test]), "test": self._own(rows[-test:])}
        check_classes(targets, len(rows))
        return {
            "train": (rows[:-test], targets[:-test]),
            "test": (rows[-test:], targets[-test:]),
        }

    def _own(self, rows: Tensor) -> Samples:
        """Rows with the network's own outputs, in double precision."""
        layers = [layer._replace(matrix=layer.matrix.double()) for layer in self.layers]
        with torch.no_grad():
            *_, outputs = forward(layers, rows.double())
        return rows, outputs

    def samples(self, split: Split) -> int:
        """Rows of inputs."""
        return len(self._splits[split][0])

    def batches(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """Rows of inputs, and classes or the network's own outputs."""
        inputs, targets = self._splits[split]
        for x, y in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):
            yield Batch(x, y)

    @cached_property
    def _variance(self) -> float:
        """Of the network's own outputs, summed over them."""
        outputs = self._splits["train"][1]
        variance = float(outputs.var(0, correction=0).sum())
        if not variance > 0:
            raise DataError("The network's outputs are all the same on these inputs.")
        return variance

    def score(self, outputs: Float[Tensor, "n 1 d"], targets: Tensor) -> Float[Tensor, " n"]:
        """1 where the largest output is at the class; or squared error by the variance."""
        if self.classifies:
            return (outputs[:, 0].argmax(-1) == targets).to(outputs.dtype)
        return (outputs[:, 0] - targets).square().sum(-1) / self._variance

    def labels(self, encode: Encode, bases: Bases) -> Mapping[str, Sequence[FeatureLabel]]:
        """For planted networks the share of each block, for classifiers what sets classes apart."""
        if self.task == "modular":
            return self.planted.labels(self._splits["train"][0], bases)
        if not self.classifies:
            return {}
        images = self.task in ("digits", "mnist")
        classes = (
            DIGITS if images else [f"class {i}" for i in range(self.layers[-1].matrix.shape[1])]
        )
        return image_labels(self.batches("train", LABELLED_AT_ONCE), encode, bases, classes=classes)

    @classmethod
    def train(cls, options: TypedOptions, directory: Path, progress: Progress) -> Mapping[str, Any]:
        """Train on digits or MNIST with AdamW; writes `model.safetensors`."""
        from libgraph_backends.mlp_training import train

        return train(TrainingOptions.model_validate(options.model_dump()), directory, progress)


def digits() -> dict[Split, tuple[Float[Tensor, "n 64"], Int[Tensor, " n"]]]:
    """The 8 × 8 digits that come with scikit-learn as rows between 0 and 1, a fifth held out.

    Raises:
        BackendError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise BackendError(
            f"The digits come with scikit-learn ({error}): pip install 'libgraph[mlp]'."
        ) from error
    found = load_digits()
    inputs = torch.from_numpy(found.data).float() / 16
    targets = torch.from_numpy(found.target).long()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(SPLIT_SEED))
    test = round(TEST_SHARE * len(inputs))
    return {
        "train": (inputs[order[:-test]], targets[order[:-test]]),
        "test": (inputs[order[-test:]], targets[order[-test:]]),
    }


def check_source(task: str, data: Path | None, download: bool) -> None:
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


def mnist(data: Path | None) -> dict[Split, Samples]:
    """MNIST from a folder, or without one from the user's cache, which it is downloaded into.

    Raises:
        BackendError: if what downloads need is not installed.
        DataError: if a file is missing or wrong, or cannot be downloaded.
    """
    folder = download_mnist() if data is None else data
    return {split: read_mnist(folder, split) for split in ("train", "test")}


def as_rows(inputs: Tensor) -> Float[Tensor, "n d"]:
    """Inputs `(n, …)` of any kind of number as rows.

    Raises:
        DataError: if they are no rows.
    """
    if inputs.ndim < 2:
        raise DataError(f"Inputs need a row for each sample: their shape is {tuple(inputs.shape)}.")
    rows = inputs.detach().flatten(1)
    return rows if rows.is_floating_point() else rows.double()


def read_rows(path: Path) -> Float[Tensor, "n d"]:
    """Inputs from a .npy file, one row for each sample.

    Raises:
        DataError: if it is missing or damaged, or holds anything but numbers with samples first.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "it is no .npy file of numbers"
        raise DataError(f"'{path}' cannot be read ({reason}).") from None
    if not isinstance(array, np.ndarray) or array.ndim < 2 or array.dtype.kind not in "fiub":
        raise DataError(f"'{path}' should hold an array of numbers with a row for each sample.")
    return torch.from_numpy(array.astype(np.float64)).flatten(1)


def check_classes(targets: Tensor, count: int) -> None:
    """Raise a `DataError` unless there are so many classes, each a whole number from 0 on."""
    if targets.shape != (count,):
        raise DataError(f"There are {count} inputs, but targets of shape {tuple(targets.shape)}.")
    if targets.is_floating_point() or int(targets.min()) < 0:
        raise DataError("Targets have to be classes: whole numbers from 0 on.")
