"""Scores of a model's outputs: one number for each sample."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from torch.nn.functional import cross_entropy

from libgraph.backend import BackendError, DataError
from libgraph_backends.pytorch.options import ScoreName


class Score(Protocol):
    """A score of each sample."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of outputs as the model gives them, and targets, samples first."""


IGNORED = -100
"""A target that stands for none, as losses of PyTorch have it: padding of texts, borders."""


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the largest output is at the class; the mean over what is classified of a sample."""
    dim = class_dimension(outputs, targets)
    return _mean((outputs.argmax(dim) == targets).to(outputs.dtype), targets)


def cross_entropies(outputs: Tensor, targets: Tensor) -> Tensor:
    """In nats; the mean over what is classified of a sample."""
    moved = outputs.movedim(class_dimension(outputs, targets), 1)
    losses = cross_entropy(moved, targets.long(), ignore_index=IGNORED, reduction="none")
    return _mean(losses, targets)


def squared_errors(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean of squares over a sample's outputs.

    Raises:
        DataError: if there is not one target for each output.
    """
    if targets[:1].numel() != outputs[:1].numel():
        raise DataError(
            f"Targets {tuple(targets.shape)} are not one for each of the outputs "
            f"{tuple(outputs.shape)}: give as many, or whole numbers where they are classes."
        )
    squares = (outputs - targets.reshape(outputs.shape)).square()
    return squares.reshape(len(outputs), -1).mean(1)


def _mean(scores: Tensor, targets: Tensor) -> Tensor:
    """Over what is classified of a sample, ignored targets left out."""
    counted = (targets != IGNORED).to(scores)
    if scores.ndim == 1:
        return scores * counted
    return (scores * counted).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1)


def class_dimension(outputs: Tensor, targets: Tensor) -> int:
    """Where outputs have their classes: what targets lack, last as of tokens or first as of pixels.

    Raises:
        DataError: if targets do not fit, or are no classes.
    """
    shape, wanted = tuple(outputs.shape), tuple(targets.shape)
    for dim in (outputs.ndim - 1, 1):
        if 0 < dim < len(shape) and shape[:dim] + shape[dim + 1 :] == wanted:
            _check_classes(targets, shape[dim])
            return dim
    raise DataError(
        f"Targets {wanted} are no classes of outputs {shape}: give one class for each sample, "
        "token or pixel, or another score."
    )


def _check_classes(targets: Tensor, classes: int) -> None:
    if targets.is_floating_point() or targets.is_complex():
        raise DataError(
            f"Targets are {str(targets.dtype).removeprefix('torch.')}: classes are whole numbers."
        )
    targets = targets.long()
    wrong = (targets != IGNORED) & ((targets < 0) | (targets >= classes))
    if bool(wrong.any()):
        raise DataError(
            f"There is a target {int(targets[wrong][0])}, but the model has {classes} outputs: "
            f"classes go from 0 to {classes - 1}, and {IGNORED} stands for none."
        )


SCORES: dict[ScoreName, tuple[Score, bool]] = {
    "accuracy": (accuracy, True),
    "cross-entropy": (cross_entropies, False),
    "mean-squared-error": (squared_errors, False),
}
"""Each score, and whether more of it is better."""


def fitting(targets: Tensor | None) -> ScoreName:
    """The score that goes with targets: accuracy of classes, cross-entropy of tokens."""
    if targets is None or targets.is_floating_point():
        return "mean-squared-error"
    return "accuracy" if targets.ndim == 1 else "cross-entropy"


def checked(scores: object, count: int, name: str) -> Tensor:
    """What somebody's own score gives, if it is one number for each sample.

    Raises:
        BackendError: if it is not.
    """
    if not isinstance(scores, Tensor) or scores.shape != (count,):
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise BackendError(
            f"The score '{name}' gives {got} for {count} samples: it has to give one number for "
            "each, as a tensor."
        )
    return scores
