"""What a backend has to offer: the page to read before writing one.

A backend knows one kind of model: it loads it, cuts it into a `Network`, yields batches of a split
and scores outputs. These four methods it must have. It may also say what features stand for, take
options, and train its model. `libgraph.testing.check_backend` checks all of that, and
docs/backends.md is a complete example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Self, TypeAlias

from libgraph.backend.options import TypedOptions
from libgraph.errors import BackendError, UsageError

if TYPE_CHECKING:
    # Options and a list of backends need no torch.
    from torch import Tensor

    from libgraph.graph.features import FeatureLabel
    from libgraph.network.basis import Bases
    from libgraph.network.network import Network
    from libgraph.progress import Progress


Split = Literal["train", "test", "bases"]
"""Interactions come from `train`, scores from `test`; `bases` only where `bases_split` says so."""


Encode: TypeAlias = "Callable[[Tensor], Mapping[str, Tensor]]"
"""Raw inputs to feature activations `(n, positions, features)` of every rotated node layer."""


Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""What JSON can hold."""


Outcome: TypeAlias = "Mapping[str, Json]"
"""What came out of a training: its `history`, one record for each evaluation, and more."""


class Batch(NamedTuple):
    """Raw inputs and targets of some samples.

    Attributes:
        inputs: `(n, …)`, what the network's embedding takes.
        targets: `(n, …)`, what `score` takes.
    """

    inputs: Tensor
    targets: Tensor


class Backend(ABC):
    """One kind of model, made from options.

    Attributes:
        name: as given on the command line, and in the entry point that registers the class.
        summary: one line for `libgraph backends`.
        Options: the options that `-o key=value` sets.
        Training: the options of `train`, or None where there is no training.
        score_name: what `score` measures.
        higher_is_better: whether a larger score is a better one.
        tolerances: the Δ of the score that ablations use unless told otherwise.
        concept: what the concepts in feature labels are, such as `frequency`.
        modules_known: whether the dominant concepts are modules that are known to be there, so
            that the modules found are measured against them.

    What a score is, and what labels are, may depend on options: an instance may set the last five
    for itself.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    Options: ClassVar[type[TypedOptions]] = TypedOptions
    Training: ClassVar[type[TypedOptions] | None] = None
    score_name: str = "accuracy"
    higher_is_better: bool = True
    tolerances: tuple[float, ...] = (0.001,)
    concept: str = "concept"
    modules_known: bool = False

    def __new__(cls, *_: object, **__: object) -> Self:
        """An instance, if nothing that every backend must have is missing."""
        if cls.__abstractmethods__:
            names = ", ".join(f"{name}()" for name in sorted(cls.__abstractmethods__))
            raise BackendError(
                f"The backend {cls.__name__} has no {names}, which every backend must have "
                "(docs/backends.md)."
            )
        return super().__new__(cls)

    def __init__(self, options: TypedOptions | None = None) -> None:
        if options is not None and not isinstance(options, TypedOptions):
            raise UsageError(
                f"{type(self).__name__} takes options of the type {self.Options.__name__}, not a "
                f"{type(options).__name__}."
            )
        self.options = options if options is not None else self.Options()

    def __repr__(self) -> str:
        given = self.options.model_dump(exclude_defaults=True).items()
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given)})"

    # Every backend must

    @abstractmethod
    def network(self) -> Network:
        """The model, cut into sections, parameters as they are stored; a new one for each call.

        Activations are `(samples, positions, coordinates)`. The last coordinate of a node layer is
        the constant 1 that carries biases, unless its `NodeLayer` says that there is none.
        """

    @abstractmethod
    def samples(self, split: Split) -> int:
        """Number of samples of a split."""

    @abstractmethod
    def batches(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """The samples of a split, always in the same order, `batch_size` or fewer at a time."""

    @abstractmethod
    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Score `(n,)` of each sample, from outputs `(n, positions, d_out)` of the network."""

    # A backend may

    @property
    def bases_split(self) -> Split:
        """The split that bases are made from; `bases` takes no notice of a limit on samples."""
        return "train"

    def fingerprint(self) -> str:
        """Of what `score` depends on beside outputs and targets, such as layers that follow.

        A digest, or nothing; results are computed anew where it has changed.
        """
        return ""

    def labels(self, encode: Encode, bases: Bases) -> Mapping[str, Sequence[FeatureLabel]]:
        """What the features of each rotated node layer stand for; layers may be left out.

        Args:
            encode: raw inputs to features.
            bases: where the features are: their decoders are directions of activations.
        """
        return {}

    def output_names(self) -> Sequence[str]:
        """What the coordinates of the outputs are called, such as classes; nothing if unknown."""
        return ()

    def inputs_of(self, text: str) -> Tensor:
        """Raw inputs of one sample from a text that somebody typed, `(1, …)`.

        Raises:
            UsageError: if the backend reads no texts, or not this one.
        """
        raise UsageError(
            f"The backend '{self.name}' makes no inputs of a text: choose a sample by its number."
        )

    def continued(self, inputs: Tensor, chosen: int) -> Tensor:
        """Raw inputs of one sample with the class or token that was chosen at their end, `(1, …)`.

        Raises:
            UsageError: if outputs of the backend do not continue its inputs.
        """
        raise UsageError(f"The outputs of the backend '{self.name}' do not continue its inputs.")

    def logits(self, outputs: Tensor) -> Tensor:
        """Outputs `(n, positions, d_out)` to one number for each class or token, likewise."""
        return outputs

    def class_names(self, numbers: Sequence[int]) -> Sequence[str]:
        """What these classes or tokens are called."""
        names = self.output_names()
        return [names[number] if number < len(names) else str(number) for number in numbers]

    def show(self, inputs: Tensor) -> Sequence[Sequence[str]] | Tensor:
        """Raw inputs as people look at them, for examples of what features respond to.

        Args:
            inputs: of some samples.

        Returns:
            For each sample its text, position by position (one, if it is a whole), or the pictures
            of all, red, green and blue in bytes `(n, height, width, 3)`; nothing if there is
            nothing to see.
        """
        return ()

    @classmethod
    def train(cls, options: TypedOptions, directory: Path, progress: Progress) -> Outcome:
        """Train a model into `directory/model.safetensors`, going on from what is there.

        Args:
            options: of the type `Training`.
            directory: where the model goes, and checkpoints meanwhile; `fit` keeps them.
            progress: told after every step.

        Returns:
            What `training.json` says beside options and versions.

        Raises:
            BackendError: if the backend has no training.
            NumericalError: if the loss stops being finite.
        """
        raise BackendError(f"The backend '{cls.name}' has no training.")
