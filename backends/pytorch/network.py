"""The module that somebody names, with its parameters, and the network it is cut into."""

from __future__ import annotations

import inspect
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from libgraph.backend import BackendError, LibgraphError, UsageError
from libgraph_backends.pytorch.imports import called, named
from libgraph_backends.shared.checkpoints import load_into


def module_of(model: str, weights: Path | None) -> nn.Module:
    """The module of `model=`, with the parameters of `weights=`.

    Raises:
        BackendError: if there is none, or it does not fit its parameters.
        UsageError: if `model` is of no known form.
    """
    if model.endswith(".pt2"):
        module = _exported(Path(model))
    else:
        if model.endswith((".pt", ".pth", ".bin", ".safetensors")):
            raise UsageError(
                f"model={model} holds parameters alone, not what is computed with them: give the "
                f"code, as model=package.module:build, and these as weights={model}."
            )
        found = named(model, "model")
        is_code = not isinstance(found, nn.Module) and callable(found)
        module = _made(model, found) if is_code else found
    if not isinstance(module, nn.Module):
        raise BackendError(
            f"'{model}' gives a {type(module).__name__}: it has to be a torch.nn.Module, or a "
            "function that returns one."
        )
    if weights is not None:
        load_into(module, weights)
    return module


def _made(place: str, build: object) -> object:
    try:
        needed = [
            name
            for name, parameter in inspect.signature(build).parameters.items()  # type: ignore[arg-type]
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        ]
    except (TypeError, ValueError):
        needed = []
    if needed:
        raise BackendError(
            f"'{place}' needs the argument '{needed[0]}': name a function without arguments that "
            "returns the model."
        )
    return called(place, build)


def _exported(path: Path) -> nn.Module:
    """The program in a .pt2 file, in which nothing is run that was pickled."""
    if not path.is_file():
        raise BackendError(f"There is no file '{path}', which model= names.")
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".json") and '"use_pickle": true' in json.dumps(
                    json.loads(archive.read(name))
                ):
                    raise BackendError(
                        f"'{path}' holds pickled tensors, which could run code: export the model "
                        "with parameters that are plain tensors."
                    )
        with _without_pickles():
            return torch.export.load(path).module(check_guards=False)
    except LibgraphError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise BackendError(
            f"'{path}' is no program of torch.export ({type(error).__name__}: {reason}): save one "
            "with torch.export.save(torch.export.export(model, (x,), dynamic_shapes=…), path)."
        ) from error


@contextmanager
def _without_pickles() -> Iterator[None]:
    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before
