"""Whether a module is a function of each sample by itself, and a graph computes what it does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from libgraph.cutting.capture import outputs_of
from libgraph.cutting.graph import Graph
from libgraph.cutting.values import Program, run_once
from libgraph.errors import BackendError, NumericalError

log = logging.getLogger("libgraph")


LARGEST_ERROR = 1e-6
"""How far the network's outputs may be from the module's, relative to the largest of them."""


SAME = 1e-9
"""How far values that are written otherwise may be from those that were captured."""


COUPLED = (
    "The model gives other outputs for a sample alone than among others, as a batch norm without "
    "running statistics does: samples must not see each other."
)


def check_others(module: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Refuse further inputs that have samples of their own.

    Raises:
        BackendError: if one has as many as the first, and the module does not run without them.
    """
    first, *others = inputs
    if len(first) < 2 or not any(other.ndim and len(other) == len(first) for other in others):
        return
    try:
        outputs_of(module, (first[:1].repeat_interleave(len(first) + 1, 0), *others))
    except BackendError as error:
        raise BackendError(
            "The model takes samples in several inputs, but the first alone can have them: wrap it "
            "in a module whose forward takes one tensor and splits it."
        ) from error


def check_samples(module: nn.Module, inputs: Sequence[Tensor], outputs: Tensor) -> None:
    """Refuse a module of which outputs are not finite, chance, or of several samples at once.

    Raises:
        BackendError: if it is one of these.
        NumericalError: if outputs are not finite.
    """
    if not outputs.is_floating_point():
        raise BackendError("The model gives whole numbers: nothing can be derived from them.")
    if not bool(outputs.isfinite().all()):
        raise NumericalError("The model's output is NaN or infinite on the example inputs.")
    first, *others = inputs
    if not outputs.ndim or len(outputs) != len(first):
        raise BackendError(
            f"The model gives outputs {tuple(outputs.shape)} for {len(first)} samples: it needs "
            "one for each, samples first."
        )
    if difference(outputs_of(module, inputs), outputs) > LARGEST_ERROR:
        raise BackendError(
            "The model gives other outputs each time, in evaluation: there is no function to cut."
        )
    if len(first) > 1:
        few = 2 if len(first) > 2 else 1
        alone = outputs_of(module, (first[-few:], *others))
        if difference(alone, outputs[-few:]) > LARGEST_ERROR:
            raise BackendError(COUPLED)
    # Of one sample, or of samples that are alike, it cannot be told: others are put beside them.
    try:
        among = outputs_of(module, (torch.cat([_shuffled(first[:2]), first[-1:]]), *others))[-1:]
    except BackendError:
        return
    if difference(among, outputs[-1:]) > LARGEST_ERROR:
        raise BackendError(COUPLED)


def _shuffled(samples: Tensor) -> Tensor:
    """The numbers of samples at other places, floating-point ones changed as well."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(samples[0].numel(), generator=generator)
    mixed = samples.flatten(1)[:, order] if samples.ndim > 1 else samples.unsqueeze(1)
    if mixed.is_floating_point():
        noise = torch.randn(mixed.shape, generator=generator, dtype=mixed.dtype)
        mixed = mixed + 0.1 * (1 + mixed.abs()) * noise
    return mixed.reshape(samples.shape)


def as_captured(
    graph: Graph, rewrite: Callable[[Graph], Graph], given: Tensor, expected: Tensor
) -> Graph:
    """A graph written otherwise, if it computes the same; else the graph as it was captured."""
    rewritten = rewrite(graph)
    try:
        (outputs,) = run_once(Program([rewritten.input], [rewritten.output]), given)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        log.debug("Rewritten, the graph cannot be run (%s).", error)
        return graph
    return rewritten if difference(outputs, expected) <= SAME else graph


def difference(actual: Tensor, expected: Tensor) -> float:
    """How far outputs are from others, relative to the largest; infinite if shapes differ."""
    if actual.shape != expected.shape:
        return float("inf")
    expected = expected.reshape(len(expected), -1)
    actual = actual.reshape(expected.shape)
    scale = float(expected.abs().max()) or 1.0
    return float((actual - expected).abs().max()) / scale
