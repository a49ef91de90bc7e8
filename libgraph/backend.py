"""What a backend has to offer, and how backends are found.

A backend knows one kind of model: it loads it, cuts it into a `Network`, yields batches of a split
and scores outputs; it may also say what features stand for, and train its model. Backends register
under the entry-point group `libgraph.backends`, the built-in ones no differently from anyone's
own; names are listed without importing anything.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from torch import Tensor

from libgraph.errors import BackendError, UsageError

if TYPE_CHECKING:
    from libgraph.accumulate import Progress
    from libgraph.bases import Bases
    from libgraph.graph import FeatureLabel
    from libgraph.network import Network

ENTRY_POINTS = "libgraph.backends"

Split = Literal["train", "test", "bases"]
"""Interactions come from `train`, scores from `test`; `bases` only where `bases_split` says so."""

Encode = Callable[[Tensor], Mapping[str, Tensor]]
"""Raw inputs to feature activations `(n, positions, features)` of every rotated node layer."""


class Batch(NamedTuple):
    """Raw inputs and targets of some samples, samples first."""

    inputs: Tensor
    targets: Tensor


class TypedOptions(BaseModel):
    """Base of typed options: unknown names are refused, values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def by_commas(value: Any) -> Any:
    """The parts of a text with commas, as the command line gives several numbers."""
    return value.split(",") if isinstance(value, str) else value


Sizes = Annotated[tuple[Annotated[int, Field(gt=0)], ...], BeforeValidator(by_commas)]
"""Type of an option of several positive whole numbers, such as `-o hidden=32,32`."""


class Backend(ABC):
    """One kind of model. Subclasses set the class attributes and fill in the abstract methods.

    Attributes:
        name: as given on the command line.
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

    def __init__(self, options: TypedOptions | None = None) -> None:
        self.options = options if options is not None else self.Options()

    def __repr__(self) -> str:
        given = self.options.model_dump(exclude_defaults=True).items()
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given)})"

    @abstractmethod
    def network(self) -> Network:
        """The model, cut into sections, parameters as they are stored; a new one for each call."""

    @abstractmethod
    def samples(self, split: Split) -> int:
        """Number of samples of a split."""

    @abstractmethod
    def batches(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """The samples of a split, always in the same order."""

    @abstractmethod
    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Score `(n,)` of each sample, from outputs `(n, positions, d_out)` of the network."""

    @property
    def bases_split(self) -> Split:
        """The split that bases are made from; `bases` takes no notice of a limit on samples."""
        return "train"

    def labels(self, encode: Encode, bases: Bases) -> Mapping[str, Sequence[FeatureLabel]]:
        """What the features of each node layer stand for; layers may be left out.

        Args:
            encode: raw inputs to features.
            bases: where the features are: their decoders are directions of activations.
        """
        return {}

    @classmethod
    def train(cls, options: TypedOptions, directory: Path, progress: Progress) -> Mapping[str, Any]:
        """Train a model into `directory`, resuming what is there; returns what came out."""
        raise BackendError(f"The backend '{cls.name}' has no training.")


AnyOptions = TypeVar("AnyOptions", bound=BaseModel)


def check_backend_kind(backend: object) -> None:
    """Raise a `UsageError` for what is no backend, such as its name."""
    if not isinstance(backend, Backend):
        kind = type(backend).__name__
        raise UsageError(
            f"A backend is needed, not a {kind}: make one with libgraph.load_backend(name), or of "
            "a module of your own with libgraph_backends.mlp.MLP(module=…)."
        )


def parse_options(model: type[AnyOptions], values: Mapping[str, Any], of: str) -> AnyOptions:
    """Validate option values, which may be strings.

    Args:
        model: the options' type.
        values: by name.
        of: whose options they are, for the error message.

    Raises:
        UsageError: naming the first option that is unknown (with near names) or has a bad value.
    """
    known = list(model.model_fields)
    for name in values:
        if name not in known:
            raise UsageError(f"There is no option '{name}' of {of}{near(name, known, 'there are')}")
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "options"
        message = first["msg"].removeprefix("Value error, ").rstrip(".")
        given = "" if first["type"] == "missing" else f", not {first['input']!r}"
        raise UsageError(f"Option '{name}' of {of}: {message}{given}.") from None


def near(name: str, known: Iterable[str], otherwise: str) -> str:
    """The known names that look like `name`, or all of them, as the end of a sentence."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(f"'{each}'" for each in close) + "?"
    return f"; {otherwise} {', '.join(names)}." if names else "."


def backend_names() -> list[str]:
    """Names of all installed backends, without importing them."""
    return sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)})


def backend_class(name: str) -> type[Backend]:
    """Import the backend registered under `name`.

    Raises:
        BackendError: if there is none (the near names are given), or if it cannot be imported.
    """
    found: dict[str, EntryPoint] = {each.name: each for each in entry_points(group=ENTRY_POINTS)}
    if name not in found:
        raise BackendError(f"There is no backend '{name}'{near(name, found, 'installed are')}")
    try:
        loaded = found[name].load()
    except ImportError as error:
        raise BackendError(
            f"The backend '{name}' cannot be imported ({error}): install what it needs, "
            f"perhaps with: pip install 'libgraph[{name}]'."
        ) from error
    except Exception as error:
        # Whatever the module of somebody else runs into.
        raise BackendError(
            f"The backend '{name}' cannot be imported, {type(error).__name__}: {error}. Its entry "
            f"point is {found[name].value}."
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Backend)):
        raise BackendError(
            f"The entry point '{name}' is {loaded!r}, not a subclass of libgraph.Backend."
        )
    return loaded


def load_backend(name: str, **options: Any) -> Backend:
    """Make the backend registered under `name` with these options (strings are converted).

    Raises:
        BackendError: if there is no such backend or it cannot be imported.
        UsageError: if an option is unknown or has a bad value.
    """
    cls = backend_class(name)
    return cls(parse_options(cls.Options, options, f"the backend '{name}'"))
