"""Training a backend's model into a directory, with a record of how: what `libgraph train` does."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from libgraph.backend.contract import Backend
from libgraph.backend.options import parse_options
from libgraph.errors import BackendError, UsageError
from libgraph.files.atomic import explained, write_json
from libgraph.progress import Progress, silent


def train_model(
    backend: type[Backend],
    options: Mapping[str, Any],
    directory: Path,
    *,
    force: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train a backend's model into a directory; what `libgraph train` does.

    Args:
        backend: the backend's class.
        options: its training options.
        directory: for `model.safetensors`, and `training.json` with options, versions and outcome.
        force: whether a model that is there may be replaced.
        progress: told after every step.

    Returns:
        What `training.json` holds.

    Raises:
        BackendError: if the backend has no training.
        UsageError: if an option is wrong, or the directory holds a model and `force` is not set.
        NumericalError: if the loss stops being finite.
    """
    if backend.Training is None:
        raise BackendError(f"The backend '{backend.name}' has no training.")
    parsed = parse_options(backend.Training, options, f"training '{backend.name}'")
    if not directory.name:
        raise UsageError(f"'{directory}' is no name for a directory: choose another directory.")
    model = directory / "model.safetensors"
    if model.exists() and not force:
        raise UsageError(f"'{model}' exists: use force=True to replace it, or another directory.")
    with explained(directory):
        directory.mkdir(parents=True, exist_ok=True)
    try:
        outcome = backend.train(parsed, directory, progress)
    finally:
        # A training that ended before its first checkpoint leaves nothing.
        with suppress(OSError):
            directory.rmdir()
    record = {
        "backend": backend.name,
        "options": parsed.model_dump(mode="json"),
        "libgraph": version("libgraph"),
        "torch": torch.__version__,
        **outcome,
    }
    write_json(directory / "training.json", record)
    return record
