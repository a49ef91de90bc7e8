"""Tensors in safetensors files, written complete or not at all."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from libgraph.errors import UsageError
from libgraph.files.atomic import writing


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors; the same tensors make the same bytes.

    Args:
        path: of the file.
        tensors: by name, of any shapes `(…)`.

    Raises:
        UsageError: if the file cannot be written.
    """
    with writing(path) as temporary:
        save_tensors(temporary, tensors)


def read_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Read what `write_tensors` wrote, onto a device.

    Args:
        path: of the file.
        device: such as `cuda`.

    Raises:
        UsageError: if the file is missing or damaged.
    """
    try:
        return load_file(path, device=device)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"'{path}' cannot be read ({error}): delete it and run again.") from None


def digest_of_tensors(tensors: Mapping[str, Tensor], said: str = "") -> str:
    """SHA-256 of tensors with their names, types and shapes, and of what is said of them."""
    digest = hashlib.sha256(said.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Save as safetensors in place; inside `writing`, so that a full disk reads as one."""
    try:
        # Copies, because safetensors refuses tensors that share memory, as views do.
        copies = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        save_file(copies, path, metadata)
    except SafetensorError as error:
        code = errno.ENOSPC if "No space left" in str(error) else errno.EIO
        raise OSError(code, str(error)) from error
