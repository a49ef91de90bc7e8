"""State dicts: reading them, and saying which parameter in them does not fit.

In messages `where` is what to call the state dict, such as its path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import as_file
from importlib.resources.abc import Traversable
from pathlib import Path

from torch import Tensor

from libgraph.backend import BackendError, NumericalError, read_weights


def read_own_or_bundled(own: Path | None, bundled: Traversable) -> tuple[dict[str, Tensor], str]:
    """The tensors of a user's file, or those that come with the backend; and what to call them.

    Raises:
        BackendError: if the user's file is missing, damaged, or holds more than tensors.
    """
    if own is not None:
        return read_weights(own), str(own)
    with as_file(bundled) as path:
        return read_weights(path), "the bundled weights"


def layer_names(tensors: Mapping[str, Tensor], where: str, *, kind: str, advice: str) -> list[str]:
    """Names of the layers that weights and biases belong to, in order.

    Args:
        tensors: `*.weight` and, for layers with a bias, `*.bias`.
        where: what to call the state dict.
        kind: of layers, such as `linear layer`.
        advice: what is expected, as the end of a sentence.

    Raises:
        BackendError: naming the first parameter that is of no such layer.
    """
    names = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    parameters = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    for name in tensors:
        if name not in parameters:
            raise BackendError(f"{where}: '{name}' is no weight or bias of a {kind}; {advice}.")
    return names


def check_shape(
    where: str, name: str, tensor: Tensor, sizes: Sequence[int | str], note: str = ""
) -> None:
    """Raise a `BackendError` unless the tensor has these sizes; a word stands for any size."""
    fits = tensor.ndim == len(sizes) and all(
        actual == size if isinstance(size, int) else actual > 0
        for actual, size in zip(tensor.shape, sizes, strict=True)
    )
    if not fits:
        raise wrong_shape(where, name, tensor, sizes, note)


def wrong_shape(
    where: str, name: str, tensor: Tensor, sizes: Sequence[int | str], note: str = ""
) -> BackendError:
    """The error that says which sizes a parameter should have, and which it has."""
    actual = _times(tensor.shape) or "a number"
    return BackendError(
        f"{where}: parameter '{name}' should be {_times(sizes)}{note}, not {actual}."
    )


def check_floating(where: str, name: str, tensor: Tensor) -> None:
    """Raise a `BackendError` unless the tensor holds floating-point numbers."""
    if not tensor.is_floating_point():
        raise BackendError(f"{where}: parameter '{name}' should hold floating-point numbers.")


def check_finite(what: str, tensor: Tensor) -> None:
    """Raise a `NumericalError` about `what`, the subject of a sentence, if it is not finite."""
    if not bool(tensor.isfinite().all()):
        raise NumericalError(f"{what} holds NaN or infinite values.")


def _times(sizes: Sequence[int | str]) -> str:
    return " × ".join(map(str, sizes))
