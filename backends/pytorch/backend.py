"""The backend `torch`: any module of PyTorch, from somebody's own code, cut as `lg.cut` cuts it.

`imports` gets what is named, `network` the module and its parameters, `data` the samples by split,
`scores` what is measured. From Python the module and its samples are given as they are.
"""

# Modules that need torch are imported where they are used: options are listed without it.
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from typing import TYPE_CHECKING

from libgraph.backend import Backend, BackendError, Batch, UsageError
from libgraph_backends.pytorch.options import TorchOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from libgraph import CutNetwork
    from libgraph.backend import Bases, Encode, FeatureLabel, Network, Split, TypedOptions
    from libgraph_backends.pytorch.data import Samples


EXAMPLES = 16
"""Samples that the module is cut with."""


AT_ONCE = 256
"""Samples that the module is run on, or labelled with, at a time."""


TOLERANCES = {"accuracy": (0.001, 0.01), "cross-entropy": (0.05,), "mean-squared-error": (0.01,)}


class Torch(Backend):
    """Any module of PyTorch.

    Args:
        options: which module, on which data, cut where.
        module: a model of your own, in place of `options.model`.
        data: its samples, in place of `options.data`: inputs, `(inputs, targets)`, a data set of
            pairs, or these by split, `{"train": …, "test": …}`. Without targets the model's own
            outputs are.
        score: of `(outputs, targets)`, one number for each sample; in place of `options.score`.
        higher_is_better: whether more of that score is better.
    """

    name = "torch"
    summary = "any model of PyTorch: a module in your own code, a .py file or an exported .pt2"
    Options = TorchOptions
    options: TorchOptions
    concept = "class"

    def __init__(
        self,
        options: TypedOptions | None = None,
        *,
        module: nn.Module | None = None,
        data: object = None,
        score: Callable[[Tensor, Tensor], Tensor] | None = None,
        higher_is_better: bool = True,
    ) -> None:
        super().__init__(options)
        if module is None and self.options.model is None:
            raise UsageError(
                "Which model? Give model=package.module:build or model=file.py:build, a function "
                "that returns it."
            )
        if data is None and self.options.data is None:
            raise UsageError(
                "Which data? Give data=package.module:data or data=file.py:data, a function that "
                "returns (inputs, targets)."
            )
        self._given, self._given_data = module, data
        self._own_score, self._own_direction = score, higher_is_better

    @cached_property
    def module(self) -> nn.Module:
        """The module that is analysed, with its parameters."""
        from libgraph_backends.pytorch.network import module_of
        from libgraph_backends.shared.checkpoints import load_into

        if self._given is None:
            assert self.options.model is not None  # noqa: S101
            return module_of(self.options.model, self.options.weights)
        module = self._given
        if self.options.weights is not None:
            module = deepcopy(module)
            load_into(module, self.options.weights)
        return module

    @cached_property
    def _data(self) -> Mapping[Split, Samples]:
        from libgraph_backends.pytorch import data

        given = self._given_data
        if given is None:
            assert self.options.data is not None  # noqa: S101
            given = data.read(self.options.data)
        return data.splits_of(given, self.options.test_share, self.options.samples)

    @cached_property
    def cut(self) -> CutNetwork:
        """The module in sections, found to compute the same."""
        from libgraph import cut

        examples = self._data["train"].inputs[:EXAMPLES]
        return cut(self.module, examples, self.options.at, inside=self.options.inside)

    def network(self) -> Network:
        """The sections, in double precision."""
        return deepcopy(self.cut)

    @cached_property
    def _targets(self) -> Mapping[Split, Tensor]:
        """Targets, or what the model makes of inputs."""
        import torch

        targets: dict[Split, Tensor] = {}
        for split, samples in self._data.items():
            if samples.targets is not None:
                targets[split] = samples.targets
                continue
            with torch.no_grad():
                parts = [
                    self.cut.last.to_value(self.cut(part)) for part in samples.inputs.split(AT_ONCE)
                ]
            targets[split] = torch.cat(parts)
        return targets

    def samples(self, split: Split) -> int:
        """Inputs."""
        return len(self._data[split].inputs)

    def batches(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """Inputs as the module takes them, and their targets."""
        inputs, targets = self._data[split].inputs, self._targets[split]
        for part in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):
            yield Batch(*part)

    # Scores

    @cached_property
    def _score(self) -> tuple[str, Callable[[Tensor, Tensor], Tensor], bool]:
        """Name, function, and whether more is better."""
        from libgraph_backends.pytorch.imports import named
        from libgraph_backends.pytorch.scores import SCORES, fitting

        if self._own_score is not None:
            name = getattr(self._own_score, "__name__", "score")
            return name, self._own_score, self._own_direction
        chosen = self.options.score
        if chosen is None:
            samples = self._data["train"]
            chosen = fitting(samples.inputs, samples.targets)
        if chosen in SCORES:
            function, higher = SCORES[chosen]  # type: ignore[index]
            return chosen, function, higher
        own = named(chosen, "score")
        if not callable(own):
            raise BackendError(f"The score '{chosen}' is a {type(own).__name__}, not a function.")
        return chosen.rpartition(":")[2], own, bool(getattr(own, "higher_is_better", True))

    @property
    def score_name(self) -> str:  # type: ignore[override]
        """What is measured."""
        return self._score[0]

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """Whether more of it is better."""
        return self._score[2]

    @property
    def tolerances(self) -> tuple[float, ...]:  # type: ignore[override]
        """Of the score that is measured."""
        return TOLERANCES.get(self.score_name, (0.01,))

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One number for each sample, of outputs in the shape that the module gives them."""
        from libgraph_backends.pytorch.scores import checked

        name, function, _ = self._score
        return checked(function(self.cut.last.to_value(outputs), targets), len(outputs), name)

    # What features stand for

    def labels(self, encode: Encode, bases: Bases) -> Mapping[str, Sequence[FeatureLabel]]:
        """Which classes features tell apart, where samples have one each."""
        from libgraph_backends.pytorch.labels import class_labels

        targets = self._data["train"].targets
        if targets is None or targets.ndim != 1 or targets.is_floating_point():
            return {}
        names = self.output_names() or [f"class {i}" for i in range(int(targets.max()) + 1)]
        if int(targets.min()) < 0 or int(targets.max()) >= len(names):
            return {}
        return class_labels(self.batches("train", AT_ONCE), encode, bases, names)

    def output_names(self) -> Sequence[str]:
        """The names that were given."""
        names, count = self.options.classes, self.cut.node_layers[-1].size
        if names is not None and len(names) != count:
            raise UsageError(f"classes= has {len(names)} names for {count} outputs: give one each.")
        return names or ()
