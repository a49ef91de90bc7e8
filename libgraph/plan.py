"""What an analysis would cost, from a look at a few samples: for `--dry-run`.

Nothing is written. Times are measured on a small first batch in the neuron basis and scaled to all
samples, so they are a guide and no promise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from typing import Any

import torch

from libgraph.accumulate import Data
from libgraph.backend import Backend, parse_options
from libgraph.interactions import draw_signs, measured
from libgraph.memory import batch_size, memory_budget
from libgraph.quadrature import Quadrature
from libgraph.sections import autodiff
from libgraph.settings import AnalysisOptions

PROBE = 512
"""Samples that are measured, or positions where samples have several."""

BISECTION_PASSES = 3
"""Cost of a bisection, in passes that keep half of all edges: a guess, later ones are cheaper."""


@dataclass(frozen=True)
class LayerPlan:
    """One node layer: its name, coordinates and positions."""

    name: str
    size: int
    positions: int


@dataclass(frozen=True)
class Plan:
    """What an analysis would do.

    Args:
        layers: node layers in order.
        samples: number of samples by split.
        seconds: estimated time by stage.
        memory: estimated peak in bytes, the model included.
    """

    layers: tuple[LayerPlan, ...]
    samples: dict[str, int]
    seconds: dict[str, float]
    memory: int


def plan(backend: Backend, **options: Any) -> Plan:
    """Layers, shapes, estimated time and memory of `analyze(backend, **options)`."""
    options = {"tolerances": backend.tolerances, **options}
    parsed = parse_options(AnalysisOptions, options, "the analysis")
    dtype, score_dtype = getattr(torch, parsed.dtype), getattr(torch, parsed.score_dtype)
    network = backend.network().to(device=parsed.device, dtype=dtype)
    samples = {
        "train": min(backend.samples("train"), parsed.limit or backend.samples("train")),
        "test": min(backend.samples("test"), parsed.limit or backend.samples("test")),
    }
    (single,) = islice(Data(backend, "train", 1, None, parsed.device, dtype), 1)
    with torch.no_grad():
        positions = max(x.shape[1] for x in network.activations(single.inputs))
    few = min(max(1, PROBE // positions), samples["train"])
    (batch,) = islice(Data(backend, "train", few, None, parsed.device, dtype), 1)
    quadrature = Quadrature.parse(parsed.integration)
    seconds = dict.fromkeys(("statistics", "bases", "interactions", "ablation"), 0.0)
    train = samples["train"] / len(batch.inputs)
    test = samples["test"] / len(batch.inputs) * (0.5 if score_dtype != dtype else 1.0)
    with torch.no_grad():
        activations = list(network.activations(batch.inputs))
        forward = _seconds(partial(network, batch.inputs))
        seconds["statistics"] = seconds["bases"] = forward * train
        for (x, y), section in zip(pairwise(activations), network.sections, strict=True):
            eye = torch.eye(section.d_in, dtype=dtype, device=parsed.device)
            gram = _seconds(partial(section.jacobian_gram, x))
            signs = draw_signs(parsed.signs, y, torch.Generator())
            edge = _seconds(partial(measured, section, x, x, eye, quadrature, signs))
            keep = torch.rand(section.d_in, section.d_out, device=parsed.device) < 0.5
            masked = _seconds(partial(section.masked, x, keep))
            seconds["bases"] += gram * train * ("lib" in parsed.bases)
            seconds["interactions"] += edge * train * len(parsed.bases)
            if parsed.ablate:
                bisection = BISECTION_PASSES * masked + 14 * forward
                seconds["ablation"] += (bisection + 35 * forward) * test * len(parsed.bases)
    sizes = [layer.size for layer in network.node_layers]
    sums = sum(d * d for d in sizes) * (2 + 3 * len(parsed.bases))
    sums += sum(a * b for a, b in pairwise(sizes)) * len(parsed.bases)
    memory = parsed.memory or memory_budget(parsed.device)
    one = batch.inputs[:1]
    size = parsed.batch_size or batch_size(network, one, memory)
    bytes_of = [x[0].numel() * x.element_size() for x in activations]
    batch_bytes = 4 * size * max(bytes_of)
    kept = min(memory // 2, samples["train"] * sum(bytes_of)) if "lib" in parsed.bases else 0
    weights = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    return Plan(
        layers=tuple(
            LayerPlan(layer.name, layer.size, x.shape[1])
            for layer, x in zip(network.node_layers, activations, strict=True)
        ),
        samples=samples,
        seconds=seconds,
        memory=2 * weights + 8 * sums + kept + batch_bytes + 4 * autodiff.CHUNK_BYTES,
    )


def _seconds(compute: Callable[[], object]) -> float:
    compute()
    began = time.perf_counter()
    compute()
    return time.perf_counter() - began
