"""The pipeline: from a backend to bases, interactions, ablations, a graph and its modules.

Every basis asked for is computed and measured on the same data, side by side. With a run directory
each stage is written as soon as it is finished, and is read back instead of computed where nothing
that it depends on has changed (`libgraph.pipeline.stages`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from libgraph.accumulate.ranks import ranks
from libgraph.analysis.announcement import announcement
from libgraph.analysis.examples import find_examples
from libgraph.analysis.graphs import labelled_graph
from libgraph.analysis.halves import HALVES, halves_agree, interactions_of_halves
from libgraph.analysis.plan import FewSamples
from libgraph.analysis.precision import why_too_rough
from libgraph.analysis.rotations import against_rotations
from libgraph.analysis.stages import ABLATION, AnalysisStages
from libgraph.backend.contract import Backend
from libgraph.backend.data import Data
from libgraph.backend.options import parse_options
from libgraph.backend.registry import check_backend_kind
from libgraph.backend.state import own_state
from libgraph.bars import shown
from libgraph.bases.method import BasisMethod, Setting, make_bases
from libgraph.bases.methods import leftovers
from libgraph.edges.edge_ablation import ablate_edges
from libgraph.edges.interactions import Edges, Interactions, estimate_interactions
from libgraph.edges.node_ablation import ablate_nodes
from libgraph.edges.reconstruction import Reconstructions, reconstructions
from libgraph.edges.score import Scoring
from libgraph.errors import NumericalError
from libgraph.files.run_directory import RunDirectory
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.interventions.subject import Subject
from libgraph.interventions.survey import LesionSurvey, survey_lesions
from libgraph.modules.significance import Significance
from libgraph.network.basis import Bases
from libgraph.pipeline.budget import one_budget
from libgraph.pipeline.options import AnalysisOptions
from libgraph.pipeline.stages import Stages, may_be_left_out, open_directory
from libgraph.pipeline.workload import Workload
from libgraph.progress import Progress, renamed
from libgraph.report.graph_files import graph_title, write_graph_files
from libgraph.report.page.page import PAGE, write_page
from libgraph.runs.computed_run import BasisResult, ComputedRun
from libgraph.runs.examples import Examples
from libgraph.runs.measures import run_metrics
from libgraph.runs.run import Ablation
from libgraph.runs.stored import save_ablations
from libgraph.sections.quadrature import Quadrature

log = logging.getLogger("libgraph")

LOOK_AHEAD = 0.1
"""Seconds for the score of the model from which on it is worth while to find out beforehand what
all stages take: that takes a few times as long."""


@own_state()
def analyze(
    backend: Backend,
    *,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    beside_files: Callable[[ComputedRun, Path], None] | None = None,
    **options: Any,
) -> ComputedRun:
    """Analyse a backend's network: bases, interactions, ablations, graph, modules.

    Args:
        backend: from `load_backend`, or an instance of your own.
        out: run directory to write; without it nothing is written.
        force: whether a complete run of that name may be replaced. Its stages are reused where
            nothing they depend on has changed, as are those of an interrupted run.
        progress: told how far each stage has come; by default bars, on a terminal or in a notebook.
        beside_files: writes more files of the run, into the directory that it is given, before the
            run is complete.
        **options: fields of `AnalysisOptions`.

    Raises:
        UsageError: for wrong options, or a directory that exists or cannot be written.
        BackendError: for a model that cannot be used.
        DataError: for a split without samples.
        NumericalError: for NaN or infinity, naming the node layer.
    """
    check_backend_kind(backend)
    options = {"tolerances": backend.tolerances, **options}
    parsed = parse_options(AnalysisOptions, options, "the analysis")
    with (
        open_directory(out, force=force) as directory,
        one_budget(directory, parsed),
        shown(progress) as told,
    ):
        return _Analysis(backend, parsed, directory, told, beside_files).run()


class _Analysis:
    """One analysis: how each of its stages is computed, and in which order."""

    def __init__(
        self,
        backend: Backend,
        options: AnalysisOptions,
        directory: RunDirectory | None,
        progress: Progress,
        beside_files: Callable[[ComputedRun, Path], None] | None,
    ) -> None:
        self.backend = backend
        self.beside_files = beside_files
        self.options = options
        self.directory = directory
        self.progress = progress
        self.workload = Workload(backend, options)
        self.runner = Stages(
            directory, options, lambda: self.workload.facts(*self.measured_on), progress
        )

    def run(self) -> ComputedRun:
        """All stages in order, and what they come to."""
        self.workload.look()
        stages = AnalysisStages.of(self.options, self.workload.network)
        # Before anything is computed at length, because this may fail where the rest does not.
        began = time.monotonic()
        score = self._score()
        # Ranks of a torchrun job have parts of the samples, and must not differ in what they do.
        if ranks() == (0, 1) and time.monotonic() - began > LOOK_AHEAD:
            self._look_ahead(stages)
        bases = self.runner.run(stages.bases, partial(self._bases, stages.methods))
        self._refuse_empty(bases)
        edges, errors, missed = self.runner.run(
            stages.interactions, partial(self._interactions, bases)
        )
        kept = {
            name: self.runner.run(stage, partial(self._reconstructions, bases[name], name))
            for name, stage in stages.dictionaries.items()
        }
        ablation = {
            name: self.runner.run(stage, partial(self._ablation, name, bases[name], edges[name]))
            for name, stage in stages.ablation.items()
        }
        with self.runner.timed("graph"):
            graphs = {
                name: self._graph(name, bases[name], edges[name], ablation.get(name))
                for name in bases
            }
        examples = self.runner.run(stages.examples, partial(self._examples, bases))
        halves = self._halves(stages, bases, graphs)
        significance = self._significance(stages)
        survey = self._lesions(stages, bases, graphs)
        results = {
            name: BasisResult(
                bases[name],
                edges[name],
                errors.get(name, {}),
                graphs[name],
                ablation.get(name),
                halves[name],
                significance[name],
                kept.get(name),
                missed.get(name, {}),
            )
            for name in bases
        }
        metrics = run_metrics(self.backend, self.options, results, score, self.runner.seconds)
        path = self.directory.path if self.directory else None
        run = ComputedRun(self.backend, self.options, results, metrics, path, examples, survey)
        if self.directory is not None:
            for name, method in stages.methods.items():
                if method.writes is not None:
                    method.writes(self.workload.network, bases[name], self.directory.partial)
            self._export(run, self.directory)
        return run

    def _score(self) -> float:
        """Of the whole model, in double precision where single precision is not enough."""
        if self.options.score_dtype != "float32" or self.options.dtype != "float64":
            return self.scoring.base_score
        why = why_too_rough(self.scoring, self.workload.network, min(self.options.tolerances))
        if why is not None:
            log.warning(
                "Single precision is not enough for the score (%s): scores and ablations are "
                "computed in double precision.",
                why,
            )
            self.options = self.options.model_copy(update={"score_dtype": "float64"})
            self.runner.options = self.options
            del self.scoring
        return self.scoring.base_score

    def _look_ahead(self, stages: AnalysisStages) -> None:
        """Find out how long it all is going to take, and say so if that is long."""
        few = FewSamples.of(self.workload, self.options, self.scoring.network)
        seconds = self.runner.plan(stages, few.passes(stages.methods))
        announced = announcement(seconds, few.samples["train"])
        if announced is not None:
            log.warning(announced)

    def _halves(
        self,
        stages: AnalysisStages,
        bases: Mapping[str, Bases],
        graphs: Mapping[str, InteractionGraph],
    ) -> dict[str, float | None]:
        """How alike the modules of even and of odd samples are, by basis, if asked for."""
        if stages.halves is None:
            return dict.fromkeys(bases)
        edges = self.runner.run(stages.halves, partial(self._interactions_of_halves, bases)).edges
        return {
            name: halves_agree(graph, [edges[f"{name} {half}"] for half in HALVES], self.options)
            for name, graph in graphs.items()
        }

    def _significance(self, stages: AnalysisStages) -> dict[str, Significance | None]:
        """Modules of the main basis against rotated networks, by basis, if asked for."""
        significance: dict[str, Significance | None] = dict.fromkeys(self.options.bases)
        if stages.significance is not None:
            significance[self.options.main] = self.runner.run(
                stages.significance, self._against_rotations
            )
        return significance

    def _lesions(
        self,
        stages: AnalysisStages,
        bases: Mapping[str, Bases],
        graphs: Mapping[str, InteractionGraph],
    ) -> LesionSurvey | None:
        """Every feature and module of the main basis switched off, if asked for."""
        if stages.lesions is None:
            return None
        main, dtype = self.options.main, self.options.score_dtype

        def survey() -> LesionSurvey:
            subject = Subject(
                self.scoring.network,
                self.backend,
                bases[main],
                self.scoring.data,
                self.workload.data("train", dtype),
            )
            return survey_lesions(
                subject, graphs[main], seed=self.options.seed, progress=self.progress
            )

        return self.runner.run(stages.lesions, survey)

    # What the stages work on

    @cached_property
    def scoring(self) -> Scoring:
        """The network cast from the stored precision, not from that of the other."""
        dtype = self.options.score_dtype
        return Scoring(
            self.workload.network_in(dtype), self.backend, self.workload.data("test", dtype)
        )

    @property
    def measured_on(self) -> tuple[Data, ...]:
        """All splits that anything is computed on."""
        return self.workload.train, self.scoring.data, self.workload.for_bases

    # Stages

    def _bases(self, methods: Mapping[str, BasisMethod]) -> dict[str, Bases]:
        partial_directory = self.directory.partial if self.directory else None
        reads = {name for method in methods.values() for name in method.reads}
        try:
            return make_bases(
                methods,
                self.workload.network,
                self.workload.for_bases,
                self.options.truncation,
                setting=Setting(self.options.model_dump(include=reads), partial_directory),
                progress=self.progress,
            )
        finally:
            # Rotations that were half found are worth as much as a finished stage.
            if self.directory is not None and _half_done(
                self.directory.partial, self.options.bases
            ):
                self.directory.keep()

    def _refuse_empty(self, bases: Mapping[str, Bases]) -> None:
        for name, by_layer in bases.items():
            for layer, basis in by_layer.items():
                if len(basis) == basis.isolated:
                    raise NumericalError(
                        f"No direction at node layer '{layer}' is above the threshold "
                        f"{self.options.truncate} in the {name} basis: choose a smaller one, or "
                        "more samples; at these, what follows may not change with it at all."
                    )

    def _interactions(self, bases: Mapping[str, Bases]) -> Interactions:
        return estimate_interactions(
            self.workload.network,
            bases,
            self.workload.train,
            Quadrature.parse(self.options.integration),
            self.options.signs,
            self.options.seed,
            self.progress,
        )

    def _reconstructions(self, bases: Bases, name: str) -> Reconstructions:
        stage = f"dictionaries, {name}"
        return reconstructions(self.scoring, bases, stage, self.progress)

    def _ablation(self, name: str, bases: Bases, edges: Edges) -> Ablation:
        nodes = ablate_nodes(
            self.scoring,
            bases,
            tolerances=self.options.tolerances,
            stage=f"node ablation, {name}",
            progress=self.progress,
        )
        pairs = ablate_edges(
            self.scoring,
            bases,
            edges,
            tolerances=self.options.tolerances,
            curves=self.options.curves,
            stage=f"edge ablation, {name}",
            progress=self.progress,
        )
        return Ablation(nodes, pairs)

    def _examples(self, bases: Mapping[str, Bases]) -> Examples:
        return find_examples(self.workload, bases[self.options.main], self.progress)

    def _interactions_of_halves(self, bases: Mapping[str, Bases]) -> Interactions:
        return interactions_of_halves(
            self.workload.network,
            bases,
            self.workload.train,
            self.options.integration,
            self.progress,
        )

    def _against_rotations(self) -> Significance:
        return against_rotations(
            self.workload.network, self.workload.train, self.options, self.progress
        )

    def _graph(
        self, name: str, bases: Bases, edges: Edges, ablation: Ablation | None
    ) -> InteractionGraph:
        told = renamed(self.progress, f"modules, {name}")
        return labelled_graph(self.workload, bases, edges, ablation, self.options, told)

    # Results

    def _export(self, run: ComputedRun, directory: RunDirectory) -> None:
        self.progress("writing", 0, 1)
        run.metrics.write(directory.file("metrics.json"))
        # Bases that an earlier run of this name had are not part of this one.
        ablations = {name: found.ablation for name, found in run.results.items() if found.ablation}
        save_ablations(directory.file(ABLATION), ablations)
        for old in _half_done(directory.partial, self.options.bases):
            old.unlink(missing_ok=True)
        title = graph_title(self.backend.name, self.options.main)
        with may_be_left_out("graph.png was"):
            concept = self.backend.concept
            write_graph_files(run.graph(), directory.partial, title=title, concept=concept)
        with may_be_left_out(f"{PAGE} was"):
            write_page(run, directory.file(PAGE))
        if self.beside_files is not None:
            self.beside_files(run, directory.partial)
        record = self.workload.record(*self.measured_on)
        self.runner.complete({**record, "options": self.options.model_dump(mode="json")})
        self.progress("writing", 1, 1)


def _half_done(directory: Path, chosen: Iterable[str]) -> list[Path]:
    """Files in which some method has kept work that is not finished."""
    return [path for pattern in leftovers(chosen) for path in directory.glob(pattern)]
