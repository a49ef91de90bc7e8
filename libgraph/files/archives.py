"""Arrays by name in NumPy's archives (`.npz`), of files that others made.

Nothing in them is run: arrays of Python objects, which only pickles can hold, are refused. What
headers claim has to be in the file, which may be compressed, before memory is taken for it.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from libgraph.errors import BackendError
from libgraph.files.arrays import read_header
from libgraph.files.reading import reading
from libgraph.files.weights import LONGEST_NAME, MOST_TENSORS, SMALL, TIMES

ENDING = ".npy"

KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""How NumPy writes archives; what others take to unpack is not bounded by the file."""

_OF_MEMBERS = (EOFError, NotImplementedError, OverflowError, RuntimeError, ValueError)
"""What a damaged member, or one with a password, raises."""


def read_arrays(path: Path) -> dict[str, Tensor]:
    """All arrays of numbers in an archive, by name.

    Raises:
        BackendError: if the file is missing, damaged or no such archive, claims more than it holds,
            or an array is of anything but numbers.
    """
    with reading(path, BackendError, "The arrays "):
        size = path.stat().st_size
        try:
            with zipfile.ZipFile(path) as archive:
                return _arrays(archive, path, size)
        except BackendError:
            raise
        except (zipfile.BadZipFile, zlib.error, *_OF_MEMBERS):
            raise BackendError(f"'{path}' is damaged or no NumPy archive (.npz).") from None


def _arrays(archive: zipfile.ZipFile, path: Path, size: int) -> dict[str, Tensor]:
    members = archive.infolist()
    if len(members) > MOST_TENSORS:
        raise BackendError(f"'{path}' holds {len(members)} arrays, more than any model has.")
    if sum(member.file_size for member in members) > TIMES * size + SMALL:
        raise BackendError(f"'{path}' would unpack to more than {TIMES} times its size: refused.")
    if any(member.compress_type not in KINDS for member in members):
        raise BackendError(f"'{path}' is compressed in a way that NumPy does not write: refused.")
    found = {}
    for member in members:
        name = member.filename.removesuffix(ENDING)
        if len(name) > LONGEST_NAME:
            raise BackendError(f"'{path}' holds an array whose name has {len(name)} characters.")
        with archive.open(member) as file:
            found[name] = _array(file, member.file_size, f"'{path}': '{name}'")
    return found


def _array(file: IO[bytes], size: int, what: str) -> Tensor:
    """One array, whose header is held against how long its member is."""
    header = read_header(file)
    if header is None:
        raise BackendError(f"{what} is no array of NumPy's format.")
    dtype = header.dtype
    if dtype.kind not in "fiub":
        raise BackendError(f"{what} is of {dtype}, not of numbers: it was refused.")
    if header.claimed != size - header.begin:
        raise BackendError(f"{what} is damaged: it holds fewer or more numbers than it says.")
    file.seek(header.begin)
    flat = np.frombuffer(file.read(), dtype)
    array = flat.reshape(header.shape, order="F" if header.fortran else "C")
    try:
        return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C"))
    except TypeError:
        raise BackendError(f"{what} is of {dtype}, which PyTorch has no numbers for.") from None
