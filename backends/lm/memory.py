"""Parameters in memory-mapped files: telling them apart, letting go of them, remembering checks.

A file is hashed once, and its hash remembered by its place, size and time; models on the hub have
theirs in the cache's names. Pages of a file that were looked at count as the process's memory until
they are given back; they stay in the system's cache.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from libgraph.backend import writing

MADV_DONTNEED = 4
"""Of Linux: pages may be dropped, and are read again from their file."""


WORTH = 64 * 2**20
"""Bytes of mapped files that are given back at once: looking for them takes a while."""


HASH = 64
"""Digits of a SHA-256, which blobs in the cache of the hub are called by."""


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over parameters in memory."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(data.numpy().data)
    return digest.hexdigest()


def digest_of_files(files: Sequence[Path]) -> str:
    """SHA-256 over the contents of files; those that were hashed before are not read again."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {_digest_of_file(path)}".encode())
    return digest.hexdigest()


def digest_of_model(files: Sequence[Path], config: Any) -> Callable[[], str]:
    """What makes a SHA-256 over the contents of files, and the configuration as it is now."""
    described = json.dumps(config.to_dict(), sort_keys=True, default=str)

    def digest() -> str:
        return hashlib.sha256(f"{digest_of_files(files)} {described}".encode()).hexdigest()

    return digest


def _digest_of_file(path: Path) -> str:
    real = path.resolve()
    if real.parent.name == "blobs" and len(real.name) == HASH:
        return real.name
    state = real.stat()
    key = repr((str(real), state.st_size, state.st_mtime_ns, state.st_ino))
    known = remembered("file", key)
    if known is not None:
        return str(known)
    with real.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    remember("file", key, digest)
    return digest


def remembered(what: str, key: str) -> object | None:
    """What was kept in the user's cache under this key, or None."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(_place(what, key).read_text("utf-8"))
        return kept["value"] if kept["key"] == key else None
    return None


def remember(what: str, key: str, value: object) -> None:
    """Keep it; a cache that cannot be written only costs time."""
    with suppress(Exception), writing(_place(what, key)) as path:
        path.write_text(json.dumps({"key": key, "value": value}), encoding="utf-8")


def _place(what: str, key: str) -> Path:
    name = f"{what}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    return cache() / name


def cache() -> Path:
    """The folder of the user's cache, whether it is there or not."""
    # Of the extra, without which modules have to be imported to say that it is missing.
    import platformdirs

    return Path(platformdirs.user_cache_dir("libgraph"))


def letting_go(files: Sequence[Path]) -> Callable[[], None]:
    """A function that gives back the memory that pages of mapped files take, where that is known.

    A mapping in which something was written is left alone: what was written would be lost.
    """
    names = {str(path.resolve()) for path in files}
    left = 0

    def let_go() -> None:
        nonlocal left
        if not sys.platform.startswith("linux"):
            return
        with suppress(OSError, ValueError, AttributeError):
            mapped = _mapped_bytes()
            # What was left may be gone since, by somebody else's hand.
            left = min(left, mapped)
            if mapped - left < WORTH:
                return
            library = ctypes.CDLL(None, use_errno=True)
            for start, size in _clean_mappings(names):
                library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), MADV_DONTNEED)
            left = _mapped_bytes()

    return let_go


def _mapped_bytes() -> int:
    """How much of the process's memory is of files."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[2])
    return pages * mmap.PAGESIZE


def _clean_mappings(names: set[str]) -> list[tuple[int, int]]:
    """Where files are mapped into memory that nobody wrote into: places and sizes."""
    mappings: list[tuple[int, int]] = []
    place: tuple[int, int] | None = None
    for line in Path("/proc/self/smaps").read_text("utf-8", "replace").splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and not first.endswith(":"):
            path = rest.split(maxsplit=4)[4:]
            start, stop = (int(number, 16) for number in first.split("-"))
            place = (start, stop - start) if path and path[0] in names else None
        elif place is not None and first == "Anonymous:":
            if rest.split()[0] == "0":
                mappings.append(place)
            place = None
    return mappings


@contextmanager
def in_single_precision(model: nn.Module, let_go: Callable[[], None]) -> Iterator[None]:
    """Have every module compute on its parameters in single precision, each at its turn.

    A module's parameters are converted before it runs and are as they were after it; those that
    have enough precision are left as they are.

    Args:
        model: whose modules.
        let_go: called after each of them, so that pages of its parameters can be given back.
    """
    handles = []
    stored: dict[int, list[tuple[nn.Parameter, Tensor]]] = {}

    def convert(module: nn.Module, *_: Any) -> None:
        kept = stored.setdefault(id(module), [])
        for parameter in module.parameters(recurse=False):
            if parameter.is_floating_point() and parameter.element_size() < 4:
                kept.append((parameter, parameter.data))
                parameter.data = parameter.data.float()

    def restore(module: nn.Module, *_: Any) -> None:
        for parameter, data in reversed(stored.pop(id(module), [])):
            parameter.data = data
        let_go()

    try:
        for module in model.modules():
            if next(module.parameters(recurse=False), None) is not None:
                handles.append(module.register_forward_pre_hook(convert))
                handles.append(module.register_forward_hook(restore))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for kept in stored.values():
            for parameter, data in reversed(kept):
                parameter.data = data


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode; afterwards every part of it is as before."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
