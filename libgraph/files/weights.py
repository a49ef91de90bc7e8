"""Weights that come in: state dicts of others, read without running any code in them.

What a file is, its first bytes say, whatever its name. A small file may not ask for much memory:
what it describes has to be in it.
"""

from __future__ import annotations

import io
import mmap
import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from libgraph.errors import BackendError
from libgraph.files.pickles import Asks, look_through
from libgraph.files.reading import reading, unreadable
from libgraph.files.state_dict import state_dict_of, unwrapped

SMALL = 2**26
"""Bytes that any file may come to, however small it is."""


DENSE = 2**30
"""Bytes that a sparse tensor may have when it is written out."""


MOST_TENSORS = 100_000
"""In a file; the largest of models have so many in all of their files."""


LONGEST_NAME = 1000
"""Characters in the name of a tensor."""


TIMES = 10
"""What tensors may take for each byte of their file, where they are sparse or expanded."""


SAVE = "save its state_dict() alone, best as safetensors"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file or of a PyTorch checkpoint, dense and on the CPU.

    A checkpoint keeps the order of a model's parameters; safetensors files keep none, and their
    tensors come in the order of their names, numbers in them read as numbers. Of a checkpoint that
    holds more than a model, such as an optimizer's state, the one state dict in it is read; what
    DataParallel and torch.compile put before names is left out.

    Raises:
        BackendError: if the file is missing, damaged, holds anything but tensors by name, or is a
            pickle with code in it; if it holds several state dicts, or a tensor that is no array of
            numbers.
    """
    with reading(path, BackendError, "The weights "):
        is_file = path.is_file()
    if not is_file:
        what = ", which is a directory" if path.is_dir() else ""
        raise BackendError(f"There is no weights file '{path}'{what}.")
    try:
        size = path.stat().st_size
        if is_safetensors(path):
            _check_names(path)
            weights = _with_shared(load_file(path), path)
            weights = {name: weights[name] for name in sorted(weights, key=_by_number)}
        else:
            _check_content(path, size)
            weights = state_dict_of(_checkpoint(path), f"'{path}'")
            _check_count(path, weights)
    except BackendError:
        raise
    except SafetensorError as error:
        raise BackendError(f"'{path}' is damaged or no safetensors file ({error}).") from None
    except pickle.UnpicklingError:
        # Torch raises the same error for code and, in files that are no archives, for garbage.
        doubt = "" if zipfile.is_zipfile(path) else "is damaged or "
        raise BackendError(
            f"'{path}' {doubt}holds more than tensors and was refused, as reading it could run "
            f"code: {SAVE}."
        ) from None
    except OSError as error:
        raise unreadable(path, BackendError, error, "The weights ") from None
    except Exception as error:
        # The unpickler runs into whatever error a damaged file leads it to.
        kind = type(error).__name__
        raise BackendError(f"'{path}' is damaged or no PyTorch checkpoint ({kind}).") from None
    _check_bytes(weights, path, size)
    return {name: plain(tensor, name, f"'{path}'") for name, tensor in unwrapped(weights).items()}


def is_safetensors(path: Path) -> bool:
    """Whether a file is in the format safetensors, by its content; it keeps no order of tensors."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= 10**8:
        return True
    return path.suffix.lower() == ".safetensors" and not head.startswith((b"PK", b"\x80"))


def plain(tensor: Tensor, name: str, where: str) -> Tensor:
    """A tensor as an array of numbers of 16 bits or more; of 8 bits they become float32, exactly.

    Args:
        tensor: of any shape `(…)` and kind.
        name: of it, for the error message.
        where: what file it is in, likewise.

    Raises:
        BackendError: naming the one that is no such array: without numbers, quantized, nested, or
            sparse and too large to write out.
    """
    problem = None
    if tensor.is_meta:
        problem = "is on the meta device: it has a shape, but no numbers"
    elif tensor.is_nested:
        problem = "is a nested tensor, not one array of numbers"
    elif tensor.is_quantized:
        problem = "is quantized: save the model in floating point"
    elif tensor.layout != torch.strided:
        if tensor.numel() * tensor.element_size() > DENSE:
            problem = "is sparse, and too large to be written out"
        else:
            tensor = tensor.to_dense()
    if problem is None and _is_short(tensor):
        try:
            tensor = tensor.float()
        except RuntimeError:
            problem = f"is in {tensor.dtype}, which cannot be read as numbers"
    if problem is not None:
        raise BackendError(f"{where}: parameter '{name}' {problem}.")
    return tensor.detach()


def _is_short(tensor: Tensor) -> bool:
    """Whether it has floating-point numbers of 8 bits, with which nothing can be computed."""
    return tensor.is_floating_point() and tensor.element_size() == 1


