"""A configuration held against the file of weights beside it, while a model is made of it.

A few bytes of JSON can say a million layers, or a vocabulary of billions: the libraries that make a
model of them would be at it for hours before they look for its parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules import module as registration

from libgraph.backend import BackendError
from libgraph_backends.shared.state_dicts import StateDict

ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")

PARAMETERS, MODULES = (4, 100), (50, 10_000)
"""Those of a model for each tensor in its file, and so many more in any."""

TIMES, SMALL = 10, 2**26
"""Numbers for each byte of a file, and so many more in any."""

BUFFERS = 2**31
"""Numbers of masks and tables, which are in no file."""

LEAST = 100
"""Bytes that a tensor takes in a file at least, with its name."""


class Held(NamedTuple):
    """What there is of a model.

    Attributes:
        where: it is, for the error message.
        tensors: how many.
        size: bytes of them.
    """

    where: str
    tensors: int
    size: int

    @classmethod
    def by_folder(cls, folder: Path) -> Held:
        """By all files of weights in a folder."""
        files = [path for path in folder.iterdir() if path.name.endswith(ENDINGS)]
        return cls(
            str(folder), sum(map(_tensors_in, files)), sum(path.stat().st_size for path in files)
        )

    @classmethod
    def by_state(cls, state: StateDict) -> Held:
        """By tensors that were read."""
        sizes = [t.numel() * t.element_size() for t in state.tensors.values()]
        return cls(state.where, len(sizes), sum(sizes))


def _tensors_in(path: Path) -> int:
    with suppress(SafetensorError, OSError), safe_open(path, "pt") as file:
        return len(list(file.keys()))
    return path.stat().st_size // LEAST


@contextmanager
def no_larger_than(held: Held) -> Iterator[None]:
    """Have models made in the block refused that have far more than there is of them.

    Raises:
        BackendError: as soon as one has.
    """
    parameters = modules = numbers = buffers = 0
    room = TIMES * held.size + SMALL
    most_parameters, most_modules = (
        each * held.tensors + few for each, few in (PARAMETERS, MODULES)
    )

    def of(module: nn.Module, name: str, part: nn.Module | Tensor | None) -> None:
        nonlocal parameters, modules, numbers, buffers
        if isinstance(part, nn.Parameter):
            parameters += 1
            numbers += part.numel()
        elif isinstance(part, torch.Tensor):
            buffers += part.numel()
        else:
            modules += 1
        many = parameters > most_parameters or modules > most_modules
        if many or numbers > room or buffers > room + BUFFERS:
            raise BackendError(
                f"The configuration of '{held.where}' is of a model that is far larger than its "
                f"weights, {held.tensors} tensors of {held.size} bytes: it is of another model, or "
                "damaged."
            )

    with ExitStack() as stack:
        for register in (
            registration.register_module_module_registration_hook,
            registration.register_module_parameter_registration_hook,
            registration.register_module_buffer_registration_hook,
        ):
            stack.callback(register(of).remove)
        yield
