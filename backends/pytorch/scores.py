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


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the largest output is at the class; the mean over what is classified of a sample."""
    right = (outputs.argmax(class_dimension(outputs, targets)) == targets).to(outputs.dtype)
    return right.flatten(1).mean(1) if right.ndim > 1 else right


def cross_entropies(outputs: Tensor, targets: Tensor) -> Tensor:
    """In nats; the mean over what is classified of a sample."""
    moved = outputs.movedim(class_dimension(outputs, targets), 1)
    losses = cross_entropy(moved, targets, reduction="none")
    return losses.flatten(1).mean(1) if losses.ndim > 1 else losses


def squared_errors(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean of squares over a sample's outputs."""
    return (
        (outputs - targets.reshape(outputs.shape)).square().flatten(1).mean(1)
        if (outputs.ndim > 1)
        else (outputs - targets).square()
    )


def class_dimension(outputs: Tensor, targets: Tensor) -> int:
    """Where outputs have their classes: what targets lack, last as of tokens or first as of pixels.

    Raises:
        DataError: if targets do not fit.
    """
    shape, wanted = tuple(outputs.shape), tuple(targets.shape)
    for dim in (outputs.ndim - 1, 1):
        if 0 < dim < len(shape) and shape[:dim] + shape[dim + 1 :] == wanted:
            return dim
    raise DataError(
        f"Targets {wanted} are no classes of outputs {shape}: give one class for each sample, "
        "token or pixel, or another score."
    )


SCORES: dict[ScoreName, tuple[Score, bool]] = {
    "accuracy": (accuracy, True),
    "cross-entropy": (cross_entropies, False),
    "mean-squared-error": (squared_errors, False),
}
"""Each score, and whether more of it is better."""


def fitting(outputs: Tensor, targets: Tensor | None) -> ScoreName:
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