def _check_names(path: Path) -> None:
    """Look at the header of a safetensors file, before any tensor is made."""
    with safe_open(path, "pt") as file:
        _check_count(path, list(file.keys()))


def _check_count(path: Path, names: Collection[str]) -> None:
    if len(names) > MOST_TENSORS:
        raise BackendError(f"'{path}' holds {len(names)} tensors, more than any model has.")
    longest = max(map(len, names), default=0)
    if longest > LONGEST_NAME:
        raise BackendError(f"'{path}' holds a tensor whose name has {longest} characters.")


def _with_shared(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors with those that are in the file once and go by several names.

    `safetensors.torch.save_model` keeps the other names in the metadata, by the name that it keeps
    the tensor under.
    """
    with safe_open(path, "pt") as file:
        names: Mapping[str, str] = file.metadata() or {}
    shared = {
        name: weights[kept]
        for name, kept in names.items()
        if name not in weights and kept in weights
    }
    return weights | shared


def _checkpoint(path: Path) -> object:
    # Open, because of a path PyTorch would look at the ending.
    with warnings.catch_warnings(action="ignore"), path.open("rb") as file:
        loaded: object = torch.load(file, map_location="cpu", weights_only=True)
        return loaded


def _check_content(path: Path, size: int) -> None:
    """Raise an error for what is known to be no checkpoint, or asks for more than it holds.

    Raises:
        BackendError: naming what it is.
        UnpicklingError: if its pickle is damaged, or asks for too much.
    """
    with path.open("rb") as file:
        head = file.read(64)
        problem = None
        if not head:
            problem = "is empty"
        elif head.startswith(b"version https://git-lfs"):
            problem = "is a pointer of Git LFS, not the file itself: fetch it with 'git lfs pull'"
        elif head.lstrip().lower().startswith((b"<!doctype", b"<html")):
            problem = "is a web page, not the file itself: download that"
        elif zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if any(member.filename.endswith("/constants.pkl") for member in members):
                    problem = f"is a TorchScript program: load it with torch.jit.load, and {SAVE}"
                elif sum(member.file_size for member in members) > 2 * size + _ROUNDING:
                    problem = "is damaged: it would unpack to more than it can hold"
                else:
                    problem = _of_archive(archive, size)
        else:
            problem = _of_stream(file, size)
    if problem is not None:
        raise BackendError(f"'{path}' {problem}.")


def _of_archive(archive: zipfile.ZipFile, size: int) -> str | None:
    """What is wrong with the pickle in an archive, and the records that it names."""
    room = {member.filename: member.file_size for member in archive.infolist()}
    for name in room:
        if not name.endswith(".pkl"):
            continue
        with archive.open(name) as opened:
            try:
                storages = look_through(io.BytesIO(opened.read()), size)
            except Asks:
                return _REFUSED
            except pickle.UnpicklingError as error:
                return f"is damaged, or asks for more than it holds ({error})"
        folder = name.rpartition("/")[0]
        for storage in storages:
            if storage.size > room.get(f"{folder}/data/{storage.key}", 0):
                return "is damaged: it holds fewer numbers than it says"
    return None


def _of_stream(file: IO[bytes], size: int) -> str | None:
    """What is wrong with a file of pickles, one behind the other, as PyTorch once saved them."""
    file.seek(0)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        claimed = 0
        # Two numbers for kind and version, the system's sizes, the data, names of storages.
        for _ in range(5):
            try:
                storages = look_through(cast("IO[bytes]", content), size)
            except Asks:
                return _REFUSED
            claimed += sum(storage.size for storage in storages)
    return "is damaged: it holds fewer numbers than it says" if claimed > size else None


_ROUNDING = 2**20
"""What names, notes and gaps of an archive take."""


_REFUSED = f"holds more than tensors and was refused: {SAVE}"


def _check_bytes(weights: Mapping[str, Tensor], path: Path, size: int) -> None:
    """Raise a `BackendError` for tensors that come to much more than their file.

    Those that are in it once and go by many names count as often: whoever reads them copies them.
    """
    room = TIMES * size + SMALL
    for name, tensor in weights.items():
        if not (tensor.is_meta or tensor.is_nested):
            room -= tensor.numel() * (4 if _is_short(tensor) else tensor.element_size())
        if room < 0:
            raise BackendError(
                f"'{path}': parameter '{name}' and those before it come to more than {TIMES} times "
                "the file when they are written out, being sparse or the same numbers many times: "
                f"{SAVE}, with dense tensors and copies."
            )


def _by_number(name: str) -> list[tuple[str, int, str]]:
    # By length, then by digits: Python refuses to read very long numbers.
    return [
        (word, len(number.lstrip("0")), number.lstrip("0"))
        for word, number in re.findall(r"(\D*)(\d*)", name)
    ]
