"""MLPs: with modules that were planted and hidden, of digits, of MNIST, or anyone's own.

Every linear layer with its activation is one section, the biases in the row of the constant. The
planted networks are scored by how much of their own output's variance is lost, and know which
modules should be found; networks that classify are scored by accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from libgraph.backend.contract import Backend, Batch, Encode, Split
from libgraph.backend.options import TypedOptions
from libgraph.errors import BackendError, DataError, UsageError
from libgraph.files.weights import read_weights
from libgraph.graph.features import FeatureLabel
from libgraph.network.basis import Bases
from libgraph.network.network import Network
from libgraph.progress import Progress
from libgraph_backends.mlp.data import (
    DIGITS,
    TEST_SHARE,
    Samples,
    as_rows,
    check_classes,
    check_source,
    digits,
    mnist,
    read_rows,
)
from libgraph_backends.mlp.options import MLPOptions, TrainingOptions
from libgraph_backends.mlp.planted import Plan, Planted
from libgraph_backends.shared.image_labels import image_labels
from libgraph_backends.shared.layers import (
    ACTIVATIONS,
    Layer,
    forward,
    from_module,
    from_state_dict,
    network_of,
)

BUNDLED = files("libgraph_backends.mlp") / "weights" / "digits.safetensors"


LABELLED_AT_ONCE = 1024
"""Samples whose features are looked at at a time."""


RELATIVE_ERROR = 0.01
"""Δ of the relative error: ablations keep 99 % of the outputs' variance."""


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
        from libgraph_backends.mlp.training import train

        return train(TrainingOptions.model_validate(options.model_dump()), directory, progress)
