"""What an analysis would cost, from a look at a few samples.

Nothing is written. Times are measured on a small first batch, most of them in the neuron basis;
stages and bases say how often that makes their cost. They are a guide and no promise. Of what does
not grow with the samples, decompositions are left out; modules, pictures and the page count as much
as they take of small models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor

from libgraph.accumulate.memory import batch_size, memory_budget
from libgraph.analysis.stages import NODE_TRIALS, AnalysisStages
from libgraph.backend.contract import Backend, Batch, Split
from libgraph.backend.data import Data
from libgraph.backend.options import parse_options
from libgraph.backend.state import own_state
from libgraph.bases.global_lib import output_grams
from libgraph.bases.method import BasisMethod, Probe
from libgraph.edges.interactions import draw_signs, measured
from libgraph.network.network import Network
from libgraph.pipeline.options import AnalysisOptions
from libgraph.pipeline.passes import Passes
from libgraph.pipeline.workload import Workload
from libgraph.sections import Section
from libgraph.sections.chunks import DERIVATIVES
from libgraph.sections.closed_form import ClosedForm
from libgraph.sections.quadrature import Quadrature

PROBE = 512
"""Samples that are measured, or positions where samples have several."""


FEW = 64
"""Features and masks that are measured, where their costs add up."""


ONCE = 0.1
"""Seconds after which nothing is measured once more."""


TIMES = 5
"""How often what is short is measured."""


WRITING, OF_BASIS = 1.0, 1.5
"""Seconds of pictures and the page of a small model, and of modules, pictures and tables of each
basis, on one core; most of a short run."""


LITTLE = 20 * ONCE
"""Seconds beside which it does not count that libraries get ready."""


Seconds = tuple[float, ...]


Measure = Callable[[Section, Tensor, Tensor], Seconds]
"""Times what is done with a section and the activations before and after it."""


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


@own_state()
def plan(backend: Backend, **options: Any) -> Plan:
    """Layers, shapes, estimated time and memory of `analyze(backend, **options)`.

    Raises:
        UsageError: for wrong options.
        BackendError: for a model that cannot be used.
        DataError: for a split without samples.
    """
    options = {"tolerances": backend.tolerances, **options}
    parsed = parse_options(AnalysisOptions, options, "the analysis")
    few = FewSamples.of(Workload(backend, parsed), parsed)
    stages = AnalysisStages.of(parsed, few.network)
    passes = few.passes(stages.methods)
    seconds = dict.fromkeys(("statistics", "bases", "interactions", "ablation"), 0.0)
    for stage in stages:
        for name, cost in stage.cost(passes).items():
            seconds[name] = seconds.get(name, 0.0) + cost
    seconds["writing"] = WRITING + OF_BASIS * len(stages.methods)
    return Plan(
        layers=tuple(
            LayerPlan(layer.name, layer.size, x.shape[1])
            for layer, x in zip(few.network.node_layers, few.activations, strict=True)
        ),
        samples=few.samples,
        seconds=seconds,
        memory=few.memory(stages.methods),
    )


@dataclass(frozen=True)
class FewSamples:
    """A few samples of the training split, and what the network makes of them.

    Args:
        backend: what is analysed.
        options: of the analysis.
        network: in the precision asked for.
        scored: the same in the precision of scores.
        data: one batch of few samples.
        batch: that batch.
        activations: of all node layers.
        samples: how many there are in all, by split.
        bases_split: the split that bases are made from.
    """

    backend: Backend
    options: AnalysisOptions
    network: Network
    scored: Network
    data: Data
    batch: Batch
    activations: Sequence[Tensor]
    samples: dict[str, int]
    bases_split: str

    @classmethod
    def of(
        cls, workload: Workload, options: AnalysisOptions, scored: Network | None = None
    ) -> FewSamples:
        """As many samples as make about `PROBE` positions."""
        backend, network = workload.backend, workload.network
        dtype = getattr(torch, options.dtype)
        splits: tuple[Split, ...] = ("train", "test")
        samples: dict[str, int] = {
            split: min(backend.samples(split), options.limit or backend.samples(split))
            for split in splits
        }
        if backend.bases_split not in samples:
            samples[backend.bases_split] = backend.samples(backend.bases_split)
        (single,) = islice(Data(backend, "train", 1, None, options.device, dtype), 1)
        with torch.no_grad():
            positions = max(x.shape[1] for x in network.activations(single.inputs))
        count = min(max(1, PROBE // positions), samples["train"])
        budget = options.memory or memory_budget(options.device)
        whole = options.batch_size or batch_size(network, single.inputs, budget)
        few = next(iter(Data(backend, "train", count, count, options.device, dtype)))
        with torch.no_grad():
            seconds = _seconds(lambda: list(network.activations(few.inputs)))
        # What all samples have in common, and what is repeated in a batch, is computed once.
        quick = int(min(whole, samples["train"], count * ONCE / max(seconds, 1e-9)))
        data = Data(backend, "train", max(count, quick), max(count, quick), options.device, dtype)
        (batch,) = data
        with torch.no_grad():
            activations = list(network.activations(batch.inputs))
        split = backend.bases_split
        if scored is None:
            scored = workload.network_in(options.score_dtype) if options.ablate else network
        return cls(backend, options, network, scored, data, batch, activations, samples, split)

    def passes(self, methods: Mapping[str, BasisMethod]) -> Passes:
        """Seconds a sample of all that the stages may do."""
        options, count = self.options, len(self.batch.inputs)
        beside = {name: self._beside(method) for name, method in methods.items() if method.seconds}
        with torch.no_grad():
            sums = self._of_sections(self._sums_seconds, self.network, self.activations)
            outputs = 0.0
            if any(method.output_gram for method in methods.values()):
                eye = torch.eye(self.network.node_layers[-1].size).to(self.activations[-1])
                # Libraries get ready, for a second.
                output_grams(self.network, self.batch.inputs[:1], eye, 0)
                outputs = _seconds(partial(output_grams, self.network, self.batch.inputs, eye, 0))
            forward = _seconds(partial(self.network, self.batch.inputs))
            score = 0.0
            ablated: list[Seconds] = [(0.0, 0.0)]
            if options.ablate:
                cast = [x.to(getattr(torch, options.score_dtype)) for x in self.activations]
                score = self._score_seconds(cast[-1])
                ablated = self._of_sections(self._ablation_seconds, self.scored, cast)
        grams, edges, exact = (sum(seconds) / count for seconds in zip(*sums, strict=True))
        masked = sum(seconds for seconds, _ in ablated)
        plain = [seconds for _, seconds in ablated]
        # From each node layer to the outputs, and from behind its section.
        onward = [sum(plain[index:]) for index in range(len(plain))]
        trials = [min(NODE_TRIALS, layer.size + 1) for layer in self.network.node_layers]
        nodes = sum(
            times * (seconds + score) for times, seconds in zip(trials, onward, strict=False)
        )
        return Passes(
            forward=forward / count,
            jacobian_grams=grams,
            output_grams=outputs / count,
            interactions=edges,
            exact_interactions=exact if options.signs else edges,
            masked=masked / count,
            plain=sum(plain) / count,
            behind=sum(onward[1:]) / count,
            nodes=nodes / count,
            score=score / count,
            sections=len(self.network.sections),
            samples={**self.samples, "bases": self.samples[self.bases_split]},
            beside=beside,
        )

    def _of_sections(
        self, measure: Measure, network: Network, activations: Sequence[Tensor]
    ) -> list[Seconds]:
        """Of every section; those of one form and size, as in blocks of one model, take as long."""
        known: dict[Hashable, Seconds] = {}
        seconds = []
        for section, (x, y) in zip(network.sections, pairwise(activations), strict=True):
            form = _form(section), x.shape, y.shape
            if form not in known:
                known[form] = self._warm_seconds(measure, section, x, y)
            seconds.append(known[form])
        return seconds

    def _score_seconds(self, outputs: Tensor) -> float:
        """Of the scores of the few samples."""
        score, targets = self.backend.score, self.batch.targets
        # What a backend finds out once, before its first score, is no part of the others.
        score(outputs[:1], targets[:1])
        return _seconds(partial(score, outputs, targets))

    def _warm_seconds(self, measure: Measure, section: Section, x: Tensor, y: Tensor) -> Seconds:
        """Of a section that was used before: libraries get ready at their first call.

        Where one sample takes long, it stands for all.
        """
        single = measure(section, x[:1], y[:1])
        if sum(single) > ONCE:
            if sum(single) < LITTLE:
                single = measure(section, x[:1], y[:1])
            if sum(single) > ONCE:
                return tuple(len(x) * seconds for seconds in single)
        few = max(1, PROBE // max(x.shape[1], y.shape[1]))
        seconds = measure(section, x[:few], y[:few])
        if len(x) > few and sum(seconds) * len(x) > LITTLE * few:
            return tuple(second * len(x) / few for second in seconds)
        return measure(section, x, y) if len(x) > few else seconds

    def _sums_seconds(self, section: Section, x: Tensor, y: Tensor) -> Seconds:
        """Of the Jacobian Gram, interactions as asked for, and exact ones."""
        options = self.options
        quadrature = Quadrature.parse(options.integration)
        signs = draw_signs(options.signs, y, torch.Generator())
        decoder = torch.eye(section.d_in).to(x)

        def estimated(features: int) -> Callable[[], object]:
            few, rows = x[..., :features], decoder[:features]
            return partial(measured, section, x, few, rows, quadrature, signs)

        def exactly(features: int) -> Callable[[], object]:
            few, rows = x[..., :features], decoder[:features]
            return partial(section.interactions, x, few, rows, quadrature)

        # Closed forms take features one by one, so that some of them tell what all take.
        few = FEW if isinstance(section, ClosedForm) else section.d_in
        grams = _seconds(partial(section.jacobian_gram, x))
        edges = _seconds_of(section.d_in, few, estimated)
        exact = 0.0
        if options.signs and (options.halves or options.draws):
            exact = _seconds_of(section.d_in, few, exactly)
        return grams, edges, exact

    def _ablation_seconds(self, section: Section, x: Tensor, _: Tensor) -> Seconds:
        """Of a pass that keeps half of the edges, and of one that keeps all."""
        # Edges are about products of what is sent and received, and masks have a part in common.
        generator = torch.Generator().manual_seed(0)
        sizes = section.d_in, section.d_out
        sent, received = (torch.rand(size, generator=generator) for size in sizes)
        strength = torch.outer(sent, received) * torch.rand(*sizes, generator=generator)
        keep = (strength > strength.median()).to(x.device)

        def masked(outputs: int) -> Callable[[], object]:
            seen = section.rebase(encoder=torch.eye(section.d_out, outputs).to(x))
            return partial(seen.masked, x, keep[:, :outputs])

        return _seconds_of(section.d_out, FEW, masked), _seconds(partial(section, x))

    def _beside(self, method: BasisMethod) -> float:
        if method.seconds is None:
            return 0.0
        options = self.options
        return method.seconds(
            Probe(
                self.network,
                self.data,
                max(x.shape[1] for x in self.activations),
                options.limit,
                options.truncation,
                options.model_dump(include=set(method.reads)),
                _seconds,
            )
        )

    def memory(self, methods: Mapping[str, BasisMethod]) -> int:
        """The most that is held at once: the model, sums, activations, batches."""
        network, options, activations = self.network, self.options, self.activations
        sizes = [layer.size for layer in network.node_layers]
        sums = sum(d * d for d in sizes) * (2 + 3 * len(methods))
        sums += sum(a * b for a, b in pairwise(sizes)) * len(methods)
        budget = options.memory or memory_budget(options.device)
        samples = options.batch_size or batch_size(network, self.batch.inputs[:1], budget)
        bytes_of = [x[0].numel() * x.element_size() for x in activations]
        held = 0
        if any(method.jacobian_gram for method in methods.values()):
            held = self.samples[self.bases_split] * sum(bytes_of)
        held = max(held, *(len(sizes) * method.layer_bytes for method in methods.values()))
        batch_bytes = 4 * samples * max(bytes_of)
        parts = 4 * DERIVATIVES.at(activations[0])
        return 2 * network.weight_bytes + 8 * sums + min(budget // 2, held) + batch_bytes + parts


def _form(section: Section) -> Hashable:
    """What sections that are the same but for their weights have in common."""
    if type(section).interactions is Section.interactions:
        # Of any function: only it knows what it computes.
        return id(section)
    shapes = tuple(weight.shape for weight in section.buffers())
    # All lambdas have one name.
    values = (value for module in section.modules() for value in vars(module).values())
    functions = tuple(getattr(value, "__code__", None) for value in values)
    return type(section), repr(section), shapes, functions


def _seconds_of(count: int, few: int, prepared: Callable[[int], Callable[[], object]]) -> float:
    """Of so many features or masks, along a line through what few of them and a quarter take.

    Args:
        count: of which the time is wanted.
        few: how many are measured at most.
        prepared: what is computed of a number of them.
    """
    if count <= few:
        return _seconds(prepared(count))
    quarter = max(1, few // 4)
    less, more = (_seconds(prepared(number)) for number in (quarter, few))
    # What is measured of little may be off; what all have in common is no less than nothing.
    slope = min(max(0.0, more - less) / max(1, few - quarter), more / few)
    return more + (count - few) * slope


def _seconds(compute: Callable[[], object]) -> float:
    """The shortest of a few times: what is done only once, and other work, only add to it."""
    shortest, spent = float("inf"), 0.0
    for _ in range(TIMES):
        began = time.perf_counter()
        compute()
        seconds = time.perf_counter() - began
        shortest, spent = min(shortest, seconds), spent + seconds
        if spent > ONCE:
            break
    return shortest
