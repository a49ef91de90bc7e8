"""Weights that come in: state dicts of others, read without running any code in them."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from libgraph.errors import BackendError
from libgraph.files.reading import reading, unreadable


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file or of a PyTorch checkpoint, on the CPU.

    A checkpoint keeps the order of a model's parameters; safetensors files keep none, and their
    tensors come in the order of their names, numbers in them read as numbers.

    Raises:
        BackendError: if the file is missing, damaged, holds anything but tensors by name, or is a
            pickle with code in it.
    """
    with reading(path, BackendError, "The weights "):
        is_file = path.is_file()
    if not is_file:
        what = ", which is a directory" if path.is_dir() else ""
        raise BackendError(f"There is no weights file '{path}'{what}.")
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
            return {name: weights[name] for name in sorted(weights, key=_by_number)}
        with warnings.catch_warnings(action="ignore"):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise BackendError(f"'{path}' is damaged or no safetensors file ({error}).") from None
    except pickle.UnpicklingError:
        # Torch raises the same error for code and, in files that are no archives, for garbage.
        doubt = "" if zipfile.is_zipfile(path) else "is damaged or "
        raise BackendError(
            f"'{path}' {doubt}holds more than tensors and was refused, as reading it could run "
            "code: save its state_dict() alone, best as safetensors."
        ) from None
    except OSError as error:
        raise unreadable(path, BackendError, error, "The weights ") from None
    except Exception as error:
        # The unpickler runs into whatever error a damaged file leads it to.
        kind = type(error).__name__
        raise BackendError(f"'{path}' is damaged or no PyTorch checkpoint ({kind}).") from None
    if not isinstance(loaded, Mapping):
        raise BackendError(f"'{path}' holds a {type(loaded).__name__}, not a state dict.")
    return {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}


def _by_number(name: str) -> list[tuple[str, int]]:
    return [(word, int(number or 0)) for word, number in re.findall(r"(\D*)(\d*)", name)]
