"""State dicts: reading them, and saying which parameter in them does not fit.

In messages `where` is what to call the state dict, such as its path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import as_file
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from libgraph.backend import (
    BackendError,
    NumericalError,
    is_safetensors,
    read_json_text,
    read_weights,
    reading,
)
from libgraph_backends.shared.layer_order import in_order

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


MOST_LAYERS = 10_000
"""Of a network that is given by its weights alone."""


SINGLE = ("model.safetensors", "pytorch_model.bin", "model.pt", "weights.safetensors")


class StateDict(NamedTuple):
    """Parameters of a model that were read.

    Attributes:
        tensors: by name.
        where: what to call them in messages.
        keeps_order: whether they come in the order of the model.
    """

    tensors: Mapping[str, Tensor]
    where: str
    keeps_order: bool = True


def read_checkpoint(path: Path) -> StateDict:
    """The tensors of a file, of an index of shards, or of a folder with either.

    Raises:
        BackendError: if there is nothing of the kind, a shard is missing or damaged, or it holds
            more than tensors.
    """
    with reading(path, BackendError, "The weights "):
        is_folder = path.is_dir()
    if is_folder:
        path = _in_folder(path)
    if path.name.endswith(".index.json"):
        return StateDict(_shards(path), str(path), keeps_order=False)
    return StateDict(read_weights(path), str(path), not is_safetensors(path))


def _in_folder(folder: Path) -> Path:
    for name in (*INDEXES, *SINGLE):
        if (folder / name).is_file():
            return folder / name
    found = (
        sorted(path for path in folder.iterdir() if path.name.endswith(endings))
        for endings in (".index.json", ".safetensors", (".pt", ".pth", ".bin", ".ckpt"))
    )
    others: list[Path] = next(filter(None, found), [])
    if len(others) == 1:
        return others[0]
    there = f"{len(others)} files that may be them" if others else "no file of weights"
    raise BackendError(
        f"'{folder}' is a directory with {there}: give the file of parameters or of their index."
    )


def _shards(index: Path) -> dict[str, Tensor]:
    """All tensors that an index names, each from the shard that it says."""
    try:
        places = read_json_text(index)["weight_map"]  # type: ignore[index, call-overload]
        by_shard: dict[object, list[str]] = {}
        for key, file in places.items():  # type: ignore[union-attr]
            by_shard.setdefault(file, []).append(key)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BackendError(f"'{index}' is no index of shards, with a weight_map.") from None
    tensors: dict[str, Tensor] = {}
    for name, keys in by_shard.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise BackendError(f"'{index}' names {name!r}, which is no file beside it.")
        shard = read_weights(index.parent / name)
        for key in keys:
            if key not in shard:
                raise BackendError(
                    f"'{index.parent / name}' does not hold '{key}' as its index says."
                )
            tensors[key] = shard[key]
    return tensors


def read_own_or_bundled(own: Path | None, bundled: Traversable) -> StateDict:
    """The tensors of a user's file, or those that come with the backend.

    Raises:
        BackendError: if the user's file is missing, damaged, or holds more than tensors.
    """
    if own is not None:
        return read_checkpoint(own)
    with as_file(bundled) as path:
        return StateDict(read_weights(path), "the bundled weights", not is_safetensors(path))


def layer_names(
    state: StateDict,
    order: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
    *,
    kind: str,
    advice: str,
) -> list[str]:
    """Names of the layers that weights and biases belong to, in order.

    Args:
        state: `*.weight` and, for layers with a bias, `*.bias`.
        order: of the layers, by name, if that is known.
        sizes: of the node layers, if they are known.
        kind: of layers, such as `linear layer`.
        advice: what is expected, as the end of a sentence.

    Raises:
        BackendError: naming the first parameter that is of no such layer; or if the order of the
            layers is not known.
        UsageError: if `order` does not name each layer once.
    """
    tensors, where, keeps_order = state
    names = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    if len(names) > MOST_LAYERS:
        raise BackendError(f"{where}: there are {len(names)} layers in it, more than can be used.")
    parameters = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    for name in tensors:
        if name not in parameters:
            raise BackendError(f"{where}: '{name}' is no weight or bias of a {kind}; {advice}.")
    shapes = {name: tensors[f"{name}.weight"].shape for name in names}
    return in_order(shapes, where, keeps_order=keeps_order, order=order, sizes=sizes)


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


CHECKED = 2**22
"""Numbers that are looked at at a time."""


def rows_of(tensor: Tensor, most: int) -> int:
    """How many rows of a tensor hold at most so many numbers; one at least."""
    return max(1, most * len(tensor) // max(1, tensor.numel()))


def check_finite(what: str, tensor: Tensor) -> None:
    """Raise a `NumericalError` about `what`, the subject of a sentence, if it is not finite.

    A piece at a time: what says which numbers are finite is as large as they are.
    """
    parts = tensor.split(rows_of(tensor, CHECKED)) if tensor.ndim else (tensor,)
    if not all(bool(part.isfinite().all()) for part in parts):
        raise NumericalError(f"{what} holds NaN or infinite values.")


def _times(sizes: Sequence[int | str]) -> str:
    return " × ".join(map(str, sizes))
