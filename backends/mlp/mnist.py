"""Images and labels in the idx format of the MNIST files, plain or gzipped.

An idx file is two zero bytes, the type of its numbers (8: unsigned bytes), the number of its
dimensions, each size as a big-endian 32-bit number, and then the numbers. All of that is checked
against what the file holds before anything is made of it.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from libgraph.backend import DataError, Split, reading
from libgraph_backends.shared.downloads import fetch

UNSIGNED_BYTES = 8


CLASSES = 10


TIMES, SMALL = 10, 2**26
"""What a gzipped file may unpack to for each of its bytes, and any in all: MNIST's have five."""


AT_ONCE = 2**20
"""Bytes that are unpacked at a time."""


PREFIXES: dict[Split, str] = {"train": "train", "test": "t10k"}


URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
"""Where torchvision has MNIST from: the site of its authors sends the files no longer."""


CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
}


def read_idx(path: Path, dimensions: int) -> UInt8[Tensor, "*sizes"]:
    """The numbers in an idx file of unsigned bytes.

    Args:
        path: the file; whether it is gzipped its first bytes say.
        dimensions: how many it should have.

    Raises:
        DataError: if it is missing, damaged, of another type, or longer or shorter than it says.
    """
    header = 4 + 4 * dimensions
    try:
        size = path.stat().st_size
        with path.open("rb") as plain:
            zipped = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            head = file.read(header)
            _check_magic(path, head, dimensions)
            sizes = [int.from_bytes(head[i : i + 4], "big") for i in range(4, header, 4)]
            count = math.prod(sizes)
            if zipped and count > TIMES * size + SMALL:
                raise DataError(
                    f"'{path}' says that it unpacks to {count} bytes, more than {TIMES} times its "
                    "size: unpack it, if that is meant, and give the plain file."
                )
            if not zipped and count != size - header:
                raise _wrong_length(path, sizes, size - header)
            data, length = bytearray(count), 0
            # In parts: what unpacks makes a copy of what it is asked for.
            while part := file.readinto(memoryview(data)[length : length + AT_ONCE]):
                length += part
            # One more than there should be tells a file that is too long.
            length += len(file.read(1))
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"'{path}' cannot be read ({reason}).") from None
    if length != count:
        raise _wrong_length(path, sizes, length)
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).reshape(sizes))


def _wrong_length(path: Path, sizes: Sequence[int], length: int) -> DataError:
    count = math.prod(sizes)
    actual = f"{length} bytes" if length < count else "more"
    return DataError(
        f"'{path}' should hold {' × '.join(map(str, sizes))} = {count} bytes after its header, "
        f"not {actual}."
    )


def _check_magic(path: Path, head: bytes, dimensions: int) -> None:
    wanted = bytes([0, 0, UNSIGNED_BYTES, dimensions])
    if head[:4] != wanted or len(head) < 4 + 4 * dimensions:
        plural = "s" if dimensions > 1 else ""
        raise DataError(
            f"'{path}' is no idx file of unsigned bytes in {dimensions} dimension{plural}: it "
            f"begins with {head[:4].hex() or 'nothing'}, not {wanted.hex()}."
        )


def read_mnist(
    directory: Path, split: Split
) -> tuple[Float[Tensor, "n pixels"], Int[Tensor, " n"]]:
    """Images of a split as rows between 0 and 1, and their labels.

    Raises:
        DataError: if a file is missing or wrong, or images and labels do not fit together.
    """
    images = read_idx(_find(directory, split, "images", 3), 3)
    where = _find(directory, split, "labels", 1)
    labels = read_idx(where, 1).long()
    if len(images) != len(labels):
        raise DataError(f"'{where}' has {len(labels)} labels for {len(images)} images.")
    if not images.numel():
        raise DataError(f"There are no images beside '{where}'.")
    if int(labels.max()) >= CLASSES:
        first = int((labels >= CLASSES).nonzero()[0, 0])
        raise DataError(
            f"'{where}' has the label {int(labels[first])} at number {first}: they go from 0 to "
            f"{CLASSES - 1}."
        )
    return images.flatten(1).float() / 255, labels


def _find(directory: Path, split: Split, what: str, dimensions: int) -> Path:
    """The file of that name, however it is written: with a dash or a dot, plain or gzipped."""
    stem = f"{PREFIXES[split]}-{what}"
    names = (f"{stem}-idx{dimensions}-ubyte", f"{stem}.idx{dimensions}-ubyte")
    with reading(directory, DataError, "The images in "):
        for path in (directory / (name + ending) for name in names for ending in ("", ".gz")):
            if path.is_file():
                return path
    raise DataError(
        f"There is no '{stem}-idx{dimensions}-ubyte', plain or .gz, in '{directory}': "
        "-o data= takes the folder with the four files of MNIST."
    )


def download_mnist() -> Path:
    """The folder with MNIST in the user's cache, downloaded (11 MB) unless it is there.

    Raises:
        BackendError: if what downloads need is not installed.
        DataError: if it cannot be downloaded or kept.
    """
    files = {URL + name: checksum for name, checksum in CHECKSUMS.items()}
    return fetch("mnist", files, extra="mlp")
