"""Weights that come in: state dicts of others, read without running any code in them.

What a file is, its first bytes say, whatever its name. A small file may not ask for much memory:
what it describes has to be in it.
"""

from __future__ import annotations

import mmap
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from libgraph.errors import BackendError
from libgraph.files.reading import reading, unreadable
from libgraph.files.state_dict import state_dict_of, unwrapped

SMALL = 2**20
"""Bytes that any file may come to, however small it is."""


DENSE = 2**30
"""Bytes that a sparse tensor may have when it is written out."""


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
            weights = _with_shared(load_file(path), path)
            weights = {name: weights[name] for name in sorted(weights, key=_by_number)}
        else:
            _check_content(path, size)
            weights = state_dict_of(_checkpoint(path), f"'{path}'")
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
    for name, tensor in weights.items():
        _check_bytes(tensor, name, path, size)
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
    if problem is None and tensor.is_floating_point() and tensor.element_size() == 1:
        try:
            tensor = tensor.float()
        except RuntimeError:
            problem = f"is in {tensor.dtype}, which cannot be read as numbers"
    if problem is not None:
        raise BackendError(f"{where}: parameter '{name}' {problem}.")
    return tensor.detach()


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
    """Raise a `BackendError` for what is known to be no checkpoint, or asks for too much memory."""
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
                elif sum(member.file_size for member in members) > 2 * size + SMALL:
                    problem = "is damaged: it would unpack to more than it can hold"
                else:
                    pickles = [member for member in members if member.filename.endswith(".pkl")]
                    if any(_ASKS_FOR_MEMORY in archive.read(member) for member in pickles):
                        problem = _REFUSED
        else:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if content.find(_ASKS_FOR_MEMORY) >= 0:
                    problem = _REFUSED
    if problem is not None:
        raise BackendError(f"'{path}' {problem}.")


_ASKS_FOR_MEMORY = b"\nbytearray\n"
"""What PyTorch lets a pickle call with any number, and no state dict needs."""


_REFUSED = f"holds more than tensors and was refused: {SAVE}"


def _check_bytes(tensor: Tensor, name: str, path: Path, size: int) -> None:
    """Raise a `BackendError` for a dense tensor of more numbers than its file has room for."""
    has_numbers = not (tensor.is_meta or tensor.is_nested) and tensor.layout == torch.strided
    if has_numbers and tensor.numel() * tensor.element_size() > max(size, SMALL):
        raise BackendError(
            f"'{path}': parameter '{name}' is said to have {tensor.numel()} numbers, more than "
            "the file can hold."
        )


def _by_number(name: str) -> list[tuple[str, int]]:
    return [(word, int(number or 0)) for word, number in re.findall(r"(\D*)(\d*)", name)]
