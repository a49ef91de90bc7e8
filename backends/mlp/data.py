"""The samples of MLPs: digits, MNIST, and rows that somebody brings.

Digits come with scikit-learn, MNIST from a folder or a download; a fifth of what has no test set of
its own is held out for scores, by a fixed seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.backend import BackendError, DataError, Split, missing_extra, plain, read_array
from libgraph_backends.mlp.mnist import download_mnist, read_mnist
from libgraph_backends.mlp.planted import Planted
from libgraph_backends.shared.layers import Layer, check_width, ends, forward

TEST_SHARE = 0.2
"""Share of the samples held out for scores, where there is no test set."""


SPLIT_SEED = 0
"""Of the split of the digits, the same for training and analysis."""


NOT_FINITE = "The inputs hold NaN or infinite values."


Samples = tuple[Float[Tensor, "n d"], Tensor]
"""Inputs as rows and their targets."""


# The samples of each task


def digits() -> dict[Split, Samples]:
    """The 8 × 8 digits that come with scikit-learn as rows between 0 and 1, a fifth held out.

    Raises:
        BackendError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        need = f"The digits come with scikit-learn ({error})"
        raise BackendError(missing_extra(need, "mlp")) from error
    images = load_digits()
    inputs = torch.from_numpy(images.data).float() / 16
    targets = torch.from_numpy(images.target).long()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(SPLIT_SEED))
    test = round(TEST_SHARE * len(inputs))
    return {
        "train": (inputs[order[:-test]], targets[order[:-test]]),
        "test": (inputs[order[-test:]], targets[order[-test:]]),
    }


def mnist(data: Path | None) -> dict[Split, Samples]:
    """MNIST from a folder, or without one from the user's cache, which it is downloaded into.

    Raises:
        BackendError: if what downloads need is not installed.
        DataError: if a file is missing or wrong, or cannot be downloaded.
    """
    folder = download_mnist() if data is None else data
    return {split: read_mnist(folder, split) for split in ("train", "test")}


def planted_samples(planted: Planted, count: int) -> dict[Split, Samples]:
    """Inputs of a planted network, a fifth as many more for scores, and its outputs."""
    rows: dict[Split, Tensor] = {
        "train": planted.inputs(count, 0),
        "test": planted.inputs(_share(count), 1),
    }
    return {split: _with_outputs(part, planted.layers) for split, part in rows.items()}


def normal_samples(count: int, seed: int, layers: Sequence[Layer]) -> dict[Split, Samples]:
    """Standard-normal inputs, a fifth as many more for scores, and the network's outputs."""
    test = _share(count)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn((count + test, ends(layers)[0]), generator=generator)
    return {split: _with_outputs(part, layers) for split, part in _held_out(rows, test).items()}


def own_samples(
    rows: Float[Tensor, "n d"], targets: Tensor | None, layers: Sequence[Layer]
) -> dict[Split, Samples]:
    """Somebody's inputs, the last fifth held out, with their classes or the network's outputs.

    Raises:
        BackendError: if the network takes other inputs.
        DataError: if there are too few samples, or targets that are no classes.
    """
    test = _share(len(rows))
    inputs = _held_out(rows, test)
    if targets is None:
        check_width(rows, layers)
        return {split: _with_outputs(part, layers) for split, part in inputs.items()}
    check_classes(targets, len(rows))
    classes = _held_out(targets, test)
    return {split: (part, classes[split]) for split, part in inputs.items()}


def _share(count: int) -> int:
    """How many samples are for scores, of so many."""
    return max(1, round(TEST_SHARE * count))


def _held_out(rows: Tensor, test: int) -> dict[Split, Tensor]:
    """The last rows held out, `test` of them."""
    if len(rows) - test < 2:
        raise DataError(f"{len(rows)} samples are too few: give at least 3.")
    return {"train": rows[:-test], "test": rows[-test:]}


def _with_outputs(rows: Float[Tensor, "n d"], layers: Sequence[Layer]) -> Samples:
    """Rows with what the network makes of them, in double precision."""
    double = [layer._replace(matrix=layer.matrix.double()) for layer in layers]
    with torch.no_grad():
        *_, outputs = forward(double, rows.double())
    return rows, outputs


# What fits


