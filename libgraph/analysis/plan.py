"""What an analysis would cost, from a look at a few samples.

Nothing is written. Times are measured on a small first batch, most of them in the neuron basis, and
scaled to all samples, so they are a guide and no promise. What does not grow with the samples,
decompositions and the search for modules, is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from typing import Any

import torch

from libgraph.accumulate.memory import batch_size, memory_budget
from libgraph.analysis.rotations import DRAWN_SAMPLES
from libgraph.backend.contract import Backend
from libgraph.backend.data import Data
from libgraph.backend.options import parse_options
from libgraph.bases.global_lib import output_grams
from libgraph.bases.lib import lib
from libgraph.bases.sparse.options import BATCH, EVERY, PAIR_BYTES, SAMPLES
from libgraph.bases.sparse.pair_edges import enough
from libgraph.bases.sparse.problem import Problem
from libgraph.bases.statistics import node_statistics
from libgraph.edges.interactions import draw_signs, measured
from libgraph.network.network import Network
from libgraph.pipeline.options import AnalysisOptions
from libgraph.progress import silent
from libgraph.sections import autodiff
from libgraph.sections.quadrature import Quadrature

PROBE = 512
"""Samples that are measured, or positions where samples have several."""


BISECTION_PASSES = 3
"""Cost of a bisection, in passes that keep half of all edges: a guess, later ones are cheaper."""


CURVE_PASSES = 4
"""Cost of trying all powers of two, in the same passes: they add up to twice all edges."""


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


@dataclass(frozen=True)
class _Passes:
    """Seconds of one pass over the probe, by what is computed, for all sections together."""

    forward: float
    grams: float
    output_grams: float
    interactions: float
    exact_interactions: float
    masked: float

    def bases(self, methods: set[str]) -> float:
        """Of all bases that are made at once."""
        aligned = self.grams * bool(methods & {"lib", "sparse"})
        return self.forward + aligned + self.output_grams * ("global" in methods)


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
    if backend.bases_split not in samples:
        samples[backend.bases_split] = backend.samples(backend.bases_split)
    (single,) = islice(Data(backend, "train", 1, None, parsed.device, dtype), 1)
    with torch.no_grad():
        positions = max(x.shape[1] for x in network.activations(single.inputs))
    few = min(max(1, PROBE // positions), samples["train"])
    data = Data(backend, "train", few, few, parsed.device, dtype)
    (batch,) = data
    passes = _passes(network, batch.inputs, parsed)

    methods = set(parsed.bases.values())
    per_sample, bases = 1 / len(batch.inputs), samples[backend.bases_split]
    seconds = {
        "statistics": passes.forward * bases * per_sample,
        "bases": passes.bases(methods) * bases * per_sample,
        "interactions": passes.interactions * samples["train"] * per_sample * len(methods),
        "ablation": 0.0,
    }
    turning = 0.0
    if "sparse" in methods:
        turning = _sparse_seconds(network, data, positions, parsed)
        seconds["bases"] += turning
    if parsed.ablate:
        trials = (BISECTION_PASSES + CURVE_PASSES * parsed.curves) * passes.masked
        trials += (14 * len(network.sections) * (1 + parsed.curves) + 35) * passes.forward
        faster = 0.5 if score_dtype != dtype else 1.0
        seconds["ablation"] = trials * samples["test"] * per_sample * faster * len(methods)
    if parsed.halves:
        exact = passes.exact_interactions * samples["train"]
        seconds["halves"] = exact * per_sample * len(methods)
    if parsed.draws:
        main = {parsed.basis}
        one = passes.forward + passes.bases(main) + passes.exact_interactions
        one *= min(samples["train"], DRAWN_SAMPLES) * per_sample
        seconds["significance"] = (1 + parsed.draws) * (one + turning * ("sparse" in main))

    with torch.no_grad():
        activations = list(network.activations(batch.inputs))
    sizes = [layer.size for layer in network.node_layers]
    sums = sum(d * d for d in sizes) * (2 + 3 * len(methods))
    sums += sum(a * b for a, b in pairwise(sizes)) * len(methods)
    memory = parsed.memory or memory_budget(parsed.device)
    size = parsed.batch_size or batch_size(network, batch.inputs[:1], memory)
    bytes_of = [x[0].numel() * x.element_size() for x in activations]
    batch_bytes = 4 * size * max(bytes_of)
    aligned = bool(methods & {"lib", "sparse"})
    kept = min(memory // 2, bases * sum(bytes_of)) if aligned else 0
    if "sparse" in methods:
        kept = max(kept, min(memory // 2, len(sizes) * PAIR_BYTES))
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


@torch.no_grad()
def _passes(network: Network, inputs: torch.Tensor, options: AnalysisOptions) -> _Passes:
    quadrature = Quadrature.parse(options.integration)
    grams = edges = exact = masked = 0.0
    activations = list(network.activations(inputs))
    for (x, y), section in zip(pairwise(activations), network.sections, strict=True):
        eye = torch.eye(section.d_in).to(x)
        grams += _seconds(partial(section.jacobian_gram, x))
        signs = draw_signs(options.signs, y, torch.Generator())
        edges += _seconds(partial(measured, section, x, x, eye, quadrature, signs))
        if options.signs and (options.halves or options.draws):
            exact += _seconds(partial(section.interactions, x, x, eye, quadrature))
        if options.ablate:
            keep = torch.rand(section.d_in, section.d_out, device=x.device) < 0.5
            masked += _seconds(partial(section.masked, x, keep))
    outputs = 0.0
    if "global" in options.bases:
        eye = torch.eye(network.node_layers[-1].size).to(activations[-1])
        outputs = _seconds(partial(output_grams, network, inputs, eye, 0))
    forward = _seconds(partial(network, inputs))
    return _Passes(forward, grams, outputs, edges, exact or edges, masked)


def _sparse_seconds(
    network: Network, data: Data, positions: int, options: AnalysisOptions
) -> float:
    """Of all steps from all starts, as the first one takes on rotations of a LIB of few samples."""
    chosen = options.sparse(None)
    most = min(SAMPLES, enough(BATCH, positions), options.limit or SAMPLES)
    few = min(BATCH, most)
    data = replace(data, limit=few, batch_size=few)
    known = node_statistics(network, data)
    start = lib(network, known, data, options.truncation, silent)
    kept = [len(basis) - basis.isolated for basis in start.values() if basis.rotated]
    # Few samples may have fewer features than all of them do.
    features = chosen.features and min(chosen.features, max(kept, default=2))
    problem = Problem.of(network, start, data, replace(chosen, features=features))
    if not problem.pairs:
        return 0.0
    rotations = {name: each.requires_grad_() for name, each in problem.start(0).items()}
    evaluation = _seconds(partial(problem.value, rotations)) * most / few
    with torch.enable_grad():
        step = _seconds(lambda: problem.loss(rotations, 0).backward())
    return (step + evaluation / EVERY) * chosen.steps * chosen.starts


def _seconds(compute: Callable[[], object]) -> float:
    compute()
    began = time.perf_counter()
    compute()
    return time.perf_counter() - began
