"""The pipeline: from a backend to bases, interactions, ablations, a graph and its modules.

Every basis asked for is computed and measured on the same data, side by side. With a run directory
each stage is written as soon as it is finished, under the hash of all that it depends on, and is
read back instead of computed where that hash is there already.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from libgraph.accumulate.ranks import ranks
from libgraph.analysis.halves import HALVES, halves_agree, interactions_of_halves
from libgraph.analysis.rotations import against_rotations
from libgraph.backend.contract import Backend
from libgraph.backend.data import Data
from libgraph.backend.options import parse_options
from libgraph.backend.registry import check_backend_kind
from libgraph.bases.methods import METHODS, basis_method
from libgraph.bases.sparse.options import CHECKPOINTS
from libgraph.bases.statistics import node_statistics
from libgraph.edges.edge_ablation import ablate_edges
from libgraph.edges.interactions import Edges, Interactions, estimate_interactions
from libgraph.edges.node_ablation import ablate_nodes
from libgraph.edges.score import base_score
from libgraph.errors import BackendError, DataError, NumericalError, UsageError
from libgraph.files.atomic import read_json, write_json
from libgraph.files.run_directory import RunDirectory, hash_of
from libgraph.graph.features import LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.communities import find_communities
from libgraph.modules.significance import Significance
from libgraph.network.basis import Bases
from libgraph.network.network import Network
from libgraph.pipeline.options import AnalysisOptions
from libgraph.pipeline.workload import Inputs, digest_of_basis
from libgraph.progress import Progress, silent
from libgraph.report.graph_picture import draw_graph, graph_title
from libgraph.runs.measures import run_metrics
from libgraph.runs.run import Ablation, BasisResult, ComputedRun
from libgraph.runs.stored import (
    load_ablation,
    load_bases,
    load_interactions,
    save_ablation,
    save_bases,
    save_interactions,
)
from libgraph.sections.quadrature import Quadrature

SPARSE = {"sparse_features", "sparse_power", "sparse_steps", "sparse_starts"}


log = logging.getLogger("libgraph")


Result = TypeVar("Result")


def analyze(
    backend: Backend,
    *,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> ComputedRun:
    """Analyse a backend's network: bases, interactions, ablations, graph, modules.

    Args:
        backend: from `load_backend`, or an instance of your own.
        out: run directory to write; without it nothing is written.
        force: whether a complete run of that name may be replaced. Its stages are reused where
            nothing they depend on has changed, as are those of an interrupted run.
        progress: told how far each stage has come.
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
    rank, _ = ranks()
    directory = RunDirectory(Path(out), force=force) if out is not None and rank == 0 else None
    pipeline = _Pipeline(backend, parsed, directory, progress)
    try:
        return pipeline.run()
    except BaseException as error:
        left = directory is not None and directory.abandon()
        wrong = isinstance(error, NumericalError | BackendError | DataError)
        if directory is not None and left and not wrong:
            log.warning(
                "Finished stages are kept in '%s': the same command with --out '%s' goes on there.",
                directory.partial,
                directory.path,
            )
        raise