def check_splits(
    splits: Mapping[Split, Samples], layers: Sequence[Layer], *, classifies: bool
) -> None:
    """Find out whether a network can run on these samples, and anything be found in them.

    Raises:
        BackendError: if the network has other inputs, or fewer outputs than there are classes.
        DataError: if inputs are not finite, or all the same.
    """
    outputs = ends(layers)[1]
    for split, (inputs, targets) in splits.items():
        check_width(inputs, layers)
        if classifies and len(targets) and int(targets.max()) >= outputs:
            raise BackendError(
                f"The model has {outputs} outputs, but the {split} split has class "
                f"{int(targets.max())}."
            )
    train = splits["train"][0]
    if not bool(train.isfinite().all()):
        raise DataError(NOT_FINITE)
    if len(train) and bool((train == train[0]).all()):
        raise DataError("The inputs are all the same: without variance nothing can be found.")


# Rows and classes that somebody brings


def as_numbers(given: object) -> Tensor:
    """Inputs `(n, …)` of any kind of number as floating-point numbers.

    Raises:
        DataError: if they are no rows, or not finite.
    """
    inputs = _as_tensor(given, "Inputs")
    if inputs.ndim < 2:
        raise DataError(f"Inputs need a row for each sample: their shape is {tuple(inputs.shape)}.")
    if len(inputs) < 3:
        raise DataError(f"{len(inputs)} samples are too few: give at least 3.")
    if inputs.is_complex():
        raise DataError("Inputs have to be real numbers, not complex ones.")
    numbers = inputs if inputs.is_floating_point() else inputs.double()
    if not bool(numbers.isfinite().all()):
        raise DataError(NOT_FINITE)
    return numbers


def _as_tensor(given: object, what: str) -> Tensor:
    """Numbers as a dense tensor on the CPU, from a tensor, whatever NumPy makes an array of, or
    a list of tensors."""
    if np.ma.isMaskedArray(given) and np.ma.getmaskarray(given).any():
        raise DataError(f"{what} have masked values: leave their samples out, or fill them.")
    try:
        if isinstance(given, (list, tuple)) and given and isinstance(given[0], Tensor):
            given = torch.stack([part.detach().cpu() for part in given])
        tensor = given if isinstance(given, Tensor) else _from_numpy(np.asarray(given))
        return plain(tensor, what, "Data").cpu()
    except BackendError as error:
        raise DataError(str(error).replace("Data: parameter", "Data:")) from None
    except (TypeError, ValueError, RuntimeError):
        kind = type(given).__name__
        raise DataError(f"{what} have to be a {kind} of numbers, all of one shape.") from None


def _from_numpy(array: np.ndarray) -> Tensor:
    """An array of numbers of any size, byte order and strides; lists are in double precision."""
    if array.dtype.kind not in "fiubc":
        raise TypeError
    if array.dtype.kind == "f" and array.dtype.itemsize > np.dtype(np.float64).itemsize:
        array = array.astype(np.float64)
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    return torch.from_numpy(native.reshape(array.shape).copy())


def read_rows(path: Path) -> Float[Tensor, "n d"]:
    """Inputs from a .npy file, one row for each sample.

    Raises:
        DataError: if it is missing or damaged, or holds anything but numbers with samples first.
    """
    try:
        array = read_array(path)
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror or error}).") from None
    if array is None:
        raise DataError(f"'{path}' cannot be read (it is no .npy file of numbers).")
    if array.ndim < 2 or array.dtype.kind not in "fiub":
        raise DataError(f"'{path}' should hold an array of numbers with a row for each sample.")
    return torch.from_numpy(array.astype(np.float64)).flatten(1)


def as_classes(given: object) -> Tensor:
    """Targets as whole numbers of 64 bits, if they are whole numbers.

    Raises:
        DataError: if they are no numbers.
    """
    targets = _as_tensor(given, "Targets")
    is_whole = not (targets.is_floating_point() or targets.is_complex())
    return targets.long() if is_whole else targets


def check_classes(targets: Tensor, count: int) -> None:
    """Raise a `DataError` unless there are so many classes, each a whole number from 0 on."""
    if targets.shape != (count,):
        raise DataError(f"There are {count} inputs, but targets of shape {tuple(targets.shape)}.")
    if targets.dtype != torch.long or int(targets.min()) < 0:
        raise DataError("Targets have to be classes: whole numbers from 0 on.")
