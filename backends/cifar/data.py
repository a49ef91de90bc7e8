"""Images and labels of CIFAR-10, in the official binary layout or in that for Python.

A binary batch is records of a label and 3 × 32 × 32 bytes. A batch for Python is a pickle of
Python 2, which could hold code: it is read by an unpickler that knows only how to describe an array
of bytes, and the array is made of that description here, once it is checked.
"""

from __future__ import annotations

import io
import logging
import pickle
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from libgraph.backend.contract import Split
from libgraph.errors import DataError, UsageError
from libgraph_backends.shared.downloads import fetch_archive

log = logging.getLogger("libgraph")


MEAN, DEVIATION = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
"""Of the red, green and blue of all training images between 0 and 1, about."""


def check_source(data: Path | None, download: bool) -> None:
    """Raise a `UsageError` unless it is clear where the images are from."""
    if data is not None and download:
        raise UsageError("data= and download=true are two places to have CIFAR-10 from: give one.")
    if data is None and not download:
        raise UsageError(
            "The backend cifar needs the folder with the batches of CIFAR-10: -o data=DIR, or "
            "-o download=true to fetch them (162 MB)."
        )


def read(data: Path | None) -> dict[Split, Images]:
    """All images, from a folder or downloaded; says which training batches are missing.

    Raises:
        BackendError: if what downloads need is not installed.
        DataError: if there is no batch of a split, or one is wrong, or cannot be downloaded.
    """
    folder = download_cifar10() if data is None else data
    found: dict[Split, Images] = {
        "train": read_cifar10(folder, "train"),
        "test": read_cifar10(folder, "test"),
    }
    missing = found["train"].missing
    if missing:
        log.warning(
            "'%s' has %d training images: there is no %s.",
            folder,
            len(found["train"].images),
            ", ".join(missing),
        )
    return found


CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


ANIMALS = frozenset({2, 3, 4, 5, 6, 7})


VEHICLES = frozenset({0, 1, 8, 9})


SHAPE = (3, 32, 32)


PIXELS = 3 * 32 * 32


RECORD = 1 + PIXELS


MOST = 2**31
"""Bytes that a batch may have: 2 GiB, 70 times as many as an official one."""


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


def read_cifar10(directory: Path, split: Literal["train", "test"]) -> Images:
    """The images of a split: of its one test batch, or of as many training batches as there are.

    Args:
        directory: the folder with the batches, or one that contains it under its official name.
        split: which.

    Raises:
        DataError: if there is no batch, or one is damaged or not as it should be.
    """
    for folder in FOLDERS:
        for ending, read in ((".bin", _binary), ("", _pickled)):
            paths = [directory / folder / (name + ending) for name in BATCHES[split]]
            found = tuple(path for path in paths if path.is_file())
            if not found:
                continue
            parts = [read(path) for path in found]
            for path, (_, classes) in zip(found, parts, strict=True):
                _check_labels(path, classes)
            images = np.concatenate([images for images, _ in parts]).reshape(-1, *SHAPE)
            labels = np.concatenate([labels for _, labels in parts])
            missing = tuple(path.name for path in paths if path not in found)
            return Images(torch.from_numpy(images), torch.from_numpy(labels), found, missing)
    names = BATCHES[split][0] + (f" to {BATCHES[split][-1]}" if len(BATCHES[split]) > 1 else "")
    raise DataError(
        f"There is no {split} batch of CIFAR-10 in '{directory}': -o data= takes the folder with "
        f"{names}, with the ending .bin or with none."
    )


def download_cifar10() -> Path:
    """The folder with CIFAR-10 in the user's cache, downloaded (162 MB) unless it is there.

    Raises:
        BackendError: if what downloads need is not installed.
        DataError: if it cannot be downloaded or kept.
    """
    return fetch_archive("cifar10", URL, CHECKSUM, "cifar-10-batches-bin", extra="cifar")


def _check_labels(path: Path, labels: np.ndarray) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= len(CLASSES)))
    if len(wrong):
        raise DataError(
            f"'{path}' has the label {labels[wrong[0]]} at number {wrong[0]}: they go from 0 to "
            f"{len(CLASSES) - 1}."
        )


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MOST + 1)
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror or error}).") from None
    if len(content) > MOST:
        raise DataError(f"'{path}' is no batch of CIFAR-10: it has more than {MOST} bytes.")
    return content


def _binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = _content(path)
    if not content or len(content) % RECORD:
        raise DataError(
            f"'{path}' has {len(content)} bytes, but a batch has {RECORD} for each image, the "
            f"official ones {10_000 * RECORD}: download it again."
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, RECORD)
    return records[:, 1:], records[:, 0].astype(np.int64)


class _Array:
    """What a pickle says of an array: version, shape, type, order and bytes."""

    description: Any = None

    def __setstate__(self, description: Any) -> None:
        self.description = description


class _Type:
    """What a pickle says of the type of numbers; of bytes the rest says nothing."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.name = name.decode("latin-1") if isinstance(name, bytes) else name

    def __setstate__(self, _: Any) -> None:
        pass


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    # So Python 3 writes bytes into the old format. No other encoding: some make long of short.
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("bytes that are not written as such")
    return text.encode("latin-1")


KNOWN: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
}
"""All that a pickle may name; nothing of that name is imported or called, even of NumPy."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, path: Path, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise DataError(
                f"'{self._path}' names {f'{module}.{name}'!r}, which no batch of CIFAR-10 needs "
                "and which could run code, and was refused: download it again."
            )
        return KNOWN[module, name]


def _pickled(path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = _content(path)
    try:
        batch = _Unpickler(path, content).load()
    except DataError:
        raise
    except Exception as error:
        # The unpickler runs into whatever error a damaged file leads it to.
        kind = type(error).__name__
        raise DataError(f"'{path}' is damaged or no pickle ({kind}): download it again.") from None
    for key in (b"data", b"labels"):
        if not isinstance(batch, dict) or key not in batch:
            raise DataError(f"'{path}' is no batch of CIFAR-10: it has no {key!r} in it.")
    images, labels = _pixels(path, batch[b"data"]), batch[b"labels"]
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"'{path}' should hold its labels as a list of whole numbers.")
    if len(labels) != len(images):
        raise DataError(f"'{path}' has {len(labels)} labels for {len(images)} images.")
    # No label that is wrong may be too large for the array: clipped, it still is wrong.
    return images, np.array([min(max(label, -1), 2**62) for label in labels], dtype=np.int64)


def _pixels(path: Path, array: Any) -> np.ndarray:
    """The array `(n, 3072)` that was described, if it is one of bytes and all there."""
    match array:
        case _Array(description=(_, (int(count), int(size)), _Type(name="u1"), order, bytes(data))):
            if size == PIXELS and count > 0 and len(data) == count * size:
                flat = np.frombuffer(data, dtype=np.uint8)
                return flat.reshape((count, size), order="F" if order else "C")
    raise DataError(
        f"'{path}' should hold its images as an array of unsigned bytes with {PIXELS} for each, "
        "all of them."
    )
