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
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from libgraph.errors import NumericalError, UsageError
from libgraph.files.atomic import writing
from libgraph.files.reading import reading
from libgraph.files.run_directory import hash_of
from libgraph.files.tensors import digest_of_tensors, save_tensors, write_tensors
from libgraph.progress import Progress, silent

CHECKPOINT = "checkpoint.safetensors"

Record = dict[str, float]
"""What was measured at one step, by name."""

SAVED_EVERY = 60.0
"""Seconds of steps that are lost at most, where a process is killed between evaluations."""

WORTH = 1.0
"""Seconds of steps that are worth to be kept where they are interrupted."""

log = logging.getLogger("libgraph")


@dataclass(frozen=True)
class Course:
    """How far a training goes, what is kept of it and where, and what it is called.

    Args:
        steps: number of steps in all, those before an interruption included.
        directory: where the checkpoint is kept; one with other `settings`, or beyond `steps`, is
            ignored.
        settings: whatever determines the course of training, as JSON can say it.
        evaluate_every: steps between evaluations.
        keep_every: steps between copies of the parameters, from that before the first step on, kept
            as `steps/000500.safetensors` and so on; None for no copies.
        checkpoint: what the checkpoint is called.
        stage: what the progress is called.
        advice: what to do where the loss stops being finite.
    """

    steps: int
    directory: Path
    settings: Mapping[str, object]
    evaluate_every: int = 500
    keep_every: int | None = None
    checkpoint: str = CHECKPOINT
    stage: str = "training"
    advice: str = "lower the learning rate"

    @property
    def path(self) -> Path:
        """The checkpoint."""
        return self.directory / self.checkpoint

    @property
    def title(self) -> str:
        """The stage as a sentence begins with it."""
        return self.stage[0].upper() + self.stage[1:]


def fit(
    parameters: Mapping[str, Tensor],
    loss: Callable[[int], Tensor],
    course: Course,
    *,
    optimizer: torch.optim.Optimizer,
    evaluate: Callable[[], Record],
    progress: Progress = silent,
) -> list[Record]:
    """Take optimiser steps until `course.steps`, saving a checkpoint at every evaluation.

    Between evaluations one is saved where the last is a minute old, and on an interrupt.

    Args:
        parameters: leaves that `optimizer` holds in the same order; changed in place.
        loss: the loss at a step.
        course: how far, where to and under which name.
        optimizer: any optimiser whose state is tensors.
        evaluate: measures of progress, such as test accuracy.
        progress: told after every step, with the last evaluation.

    Returns:
        One record per evaluation, each with its `step`, the training `loss` and the `seconds`.

    Raises:
        NumericalError: if the loss stops being finite; the last checkpoint is kept.
    """
    history, start, before = _resume(course, parameters, optimizer)
    began = saved = time.monotonic()
    if start:
        log.info("%s goes on after step %d of '%s'.", course.title, start, course.path)
    elif course.path.is_file():
        log.info("'%s' is of another run, or damaged: %s begins anew.", course.path, course.stage)
    if course.keep_every and not start:
        _keep(course, 0, parameters)
    for step in range(start, course.steps):
        try:
            optimizer.zero_grad(set_to_none=True)
            value = loss(step)
            value.backward()
        except KeyboardInterrupt:
            # Nothing is changed yet. Within the optimiser's step some parameters may be.
            if time.monotonic() - saved >= WORTH and _finite(parameters):
                seconds = before + time.monotonic() - began
                _save(course, step, seconds, history, parameters, optimizer)
            raise
        optimizer.step()
        progress(course.stage, step + 1, course.steps, _last(history))
        if course.keep_every and (step + 1) % course.keep_every == 0:
            _keep(course, step + 1, parameters)
        if (step + 1) % course.evaluate_every and step + 1 < course.steps:
            if time.monotonic() - saved >= SAVED_EVERY and _finite(parameters):
                seconds = before + time.monotonic() - began
                _save(course, step + 1, seconds, history, parameters, optimizer)
                saved = time.monotonic()
            continue
        if not (_finite(parameters) and math.isfinite(float(value.detach()))):
            where = f"; the last good state is in '{course.path}'" if course.path.is_file() else ""
            raise NumericalError(
                f"{course.title} is not finite at step {step + 1}: {course.advice}{where}."
            )
        seconds = before + time.monotonic() - began
        with torch.no_grad():
            record = {"step": step + 1, "loss": float(value.detach()), "seconds": round(seconds, 1)}
            history.append(record | evaluate())
        _save(course, step + 1, seconds, history, parameters, optimizer)
        saved = time.monotonic()
    return history


def _finite(parameters: Mapping[str, Tensor]) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in parameters.values())


def _last(history: Sequence[Record]) -> str:
    """The last evaluation, to be read beside the progress."""
    if not history:
        return ""
    shown = {name: value for name, value in history[-1].items() if name not in ("step", "seconds")}
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in shown.items())


def _keep(course: Course, step: int, parameters: Mapping[str, Tensor]) -> None:
    write_tensors(course.directory / "steps" / f"{step:06d}.safetensors", parameters)


def _save(
    course: Course,
    step: int,
    seconds: float,
    history: list[Record],
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    tensors = {f"parameter/{name}": value.detach() for name, value in parameters.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value for name, value in state.items()}
    names = list(history[0]) if history else []
    rows = [[record[name] for name in names] for record in history]
    tensors["history"] = torch.tensor(rows, dtype=torch.float64)
    tensors["taken"] = torch.tensor([step, seconds], dtype=torch.float64)
    metadata = {"settings": hash_of(course.settings), "history": " ".join(names)}
    digest = digest_of_tensors(tensors, metadata["history"])
    with writing(course.path) as temporary:
        save_tensors(temporary, tensors, {**metadata, "sha256": digest})


def _resume(
    course: Course, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> tuple[list[Record], int, float]:
    """Take up the checkpoint, if there is one of this training that is not beyond its steps.

    Returns:
        What was evaluated, and how many steps were taken in how many seconds.
    """
    nothing: tuple[list[Record], int, float] = ([], 0, 0.0)
    try:
        with reading(course.path, UsageError, "The checkpoint "):
            if not course.path.is_file():
                return nothing
            with safe_open(course.path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        return nothing
    names = metadata.get("history", "").split()
    if metadata.get("settings") != hash_of(course.settings):
        return nothing
    if metadata.get("sha256") != digest_of_tensors(tensors, metadata.get("history", "")):
        return nothing
    if "taken" in tensors:
        taken, seconds = tensors["taken"].tolist()
    else:
        # Earlier versions saved at evaluations alone.
        last = dict(zip(names, tensors["history"][-1].tolist(), strict=True))
        taken, seconds = last["step"], last["seconds"]
    if taken > course.steps:
        return nothing
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
    rows = tensors["history"].tolist()
    history = [dict(zip(names, row, strict=True)) for row in rows]
    return history, int(taken), seconds
