"""The samples of MLPs: digits, MNIST, and rows that somebody brings.

Digits come with scikit-learn, MNIST from a folder or a download; a fifth of what has no test set of
its own is held out for scores, by a fixed seed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from libgraph.backend.contract import Split
from libgraph.errors import BackendError, DataError, UsageError, missing_extra
from libgraph_backends.mlp.mnist import download_mnist, read_mnist

TEST_SHARE = 0.2
"""Share of the samples held out for scores, where there is no test set."""


SPLIT_SEED = 0
"""Of the split of the digits, the same for training and analysis."""


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


Samples = tuple[Float[Tensor, "n d"], Tensor]
"""Inputs as rows and their targets."""


def digits() -> dict[Split, tuple[Float[Tensor, "n 64"], Int[Tensor, " n"]]]:
    """The 8 × 8 digits that come with scikit-learn as rows between 0 and 1, a fifth held out.

    Raises:
        BackendError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        need = f"The digits come with scikit-learn ({error})"
        raise BackendError(missing_extra(need, "mlp")) from error
    found = load_digits()
    inputs = torch.from_numpy(found.data).float() / 16
    targets = torch.from_numpy(found.target).long()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(SPLIT_SEED))
    test = round(TEST_SHARE * len(inputs))
    return {
        "train": (inputs[order[:-test]], targets[order[:-test]]),
        "test": (inputs[order[-test:]], targets[order[-test:]]),
    }


def check_source(task: str, data: Path | None, download: bool) -> None:
    """Raise a `UsageError` unless it is clear where MNIST is from, if that is the task."""
    if download and task != "mnist":
        raise UsageError("download=true fetches MNIST: use it with task=mnist, or leave it out.")
    if download and data is not None:
        raise UsageError("data= and download=true are two places to have MNIST from: give one.")
    if task == "mnist" and data is None and not download:
        raise UsageError(
            "task=mnist needs the folder with the files of MNIST: -o data=DIR, or "
            "-o download=true to fetch them."
        )


def mnist(data: Path | None) -> dict[Split, Samples]:
    """MNIST from a folder, or without one from the user's cache, which it is downloaded into.

    Raises:
        BackendError: if what downloads need is not installed.
        DataError: if a file is missing or wrong, or cannot be downloaded.
    """
    folder = download_mnist() if data is None else data
    return {split: read_mnist(folder, split) for split in ("train", "test")}


def as_rows(inputs: Tensor) -> Float[Tensor, "n d"]:
    """Inputs `(n, …)` of any kind of number as rows.

    Raises:
        DataError: if they are no rows.
    """
    if inputs.ndim < 2:
        raise DataError(f"Inputs need a row for each sample: their shape is {tuple(inputs.shape)}.")
    rows = inputs.detach().flatten(1)
    return rows if rows.is_floating_point() else rows.double()


def read_rows(path: Path) -> Float[Tensor, "n d"]:
    """Inputs from a .npy file, one row for each sample.

    Raises:
        DataError: if it is missing or damaged, or holds anything but numbers with samples first.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "it is no .npy file of numbers"
        raise DataError(f"'{path}' cannot be read ({reason}).") from None
    if not isinstance(array, np.ndarray) or array.ndim < 2 or array.dtype.kind not in "fiub":
        raise DataError(f"'{path}' should hold an array of numbers with a row for each sample.")
    return torch.from_numpy(array.astype(np.float64)).flatten(1)


def check_classes(targets: Tensor, count: int) -> None:
    """Raise a `DataError` unless there are so many classes, each a whole number from 0 on."""
    if targets.shape != (count,):
        raise DataError(f"There are {count} inputs, but targets of shape {tuple(targets.shape)}.")
    if targets.is_floating_point() or int(targets.min()) < 0:
        raise DataError("Targets have to be classes: whole numbers from 0 on.")
