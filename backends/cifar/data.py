"""Images and classes of CIFAR-10, from a folder with its batches or downloaded."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from libgraph.backend import DataError, reading
from libgraph_backends.cifar.batches import SHAPE, read_binary, read_pickled
from libgraph_backends.shared.downloads import fetch_archive

log = logging.getLogger("libgraph")


CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


MEAN, DEVIATION = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
"""Of the red, green and blue of all training images between 0 and 1, about."""


URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"


CHECKSUM = "md5:c32a1d4ab5d03f1284b67883e8d87530"


BATCHES: dict[Literal["train", "test"], tuple[str, ...]] = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}


FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")


class Images(NamedTuple):
    """What was read of a split.

    Attributes:
        images: `(n, 3, 32, 32)`: red, green and blue, rows from top to bottom.
        labels: indices `(n,)` into `CLASSES`.
        files: that were read, in order.
        missing: names of the split's batches that are not there.
    """

    images: UInt8[Tensor, "n 3 32 32"]
    labels: Int[Tensor, " n"]
    files: tuple[Path, ...]
    missing: tuple[str, ...]

    def first(self, count: int) -> Images:
        """The first images alone."""
        return self._replace(images=self.images[:count], labels=self.labels[:count])


def read(data: Path | None) -> dict[Literal["train", "test"], Images]:
    """All images, from a folder or downloaded; says which training batches are missing.

    Raises:
        BackendError: if what downloads need is not installed.
        DataError: if there is no batch of a split, or one is wrong, or cannot be downloaded.
    """
    folder = download_cifar10() if data is None else data
    splits = {split: read_cifar10(folder, split) for split in BATCHES}
    missing = splits["train"].missing
    if missing:
        log.warning(
            "'%s' has %d training images: there is no %s.",
            folder,
            len(splits["train"].images),
            ", ".join(missing),
        )
    return splits


def read_cifar10(directory: Path, split: Literal["train", "test"]) -> Images:
    """The images of a split: of its one test batch, or of as many training batches as there are.

    Args:
        directory: the folder with the batches, or one that contains it under its official name.
        split: which.

    Raises:
        DataError: if there is no batch, or one is damaged or not as it should be.
    """
    names = BATCHES[split]
    for folder in FOLDERS:
        for ending, read_batch in ((".bin", read_binary), ("", read_pickled)):
            paths = [directory / folder / (name + ending) for name in names]
            with reading(directory, DataError, "The images in "):
                present = tuple(path for path in paths if path.is_file())
            if not present:
                continue
            batches = [read_batch(path) for path in present]
            for path, (_, classes) in zip(present, batches, strict=True):
                _check_classes(path, classes)
            images = np.concatenate([images for images, _ in batches]).reshape(-1, *SHAPE)
            classes = np.concatenate([classes for _, classes in batches])
            missing = tuple(path.name for path in paths if path not in present)
            return Images(torch.from_numpy(images), torch.from_numpy(classes), present, missing)
    all_names = names[0] + (f" to {names[-1]}" if len(names) > 1 else "")
    raise DataError(
        f"There is no {split} batch of CIFAR-10 in '{directory}': -o data= takes the folder with "
        f"{all_names}, with the ending .bin or with none."
    )


def download_cifar10() -> Path:
    """The folder with CIFAR-10 in the user's cache, downloaded (162 MB) unless it is there.

    Raises:
        BackendError: if what downloads need is not installed.
        DataError: if it cannot be downloaded or kept.
    """
    return fetch_archive("cifar10", URL, CHECKSUM, "cifar-10-batches-bin", extra="cifar")


def _check_classes(path: Path, classes: np.ndarray) -> None:
    wrong = np.flatnonzero((classes < 0) | (classes >= len(CLASSES)))
    if len(wrong):
        raise DataError(
            f"'{path}' has the label {classes[wrong[0]]} at number {wrong[0]}: they go from 0 to "
            f"{len(CLASSES) - 1}."
        )
