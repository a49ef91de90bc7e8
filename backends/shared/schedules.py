"""The learning rate of a step of training, which depends on the step's number alone."""

from __future__ import annotations

import math

import torch


def rising(step: int, steps: int) -> float:
    """Share of the learning rate at a step of a rise over so many; above 1 after it."""
    return (step + 1) / steps


def falling(angle: float, lowest: float = 0.0) -> float:
    """Share of the learning rate in a fall along a cosine, from 1 at angle 0 to `lowest` at π."""
    return lowest + (1 - lowest) * 0.5 * (1 + math.cos(angle))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """From the next step on, for all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
