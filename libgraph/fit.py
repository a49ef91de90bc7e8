"""Training by gradient descent that can be stopped and taken up again.

`fit` minimises a loss over named parameters. The loss is told the number of the step and draws
whatever it draws from that, so that a run resumed from its checkpoint ends where an uninterrupted
one does.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from libgraph.errors import NumericalError
from libgraph.files.atomic import writing
from libgraph.files.run_directory import hash_of
from libgraph.files.tensors import save_tensors, write_tensors
from libgraph.progress import Progress, silent

log = logging.getLogger("libgraph")


CHECKPOINT = "checkpoint.safetensors"


Record = dict[str, float]


def fit(
    parameters: Mapping[str, Tensor],
    loss: Callable[[int], Tensor],
    *,
    optimizer: torch.optim.Optimizer,
    steps: int,
    directory: Path,
    settings: Mapping[str, Any],
    evaluate: Callable[[], Record],
    evaluate_every: int = 500,
    keep_every: int | None = None,
    checkpoint: str = CHECKPOINT,
    stage: str = "training",
    advice: str = "lower the learning rate",
    progress: Progress = silent,
) -> list[Record]:
    """Take optimiser steps until `steps`, saving a checkpoint at every evaluation.

    Args:
        parameters: leaves that `optimizer` holds in the same order; changed in place.
        loss: the loss at a step.
        optimizer: any optimiser whose state is tensors.
        steps: number of steps in all, those before an interruption included.
        directory: where the checkpoint is kept; one with other `settings`, or beyond `steps`, is
            ignored.
        settings: whatever determines the course of training.
        evaluate: measures of progress, such as test accuracy.
        evaluate_every: steps between evaluations.
        keep_every: steps between copies of the parameters, from that before the first step on, kept
            as `steps/000500.safetensors` and so on; None for no copies.
        checkpoint: what the checkpoint is called.
        stage: what the progress is called.
        advice: what to do where the loss stops being finite.
        progress: told after every step, with the last evaluation.

    Returns:
        One record per evaluation, each with its `step`, the training `loss` and the `seconds`.

    Raises:
        NumericalError: if the loss stops being finite; the last checkpoint is kept.
    """
    path = directory / checkpoint
    key = hash_of(settings)
    history = _resume(path, key, steps, parameters, optimizer)
    start, began = int(history[-1]["step"]) if history else 0, time.monotonic()
    if start:
        log.info("%s%s goes on after step %d of '%s'.", stage[0].upper(), stage[1:], start, path)
    elif path.is_file():
        log.info("'%s' is of another run, or damaged: %s begins anew.", path, stage)
    before = history[-1]["seconds"] if history else 0.0
    if keep_every and not start:
        _keep(directory, 0, parameters)
    for step in range(start, steps):
        optimizer.zero_grad(set_to_none=True)
        value = loss(step)
        value.backward()
        optimizer.step()
        progress(stage, step + 1, steps, _last(history))
        if keep_every and (step + 1) % keep_every == 0:
            _keep(directory, step + 1, parameters)
        if (step + 1) % evaluate_every and step + 1 < steps:
            continue
        finite = all(bool(parameter.isfinite().all()) for parameter in parameters.values())
        if not (finite and math.isfinite(float(value.detach()))):
            kept = f"; the last good state is in '{path}'" if path.is_file() else ""
            raise NumericalError(
                f"{stage[0].upper()}{stage[1:]} is not finite at step {step + 1}: {advice}{kept}."
            )
        seconds = before + time.monotonic() - began
        with torch.no_grad():
            record = {"step": step + 1, "loss": float(value.detach()), "seconds": round(seconds, 1)}
            history.append(record | evaluate())
        _save(path, key, history, parameters, optimizer)
    return history


def _last(history: Sequence[Record]) -> str:
    """The last evaluation, to be read beside the progress."""
    if not history:
        return ""
    shown = {name: value for name, value in history[-1].items() if name not in ("step", "seconds")}
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in shown.items())


def _keep(directory: Path, step: int, parameters: Mapping[str, Tensor]) -> None:
    write_tensors(directory / "steps" / f"{step:06d}.safetensors", parameters)


def _save(
    path: Path,
    key: str,
    history: list[Record],
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    tensors = {f"parameter/{name}": value.detach() for name, value in parameters.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value for name, value in state.items()}
    names = list(history[0])
    tensors["history"] = torch.tensor([[r[n] for n in names] for r in history], dtype=torch.float64)
    with writing(path) as temporary:
        save_tensors(temporary, tensors, {"settings": key, "history": " ".join(names)})


def _resume(
    path: Path,
    key: str,
    steps: int,
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> list[Record]:
    """Take up the checkpoint, if there is one of this training that is not beyond `steps`."""
    if not path.is_file():
        return []
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        return []
    names = metadata.get("history", "").split()
    if metadata.get("settings") != key or tensors["history"][-1, names.index("step")] > steps:
        return []
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "parameter":
            with torch.no_grad():
                parameters[rest].copy_(value)
        elif kind == "optimizer":
            index, _, entry = rest.partition("/")
            state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return [dict(zip(names, row, strict=True)) for row in tensors["history"].tolist()]