class _Pipeline:
    """The stages of one analysis, each of which knows what it depends on."""

    def __init__(
        self,
        backend: Backend,
        options: AnalysisOptions,
        directory: RunDirectory | None,
        progress: Progress,
    ) -> None:
        self.backend = backend
        self.options = options
        self.inputs = Inputs(backend, options)
        self.directory = directory
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self.began = time.time()

    def run(self) -> ComputedRun:
        """All stages in order."""
        # Before anything is computed at length, because this may fail where the rest does not.
        if self.options.halves and self.options.limit == 1:
            raise UsageError("Halves of the data need at least two samples: use a larger --limit.")
        for chosen in self.options.bases.values():
            basis_method(chosen)
        if self.options.draws and self.options.main not in METHODS:
            raise UsageError(
                f"Directions of a file, such as {self.options.basis}, are not those of a rotated "
                "network: use --draws 0, or another basis for the graph."
            )
        score = base_score(self.score_network, self.backend, self.test)
        names, device = list(self.options.bases), self.options.device
        pairs = [(a.name, b.name) for a, b, _ in self.inputs.network.pairs]
        layers = self.inputs.network.node_layers
        bases = self._stage(
            "bases",
            "bases.safetensors",
            self._bases,
            save_bases,
            partial(load_bases, names=names, layers=layers, device=device),
        )
        self._refuse_empty(bases)
        edges, errors = self._stage(
            "interactions",
            "edges.safetensors",
            partial(self._interactions, bases),
            save_interactions,
            partial(load_interactions, names=names, pairs=pairs, device=device),
        )
        ablation = {
            name: self._stage(
                f"ablation {name}",
                "ablation.json",
                partial(self._ablation, name, bases[name], edges[name]),
                partial(save_ablation, name=name),
                partial(load_ablation, name=name, pairs=pairs),
            )
            for name in (names if self.options.ablate else ())
        }
        began = time.monotonic()
        graphs = {
            name: self._graph(name, bases[name], edges[name], ablation.get(name)) for name in names
        }
        self.seconds["graph"] = round(time.monotonic() - began, 3)
        checks = self._checks(bases, graphs)
        results = {
            name: BasisResult(
                bases[name],
                edges[name],
                errors.get(name, {}),
                graphs[name],
                ablation.get(name),
                **checks[name],
            )
            for name in names
        }
        metrics = run_metrics(self.backend, self.options, results, score, self.seconds)
        path = self.directory.path if self.directory else None
        run = ComputedRun(self.backend, self.options, results, metrics, path)
        if self.directory is not None:
            self._export(run, self.directory)
        return run

    def _checks(
        self, bases: Mapping[str, Bases], graphs: Mapping[str, InteractionGraph]
    ) -> dict[str, dict[str, Any]]:
        """What was asked for to tell modules from chance, by basis."""
        checks: dict[str, dict[str, Any]] = {name: {} for name in bases}
        options = self.options
        if options.halves:
            names = [f"{name} {half}" for name in bases for half in HALVES]
            pairs = [(a.name, b.name) for a, b, _ in self.inputs.network.pairs]
            found, _ = self._stage(
                "halves",
                "halves.safetensors",
                lambda: interactions_of_halves(
                    self.inputs.network,
                    bases,
                    self.inputs.train,
                    options.integration,
                    self.progress,
                ),
                save_interactions,
                partial(load_interactions, names=names, pairs=pairs, device=options.device),
            )
            for name, graph in graphs.items():
                edges = [found[f"{name} {half}"] for half in HALVES]
                checks[name]["halves"] = halves_agree(graph, edges, options)
        if options.draws:
            checks[options.main]["significance"] = Significance(
                **self._stage(
                    "significance",
                    "significance.json",
                    lambda: against_rotations(
                        self.inputs.network, self.inputs.train, options, self.progress
                    ),
                    write_json,
                    read_json,
                )
            )
        return checks

    # What the stages work on

    @cached_property
    def score_network(self) -> Network:
        """For scores; cast from the stored precision, not from that of the other."""
        return self.inputs.network_in(self.options.score_dtype)

    @cached_property
    def test(self) -> Data:
        """What scores are computed on."""
        return self.inputs.data("test", self.options.score_dtype)

    @property
    def measured_on(self) -> tuple[Data, ...]:
        """All splits that anything is computed on."""
        return self.inputs.train, self.test, self.inputs.for_bases

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What every stage depends on."""
        bases = {name: digest_of_basis(chosen) for name, chosen in self.options.bases.items()}
        return self.inputs.facts(*self.measured_on) | {"bases": bases}

    # Stages

    def _hash(self, stage: str) -> str:
        parts = dict(self.facts)
        if "sparse" in self.options.bases:
            parts["sparse"] = self.options.model_dump(include=SPARSE | {"seed", "memory"})
        if stage != "bases":
            parts["integration"] = self.options.integration
            if self.options.signs:
                parts["signs"] = [self.options.signs, self.options.seed]
        if stage.startswith("ablation"):
            parts |= self.options.model_dump(include={"score_dtype", "tolerances", "curves"})
        if stage == "significance":
            parts |= self.options.model_dump(include={"basis", "draws", "resolution", "seed"})
        return hash_of(stage, parts)

    def _stage(
        self,
        name: str,
        file: str,
        compute: Callable[[], Result],
        save: Callable[[Path, Result], None],
        load: Callable[[Path], Result],
    ) -> Result:
        """What `compute` gives, or what an earlier run with the same hash has left in `file`."""
        directory, began = self.directory, time.monotonic()
        if directory is None:
            result = compute()
            self.seconds[name] = round(time.monotonic() - began, 3)
            return result
        hashed, path = self._hash(name), directory.file(file)
        # Ranks that wait for each other must not skip stages on their own.
        if directory.finished(name, hashed) and ranks() == (0, 1):
            log.info("Stage '%s' is taken from an earlier run.", name)
            self.seconds[name] = directory.stages[name]["seconds"]
            return load(path)
        result = compute()
        self.seconds[name] = round(time.monotonic() - began, 3)
        save(path, result)
        directory.finish(name, hashed, self.seconds[name])
        return result

    def _bases(self) -> dict[str, Bases]:
        statistics = node_statistics(self.inputs.network, self.inputs.for_bases, self.progress)
        names = self.options.bases
        sparse = self.options.sparse(self.directory.partial if self.directory else None)
        found: dict[str, Bases] = {}
        # The sparse basis comes last, because it begins with LIB.
        try:
            for name in sorted(names, key=lambda name: name == "sparse"):
                method = basis_method(names[name], sparse, found.get("lib"))
                found[name] = method(
                    self.inputs.network,
                    statistics,
                    self.inputs.for_bases,
                    self.options.truncation,
                    self.progress,
                )
        finally:
            # Rotations that were half found are worth as much as a finished stage.
            if self.directory is not None and any(self.directory.partial.glob(CHECKPOINTS)):
                self.directory.keep()
        return {name: found[name] for name in names}

    def _refuse_empty(self, bases: Mapping[str, Bases]) -> None:
        for name, by_layer in bases.items():
            for layer, basis in by_layer.items():
                if len(basis) == basis.isolated:
                    raise NumericalError(
                        f"No direction at node layer '{layer}' is above the threshold "
                        f"{self.options.truncate} in the {name} basis: choose a smaller one, or "
                        "more samples."
                    )

    def _interactions(self, bases: Mapping[str, Bases]) -> Interactions:
        options = self.options
        return estimate_interactions(
            self.inputs.network,
            bases,
            self.inputs.train,
            Quadrature.parse(options.integration),
            options.signs,
            options.seed,
            self.progress,
        )

    def _ablation(self, name: str, bases: Bases, edges: Edges) -> Ablation:
        nodes = ablate_nodes(
            self.score_network,
            self.backend,
            bases,
            self.test,
            tolerances=self.options.tolerances,
            stage=f"node ablation, {name}",
            progress=self.progress,
        )
        pairs = ablate_edges(
            self.score_network,
            self.backend,
            bases,
            edges,
            self.test,
            tolerances=self.options.tolerances,
            curves=self.options.curves,
            stage=f"edge ablation, {name}",
            progress=self.progress,
        )
        return Ablation(nodes, pairs)

    def _graph(
        self, name: str, bases: Bases, edges: Edges, ablation: Ablation | None
    ) -> InteractionGraph:
        self.progress(f"modules, {name}", 0, 2)
        labels = self.backend.labels(lambda inputs: self._encode(bases, inputs), bases)
        layers = tuple(
            LayerFeatures(
                layer,
                basis.importance.cpu().numpy(),
                isolated=basis.isolated,
                rotated=basis.rotated,
                labels=tuple(labels[layer]) if layer in labels else None,
            )
            for layer, basis in bases.items()
        )
        found = ablation.edges if ablation is not None else {}
        epsilon = {pair: e.epsilon for pair, e in found.items() if e.epsilon is not None}
        matrices = {pair: matrix.cpu().numpy() for pair, matrix in edges.items()}
        graph = InteractionGraph(layers, matrices, epsilon)
        self.progress(f"modules, {name}", 1, 2)
        partition = find_communities(
            graph, self.options.resolution, self.options.seed, self.options.seeds
        )
        self.progress(f"modules, {name}", 2, 2)
        return graph.with_partition(partition)

    def _encode(self, bases: Bases, inputs: Tensor) -> dict[str, Tensor]:
        data, network = self.inputs.train, self.inputs.network
        if inputs.is_floating_point():
            inputs = inputs.to(data.dtype)
        with torch.no_grad():
            return {
                layer.name: x @ bases[layer.name].encoder.to(data.dtype)
                for layer, x in zip(
                    network.node_layers,
                    network.activations(inputs.to(self.options.device)),
                    strict=True,
                )
                if layer.rotated
            }

    # Results

    def _export(self, run: ComputedRun, directory: RunDirectory) -> None:
        self.progress("writing", 0, 1)
        run.metrics.write(directory.file("metrics.json"))
        # Bases that an earlier run of this name had are not part of this one.
        for old in (directory.file("ablation.json"), *directory.partial.glob(CHECKPOINTS)):
            old.unlink(missing_ok=True)
        for name, result in run.results.items():
            if result.ablation is not None:
                save_ablation(directory.file("ablation.json"), result.ablation, name)
        graph = run.graph()
        graph.write_graphml(directory.file("graph.graphml"))
        graph.write_json(directory.file("graph.json"))
        title = graph_title(self.backend.name, self.options.main)
        try:
            draw_graph(
                graph,
                directory.file("graph.png"),
                title=title,
                concept=self.backend.concept,
            )
        except UsageError as error:
            log.warning("graph.png was not drawn: %s", error)
        directory.complete(
            {
                **self.inputs.record(*self.measured_on),
                "options": self.options.model_dump(mode="json"),
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.began)),
                "seconds": self.seconds,
            }
        )
        self.progress("writing", 1, 1)
