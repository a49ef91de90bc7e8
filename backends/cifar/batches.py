"""The two layouts of a batch of CIFAR-10: the official binary one, and that for Python.

A binary batch is records of a label and 3 × 32 × 32 bytes. A batch for Python is a pickle of
Python 2, which could hold code: it is read by an unpickler that knows only how to describe an array
of bytes, and the array is made of that description here, once it is checked.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np

from libgraph.backend import DataError, look_through

SHAPE = (3, 32, 32)


PIXELS = 3 * 32 * 32


RECORD = 1 + PIXELS


MOST = 2**31
"""Bytes that a batch may have: 2 GiB, 70 times as many as an official one."""


RawBatch = tuple[np.ndarray, np.ndarray]
"""Bytes `(n, 3072)` and classes `(n,)`."""


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            # No more room is made than the file has bytes.
            content = file.read(min(path.stat().st_size, MOST) + 1)
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror or error}).") from None
    if len(content) > MOST:
        raise DataError(f"'{path}' is no batch of CIFAR-10: it has more than {MOST} bytes.")
    return content


def read_binary(path: Path) -> RawBatch:
    """Rows of bytes and classes of a binary batch.

    Raises:
        DataError: if the file cannot be read, or is not whole records.
    """
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

    description: object = None

    def __setstate__(self, description: object) -> None:
        self.description = description


class _Type:
    """What a pickle says of the type of numbers; of bytes the rest says nothing."""

    def __init__(self, name: object = None, *_: object) -> None:
        # Of two letters, as all types of bytes have: a long one could be decoded over and over.
        self.name = str(name, "latin-1") if isinstance(name, bytes) and len(name) < 8 else name

    def __setstate__(self, _: object) -> None:
        pass


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    # So Python 3 writes bytes into the old format. No other encoding: some make long of short.
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("bytes that are not written as such")
    return text.encode("latin-1")


ALLOWED: dict[tuple[str, str], Callable[..., object]] = {
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
        self._left = len(content)

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module, name) not in ALLOWED:
            raise DataError(
                f"'{self._path}' names {f'{module}.{name}'!r}, which no batch of CIFAR-10 needs "
                "and which could run code, and was refused: download it again."
            )
        return self._encode if name == "encode" else ALLOWED[module, name]

    def _encode(self, text: str, encoding: str) -> bytes:
        # All bytes are in the file once: more than it has would be copies of the same text.
        self._left -= len(text) if isinstance(text, str) else 0
        if self._left < 0:
            raise pickle.UnpicklingError("more bytes than the file holds")
        return _encode(text, encoding)


def read_pickled(path: Path) -> RawBatch:
    """Rows of bytes and classes of a batch for Python.

    Raises:
        DataError: if the file cannot be read, is damaged, could run code, or is no such batch.
    """
    content = _content(path)
    try:
        look_through(io.BytesIO(content), len(content))
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


def _pixels(path: Path, array: object) -> np.ndarray:
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
