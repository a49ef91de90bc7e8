"""MLPs: with modules that were planted and hidden, of digits, of MNIST, or anyone's own.

Every linear layer with its activation is one section, the biases in the row of the constant. The
planted networks are scored by how much of their own output's variance is lost, and know which
modules should be found; networks that classify are scored by accuracy.
"""

# Modules that need torch are imported where they are used: options are listed without it.
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING

from libgraph.backend import Backend, Batch, DataError, UsageError
from libgraph_backends.mlp.options import MLPOptions, Task, TrainingOptions, check_options

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor, nn

    from libgraph.backend import (
        Bases,
        Encode,
        FeatureLabel,
        Network,
        Outcome,
        Progress,
        Split,
        TypedOptions,
    )
    from libgraph_backends.mlp.data import Samples
    from libgraph_backends.mlp.planted import Planted
    from libgraph_backends.shared.layers import Layer


LABELLED_AT_ONCE = 1024
"""Samples whose features are looked at at a time."""


RELATIVE_ERROR = 0.01
"""Δ of the relative error: ablations keep 99 % of the outputs' variance."""


class MLP(Backend):
    """Plain networks of linear layers and pointwise activations.

    Args:
        options: which network, and what it runs on.
        module: a model of your own, in place of `options.model`: a `Sequential`, or any other that
            calls linear layers and activations one after the other.
        inputs: for `module`, `(n, …)`, the last fifth held out for scores; by default those of
            `options.task`, or normal ones.
        targets: classes `(n,)`, which accuracy is measured by; by default the model's own outputs.
        input_names: of the inputs of `module`, for labels; in place of `options.input_names`.
        output_names: of its outputs, which are the classes where there are `targets`.

    Raises:
        BackendError: naming the layer of `module` for which there is no section, or if `module`
            computes something else than its layers.
        DataError: if `inputs` are no rows, or not finite.
        UsageError: if options say nothing together, or `inputs` come without `module`.
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
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(options)
        named = {"input_names": input_names, "output_names": output_names}
        given = {name: names for name, names in named.items() if names is not None}
        if given:
            before = self.options.model_dump(exclude_unset=True)
            self.options = self.Options(**{**before, **given})
        if module is None and (inputs is not None or targets is not None):
            raise UsageError("Inputs and targets are for a module of your own: give it too.")
        self.task: Task = self.options.task
        if inputs is not None or (module is not None and self.task == "modular"):
            self.task = "own"
        self._module = module
        self._own_layers: list[Layer] | None = None
        self._own_inputs: Tensor | None = None
        self._own_targets: Tensor | None = None
        if module is not None:
            from libgraph_backends.mlp.data import as_classes, as_numbers
            from libgraph_backends.shared.modules import from_module

            numbers = None if inputs is None else as_numbers(inputs)
            self._own_layers = from_module(module, numbers)
            self._own_inputs = None if numbers is None else numbers.flatten(1)
            self._own_targets = None if targets is None else as_classes(targets)
        check_options(self.options, self.task, has_module=module is not None)
        if self.task == "modular":
            self.concept, self.modules_known = "block", True
        elif self.classifies:
            self.concept = "class"
        if not self.classifies:
            self.score_name, self.higher_is_better = "relative error", False
            self.tolerances = (RELATIVE_ERROR,)

    @property
    def classifies(self) -> bool:
        """Whether targets are classes and the score is accuracy."""
        if self.task == "own":
            return self._own_inputs is not None and self._own_targets is not None
        return self.task != "modular"

    @cached_property
    def planted(self) -> Planted:
        """The planted network of task=modular."""
        from libgraph_backends.mlp import network

        return network.plant(self.options)

    @cached_property
    def layers(self) -> Sequence[Layer]:
        """Of the network, in order."""
        if self._own_layers is not None:
            return self._own_layers
        if self.task == "modular":
            return self.planted.layers
        from libgraph_backends.mlp import network

        return network.read(self.options)

    def network(self) -> Network:
        """A section for every linear layer with its activation."""
        from libgraph_backends.shared.layers import network_of

        for option, count in zip(("input_names", "output_names"), self.ends, strict=True):
            self._names(option, count)
        return network_of(self.layers)

    @cached_property
    def _splits(self) -> Mapping[Split, Samples]:
        from libgraph_backends.mlp import data

        splits = self._read()
        data.check_splits(splits, self.layers, classifies=self.classifies)
        if self._module is not None and self._own_inputs is None:
            from libgraph_backends.shared.modules import check_agrees

            for inputs, _ in splits.values():
                check_agrees(self._module, self.layers, inputs)
        return splits

    def _read(self) -> Mapping[Split, Samples]:
        """Of each split, inputs and classes, or inputs and what the model makes of them."""
        from libgraph_backends.mlp import data

        options = self.options
        if self.task == "digits":
            return data.digits()
        if self.task == "mnist":
            return data.mnist(options.data)
        if self.task == "modular":
            return data.planted_samples(self.planted, options.samples)
        if self._own_inputs is not None:
            return data.own_samples(self._own_inputs, self._own_targets, self.layers)
        if options.data is not None:
            return data.own_samples(data.read_rows(options.data), None, self.layers)
        return data.normal_samples(options.samples, options.seed, self.layers)

    def samples(self, split: Split) -> int:
        """Rows of inputs."""
        return len(self._splits[split][0])

    def batches(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """Rows of inputs, and classes or the network's own outputs."""
        inputs, targets = self._splits[split]
        for part in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):
            yield Batch(*part)

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
        """For planted networks the share of each block, for classifiers what sets classes apart.

        Features of the input layer are labelled by the names of inputs, where these have any.
        """
        from libgraph_backends.mlp import labels

        if self.task == "modular":
            return labels.block_labels(self.planted, self._splits["train"][0], bases)
        by_layer: dict[str, Sequence[FeatureLabel]] = {}
        if self.classifies:
            batches = self.batches("train", LABELLED_AT_ONCE)
            by_layer |= labels.class_labels(batches, encode, bases, self.output_names())
        first, names = next(iter(bases)), self._names("input_names", self.ends[0])
        if names and bases[first].rotated:
            inputs = self._splits["train"][0]
            by_layer[first] = labels.input_labels(inputs, bases[first], names)
        return by_layer

    def show(self, inputs: Float[Tensor, "n d"]) -> Sequence[Sequence[str]] | Tensor:
        """Digits as pictures; of other rows the inputs that are largest, with their names."""
        from libgraph_backends.mlp import labels

        if self.task in ("digits", "mnist") and isqrt(inputs.shape[1]) ** 2 == inputs.shape[1]:
            return labels.pictures(inputs)
        return labels.largest_inputs(inputs, self._names("input_names", self.ends[0]))

    @property
    def ends(self) -> tuple[int, int]:
        """How many inputs and outputs the network has."""
        return len(self.layers[0].matrix) - 1, self.layers[-1].matrix.shape[1]

    def output_names(self) -> Sequence[str]:
        """Classes, planted blocks, or names that were given; otherwise numbers."""
        from libgraph_backends.mlp.labels import DIGITS

        if self.task in ("digits", "mnist") and self.ends[1] == len(DIGITS):
            return DIGITS
        if self.task == "modular":
            blocks = self.planted.members[0].tolist()
            return [f"output {i}, block {block}" for i, block in enumerate(blocks)]
        kind = "class" if self.classifies else "output"
        numbered = [f"{kind} {number}" for number in range(self.ends[1])]
        return self._names("output_names", self.ends[1]) or numbered

    def _names(self, option: str, count: int) -> Sequence[str]:
        """Names that were given, found to be as many as there are to name."""
        names: Sequence[str] | None = getattr(self.options, option)
        if names is not None and len(names) != count:
            raise UsageError(f"{option} has {len(names)} names for {count}: give one each.")
        return names or ()

    @classmethod
    def train(cls, options: TypedOptions, directory: Path, progress: Progress) -> Outcome:
        """Train on digits or MNIST with AdamW; writes `model.safetensors`."""
        from libgraph_backends.mlp.training import train

        return train(TrainingOptions.model_validate(options), directory, progress)
