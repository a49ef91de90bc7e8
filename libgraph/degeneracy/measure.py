"""What of a network does nothing, measured one thing after the other.

Ranks of weights, units and heads that act as one, the spectrum of the behavioural loss, how free
directions add up over modules. With a directory each part is written as soon as it is there, and
an interrupted run goes on after it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from libgraph.accumulate.ranks import ranks
from libgraph.analysis.analysis import analyze
from libgraph.backend.contract import Backend
from libgraph.backend.data import Data
from libgraph.backend.options import parse_options
from libgraph.backend.registry import check_backend_kind
from libgraph.backend.state import own_state
from libgraph.bars import shown
from libgraph.degeneracy.behaviour.behaviour import Probes, behaviour_spectrum
from libgraph.degeneracy.behaviour.chains import Sampling
from libgraph.degeneracy.behaviour.lanczos import HessianSpectrum
from libgraph.degeneracy.behaviour.volume import network_volume, sampled_parameters
from libgraph.degeneracy.figures import (
    SCHEMA,
    BehaviourFigures,
    DegeneracyFigures,
    HeadFigures,
    Skipped,
    SkippedModules,
    TotalFigures,
    UnitFigures,
    VolumeFigures,
    WeightFigures,
)
from libgraph.degeneracy.modules.by_module import Counting, module_additivity, module_strengths
from libgraph.degeneracy.options import DegeneracyOptions
from libgraph.degeneracy.pictures import draw_figures
from libgraph.degeneracy.stages import FILE, DegeneracyStages, ModuleFigures
from libgraph.degeneracy.synchrony.synchrony import Synchrony
from libgraph.degeneracy.unit_graph import unit_graph
from libgraph.degeneracy.weights.jacobians import count_parameters
from libgraph.degeneracy.weights.ranks import MoveTrial, WeightRanks, try_moves, weight_ranks
from libgraph.degeneracy.weights.weights import weights_of
from libgraph.edges.score import Scoring
from libgraph.errors import TooLarge
from libgraph.files.run_directory import RunDirectory
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.pipeline.budget import one_budget
from libgraph.pipeline.stages import Stages, may_be_left_out, open_directory
from libgraph.pipeline.workload import Workload
from libgraph.progress import Foretold, Progress
from libgraph.report.graphml import Attributes, write_graphml

DECADES = 12
"""How far below the largest eigenvalue N_eff is counted, in powers of ten."""

PER_DECADE = 2

SMALLER = "fewer samples=…, probes=…, steps=… or draws=… cost less"
"""What costs less, said where it is going to take long."""

VOLUME_DECADES, MODULE_DECADES = 4, 8
"""The same for sampling, and for modules, at nine tolerances each."""


@own_state()
def measure_degeneracy(
    backend: Backend,
    *,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> DegeneracyFigures:
    """What of a backend's network does nothing; what `degeneracy.json` holds.

    Args:
        backend: from `load_backend`, or an instance of your own.
        out: directory to write; without it nothing is written.
        force: whether a complete one of that name may be replaced.
        progress: told how far each part has come; by default bars, where somebody looks.
        **options: fields of `DegeneracyOptions`.

    Raises:
        UsageError: for wrong options, or a directory that exists or cannot be written.
        BackendError: for a model that cannot be used.
        DataError: for a split without samples.
        NumericalError: for NaN or infinity, naming where.
    """
    check_backend_kind(backend)
    parsed = parse_options(DegeneracyOptions, options, "the degeneracy analysis")
    with (
        open_directory(out, force=force) as directory,
        one_budget(directory, parsed),
        shown(progress) as told,
    ):
        # Of the ranks of a torchrun job one says it.
        said = Foretold(told, SMALLER) if ranks()[0] == 0 else told
        return _Measurement(backend, parsed, directory, said).run()


class _Measurement:
    """One analysis: how each of its parts is computed, and in which order."""

    def __init__(
        self,
        backend: Backend,
        options: DegeneracyOptions,
        directory: RunDirectory | None,
        progress: Progress,
    ) -> None:
        self.backend = backend
        self.options = options
        self.directory = directory
        self.progress = progress
        self.workload = Workload(backend, options)
        self.runner = Stages(directory, options, lambda: self.workload.facts(*self.measured_on))

    def run(self) -> DegeneracyFigures:
        """All parts in order, and what they come to."""
        given = self.options.model_dump(mode="json")
        header: dict[str, JsonValue] = {
            "schema": SCHEMA,
            "backend": self.backend.name,
            "options": given,
        }
        # Before anything is computed at length: a file may be missing, a network too large.
        stages = DegeneracyStages.of(self.options, header)
        if stages.volume is not None:
            sampled_parameters(weights_of(self.workload.network))
        vectors = 8 * self.options.steps * count_parameters(weights_of(self.workload.network))
        self.workload.tell_of_memory(beside=vectors)
        run = self.runner.run
        weights = run(stages.weights, self._weights)
        units = run(stages.units, self._units)
        heads = run(stages.heads, self._heads)
        behaviour = run(stages.behaviour, self._behaviour)
        volume = {}
        if stages.volume is not None:
            volume["volume"] = run(stages.volume, partial(self._volume, behaviour.largest))
        modules = run(stages.modules, partial(self._modules, behaviour.largest))
        figures = DegeneracyFigures(
            **header,
            weights=weights,
            units=units,
            heads=heads,
            behaviour=behaviour,
            **volume,
            modules=modules,
            totals=_totals(weights, units, heads),
            seconds=self.runner.seconds,
        )
        if self.directory is not None or ranks()[1] > 1:
            # All ranks of a job take part in the graph, and the first one writes.
            graph = unit_graph(
                self.workload.network,
                self.workload.train,
                units,
                self.options.truncation,
                self.progress,
            )
            if self.directory is not None:
                self._export(figures, *graph, self.directory)
        return figures

    # What the parts work on

    @cached_property
    def few(self) -> Data:
        """For what needs the Jacobians of all parameters."""
        return self.workload.data("train", most=self.options.samples)

    @property
    def measured_on(self) -> tuple[Data, ...]:
        """All splits that anything is computed on."""
        return self.workload.train, self.workload.for_bases

    @cached_property
    def ranks(self) -> list[WeightRanks]:
        """Of all weights, on all data."""
        return weight_ranks(
            self.workload.network,
            self.workload.train,
            self.options.truncation,
            progress=self.progress,
        )

    @cached_property
    def synchrony(self) -> Synchrony:
        """What acts as one, on all data."""
        scoring = Scoring(self.workload.network, self.backend, self.workload.train)
        return Synchrony(scoring, self.options.synchrony, self.progress)

    # Parts

    def _weights(self) -> dict[str, WeightFigures]:
        network, data = self.workload.network, self.workload.train
        trials = try_moves(
            network, data, self.ranks, seed=self.options.seed, progress=self.progress
        )
        return {r.weight.name: _weight_figures(r, trials[r.weight.name]) for r in self.ranks}

    def _units(self) -> dict[str, UnitFigures | Skipped]:
        return self.synchrony.units(lambda: self.ranks)

    def _heads(self) -> dict[str, HeadFigures]:
        return self.synchrony.heads(lambda: self.ranks)

    def _behaviour(self) -> BehaviourFigures:
        options = self.options
        spectrum = behaviour_spectrum(
            self.workload.network,
            self.few,
            truncation=options.truncation,
            probes=Probes(options.probes, options.steps, options.seed),
            progress=self.progress,
        )
        samples = min(self.backend.samples("train"), self.few.limit or 0)
        return _behaviour_figures(spectrum, samples)

    def _volume(self, largest: float) -> VolumeFigures:
        options = self.options
        epsilons = _tolerances(largest, VOLUME_DECADES, 9)
        curve = network_volume(
            self.workload.network,
            self.few,
            epsilons,
            Sampling(options.radius, seed=options.seed),
            progress=self.progress,
        )
        return VolumeFigures(
            radius=options.radius,
            epsilons=epsilons,
            effective=_numbers(curve.effective),
            errors=_numbers(curve.errors),
            drift=_numbers(curve.drift),
        )

    def _modules(self, largest: float) -> ModuleFigures:
        options = self.options
        shared = {"basis", "limit", "truncate", "dtype", "device", "batch_size", "memory", "seed"}
        run = analyze(
            self.backend,
            beside=(),
            ablate=False,
            progress=self.progress,
            **options.model_dump(include=shared),
        )
        basis, graph = run.basis, run.graph()
        if graph.partition is None or not graph.partition.size:
            reason = "the features do not interact, so that there are no modules"
            return SkippedModules(basis=basis, skipped=reason)
        try:
            additivity = module_additivity(
                self.workload.network,
                self.few,
                run.bases(),
                graph,
                _tolerances(largest, MODULE_DECADES, 9),
                Counting(options.draws, options.seed, truncation=options.truncation),
                self.progress,
            )
        except TooLarge as error:
            # The Jacobians of a large network do not fit: all the rest is known all the same.
            return SkippedModules(basis=basis, skipped=str(error))
        return additivity.figures(basis, module_strengths(graph))

    # Results

    def _export(
        self,
        figures: DegeneracyFigures,
        graph: InteractionGraph,
        attributes: Attributes,
        directory: RunDirectory,
    ) -> None:
        self.progress("writing", 0, 1)
        figures.write(directory.file(FILE))
        write_graphml(graph, directory.file("graph.graphml"), attributes)
        with may_be_left_out("Figures were"):
            draw_figures(figures, directory.partial)
        record = self.workload.record(*self.measured_on)
        self.runner.complete({**record, "degeneracy": self.options.model_dump(mode="json")})
        self.progress("writing", 1, 1)


def _weight_figures(ranks: WeightRanks, trial: MoveTrial) -> WeightFigures:
    rows, columns = ranks.weight.shape
    return WeightFigures(
        pair=ranks.weight.pair,
        rows=rows,
        columns=columns,
        parameters=ranks.parameters,
        input_rank=ranks.inputs.rank,
        gradient_rank=ranks.gradients.rank,
        free=ranks.free,
        moved_free=trial.free,
        moved_used=trial.used,
        input_spectrum=ranks.inputs.values.tolist(),
        gradient_spectrum=ranks.gradients.values.tolist(),
    )


def _behaviour_figures(spectrum: HessianSpectrum, samples: int) -> BehaviourFigures:
    # Where nothing changes the outputs, any ε will do.
    largest = float(spectrum.values.max()) or 1.0
    epsilons = _tolerances(largest, DECADES, DECADES * PER_DECADE + 1)
    tolerances = torch.tensor(epsilons, dtype=torch.float64)
    return BehaviourFigures(
        parameters=spectrum.parameters,
        samples=samples,
        exact=spectrum.exact,
        rank=spectrum.rank,
        largest=largest,
        epsilons=epsilons,
        effective=spectrum.effective(tolerances).tolist(),
        errors=spectrum.error(tolerances).tolist(),
    )


def _numbers(curve: Tensor) -> list[float | None]:
    """None for what is not a number."""
    return [None if math.isnan(x) else x for x in curve.tolist()]


def _tolerances(largest: float, decades: int, count: int) -> list[float]:
    """ε from the largest eigenvalue down."""
    epsilons: list[float] = (largest * np.logspace(0, -decades, count)).tolist()
    return epsilons


def _totals(
    weights: Mapping[str, WeightFigures],
    units: Mapping[str, UnitFigures | Skipped],
    heads: Mapping[str, HeadFigures],
) -> TotalFigures:
    sections = (*units.values(), *heads.values())
    return TotalFigures(
        parameters=sum(weight.parameters for weight in weights.values()),
        free=sum(weight.free for weight in weights.values()),
        extra=sum(s.new or 0 for s in sections if not isinstance(s, Skipped)),
    )
