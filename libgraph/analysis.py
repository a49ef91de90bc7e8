"""The pipeline: from a backend to bases, interactions, ablations, a graph and its modules.

Every basis asked for is computed and measured on the same data, side by side. With a run directory
each stage is written as soon as it is finished, under the hash of all that it depends on, and is
read back instead of computed where that hash is there already.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch import distributed as dist

from libgraph.ablation import EdgeAblation, ablate_edges, ablate_nodes, base_score
from libgraph.accumulate import Data, Progress, silent
from libgraph.backend import Backend, Options, parse_options
from libgraph.bases import METHODS, Bases, Basis, Truncation, node_statistics
from libgraph.communities import find_communities, module_table
from libgraph.errors import UsageError
from libgraph.features import LayerFeatures
from libgraph.files import write_json
from libgraph.graph import InteractionGraph
from libgraph.interactions import Edges, interactions
from libgraph.network import Network
from libgraph.quadrature import Quadrature
from libgraph.report.graph_picture import draw_graph
from libgraph.sparsity import sparsity_measures
from libgraph.store import RunDirectory, hash_of, read_json, read_tensors, write_tensors

log = logging.getLogger("libgraph")
Result = TypeVar("Result")

SCHEMA = 1
BASELINE = "pca"


class AnalysisOptions(Options):
    """Everything that decides what an analysis computes, beside the backend and its options."""

    basis: str = Field("lib", description="basis of the graph; PCA is measured beside it")
    integration: str = Field("gradient", description="quadrature of the interactions")
    truncate: str | None = Field(None, description="below which eigenvalue directions are dropped")
    resolution: float = Field(1.0, gt=0, description="γ of Leiden")
    seed: int = Field(0, ge=0, description="of Leiden")
    seeds: int = Field(10, ge=1, description="runs of Leiden, the best of which is kept")
    dtype: Literal["float32", "float64"] = Field("float64", description="of bases and edges")
    score_dtype: Literal["float32", "float64"] = Field("float32", description="of ablations")
    device: str = Field("cpu", description="where to compute")
    batch_size: int = Field(2048, ge=1, description="samples in a batch")
    limit: int | None = Field(None, description="first samples of each split to use")
    tolerances: tuple[float, ...] = Field((0.001,), min_length=1, description="Δ of the score")
    ablate: bool = Field(True, description="whether to run ablations")

    @field_validator("basis")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in METHODS:
            raise UsageError(f"Unknown basis '{name}': use {', '.join(METHODS)}.")
        return name

    @field_validator("limit")
    @classmethod
    def _some(cls, limit: int | None) -> int | None:
        if limit is not None and limit < 1:
            raise UsageError(f"A limit of {limit} leaves no samples: use at least 1.")
        return limit

    @field_validator("integration")
    @classmethod
    def _quadrature(cls, text: str) -> str:
        return Quadrature.parse(text).name

    @field_validator("truncate")
    @classmethod
    def _truncation(cls, text: str | None) -> str | None:
        return None if text is None else str(Truncation.parse(text))

    @field_validator("tolerances")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 <= value < float("inf") for value in values):
            raise UsageError("A tolerance Δ has to be zero or more.")
        return values

    @field_validator("device")
    @classmethod
    def _available(cls, name: str) -> str:
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise UsageError(f"Device '{name}' cannot be used ({reason}): try cpu.") from None
        return name

    @property
    def truncation(self) -> Truncation:
        """As given, or the default of the dtype."""
        if self.truncate is None:
            return Truncation.default(getattr(torch, self.dtype))
        return Truncation.parse(self.truncate)

    @property
    def bases(self) -> list[str]:
        """The basis asked for and the baseline."""
        return list(dict.fromkeys([self.basis, BASELINE]))


@dataclass(frozen=True)
class Ablation:
    """What ablation found for one basis.

    Args:
        nodes: score by number of features kept, by node layer.
        edges: by layer pair.
    """

    nodes: Mapping[str, Mapping[int, float]]
    edges: Mapping[tuple[str, str], EdgeAblation]


@dataclass(frozen=True)
class Run:
    """Results of an analysis.

    Args:
        backend: what was analysed.
        options: how.
        bases: by name of the basis and of the node layer.
        edges: by name of the basis and layer pair.
        ablation: by name of the basis; empty if there was none.
        graphs: by name of the basis, with modules and labels.
        metrics: what `metrics.json` holds.
        directory: where the results were written, if anywhere.
    """

    backend: Backend
    options: AnalysisOptions
    bases: Mapping[str, Bases]
    edges: Mapping[str, Edges]
    ablation: Mapping[str, Ablation]
    graphs: Mapping[str, InteractionGraph]
    metrics: Mapping[str, Any]
    directory: Path | None = None

    @property
    def graph(self) -> InteractionGraph:
        """The graph of the basis asked for."""
        return self.graphs[self.options.basis]

    @property
    def sparsity(self) -> dict[str, dict[str, Any]]:
        """Edges required and measures of sparsity, by basis."""
        return {
            name: {"edges_required": entry["edges_required"], **entry["sparsity"]}
            for name, entry in self.metrics["bases"].items()
        }


def analyze(
    backend: Backend,
    *,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> Run:
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
    parsed = parse_options(AnalysisOptions, options, "The analysis")
    first_rank = not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
    directory = RunDirectory(Path(out), force=force) if out is not None and first_rank else None
    pipeline = _Pipeline(backend, parsed, directory, progress)
    try:
        return pipeline.run()
    except BaseException:
        if directory is not None and directory.abandon():
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
        self.directory = directory
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self.began = time.time()

    def run(self) -> Run:
        """All stages in order."""
        bases = self._stage("bases", self._compute_bases, self._save_bases, self._load_bases)
        edges = self._stage(
            "interactions",
            lambda: self._compute_edges(bases),
            self._save_edges,
            self._load_edges,
        )
        ablation = {}
        for name in self.options.bases if self.options.ablate else ():
            ablation[name] = self._stage(
                f"ablation {name}",
                lambda name=name: self._compute_ablation(name, bases[name], edges[name]),
                lambda result, name=name: self._save_ablation(name, result),
                lambda name=name: self._load_ablation(name),
            )
        began = time.monotonic()
        graphs = {
            name: self._graph(name, bases[name], edges[name], ablation.get(name))
            for name in self.options.bases
        }
        self.seconds["graph"] = round(time.monotonic() - began, 3)
        run = Run(
            backend=self.backend,
            options=self.options,
            bases=bases,
            edges=edges,
            ablation=ablation,
            graphs=graphs,
            metrics=self._metrics(bases, edges, ablation, graphs),
            directory=self.directory.path if self.directory else None,
        )
        if self.directory is not None:
            self._export(run, self.directory)
        return run

    # What the stages work on

    @cached_property
    def network(self) -> Network:
        """For statistics, Jacobians and edges."""
        dtype = getattr(torch, self.options.dtype)
        return self.backend.network().to(device=self.options.device, dtype=dtype)

    @cached_property
    def score_network(self) -> Network:
        """For scores; cast from the stored precision, not from that of `network`."""
        dtype = getattr(torch, self.options.score_dtype)
        return self.backend.network().to(device=self.options.device, dtype=dtype)

    def data(self, split: Literal["train", "test"], dtype: str) -> Data:
        """A split, cut and placed as the options say."""
        return Data(
            self.backend,
            split,
            batch_size=self.options.batch_size,
            limit=self.options.limit,
            device=self.options.device,
            dtype=getattr(torch, dtype),
        )

    @cached_property
    def train(self) -> Data:
        """What bases and edges are computed on."""
        return self.data("train", self.options.dtype)

    @cached_property
    def test(self) -> Data:
        """What scores are computed on."""
        return self.data("test", self.options.score_dtype)

    @cached_property
    def test_score(self) -> float:
        """Score of the whole model."""
        return base_score(self.score_network, self.backend, self.test)

    @cached_property
    def data_hash(self) -> dict[str, str]:
        """SHA-256 of each split's inputs and targets, as far as they are used."""
        result = {}
        for data in (self.train, self.test):
            digest = hashlib.sha256()
            for batch in data:
                for tensor in batch:
                    digest.update(tensor.cpu().contiguous().numpy().tobytes())
            result[data.split] = digest.hexdigest()
        return result

    # Stages

    def _hash(self, stage: str) -> str:
        chosen = self.options.model_dump(
            include={"basis", "dtype", "device", "batch_size", "limit"}
        )
        parts: dict[str, Any] = {
            "libgraph": version("libgraph"),
            "torch": torch.__version__,
            "network": self.network.fingerprint(),
            "data": self.data_hash,
            "truncation": str(self.options.truncation),
            **chosen,
        }
        if stage != "bases":
            parts["integration"] = self.options.integration
        if stage.startswith("ablation"):
            parts |= self.options.model_dump(include={"score_dtype", "tolerances"})
        return hash_of(stage, parts)

    def _stage(
        self,
        name: str,
        compute: Callable[[], Result],
        save: Callable[[Result], None],
        load: Callable[[], Result],
    ) -> Result:
        began = time.monotonic()
        directory = self.directory
        # Ranks that wait for each other must not skip stages on their own.
        reuse = directory is not None and not (dist.is_available() and dist.is_initialized())
        hashed = self._hash(name) if directory is not None else ""
        if directory is not None and reuse and directory.finished(name, hashed):
            log.info("Stage '%s' is taken from '%s'.", name, directory.partial)
            self.seconds[name] = directory.stages[name]["seconds"]
            return load()
        result = compute()
        self.seconds[name] = round(time.monotonic() - began, 3)
        if directory is not None:
            save(result)
            directory.finish(name, hashed, self.seconds[name])
        return result

    def _compute_bases(self) -> dict[str, Bases]:
        statistics = node_statistics(self.network, self.train, self.progress)
        return {
            name: METHODS[name](
                self.network, statistics, self.train, self.options.truncation, self.progress
            )
            for name in self.options.bases
        }

    def _save_bases(self, bases: Mapping[str, Bases]) -> None:
        tensors = {
            f"{name}/{layer}/{part}": getattr(basis, part)
            for name, by_layer in bases.items()
            for layer, basis in by_layer.items()
            for part in ("encoder", "decoder", "importance")
        }
        write_tensors(self._file("bases.safetensors"), tensors)

    def _load_bases(self) -> dict[str, Bases]:
        tensors = self._read_tensors("bases.safetensors")
        return {
            name: {
                layer.name: Basis(
                    *(
                        tensors[f"{name}/{layer.name}/{part}"]
                        for part in ("encoder", "decoder", "importance")
                    ),
                    isolated=len(layer.isolated_coordinates),
                    rotated=layer.rotated,
                )
                for layer in self.network.node_layers
            }
            for name in self.options.bases
        }

    def _compute_edges(self, bases: Mapping[str, Bases]) -> dict[str, Edges]:
        quadrature = Quadrature.parse(self.options.integration)
        return interactions(self.network, bases, self.train, quadrature, self.progress)

    def _save_edges(self, edges: Mapping[str, Edges]) -> None:
        tensors = {
            f"{name}/{_arrow(pair)}": matrix
            for name, by_pair in edges.items()
            for pair, matrix in by_pair.items()
        }
        write_tensors(self._file("edges.safetensors"), tensors)

    def _load_edges(self) -> dict[str, Edges]:
        tensors = self._read_tensors("edges.safetensors")
        return {
            name: {pair: tensors[f"{name}/{_arrow(pair)}"] for pair in self._pairs()}
            for name in self.options.bases
        }

    def _compute_ablation(self, name: str, bases: Bases, edges: Edges) -> Ablation:
        nodes = ablate_nodes(
            self.score_network,
            self.backend,
            bases,
            self.test,
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
            stage=f"edge ablation, {name}",
            progress=self.progress,
        )
        return Ablation(nodes, pairs)

    def _save_ablation(self, name: str, ablation: Ablation) -> None:
        path = self._file("ablation.json")
        known = read_json(path) if path.is_file() else {}
        known[name] = {
            "nodes": ablation.nodes,
            "edges": {
                _arrow(pair): {
                    "available": found.available,
                    "score": found.score,
                    "required": {str(delta): k for delta, k in found.required.items()},
                    "epsilon": found.epsilon,
                }
                for pair, found in ablation.edges.items()
            },
        }
        write_json(path, known)

    def _load_ablation(self, name: str) -> Ablation:
        known = read_json(self._file("ablation.json"))[name]
        edges = {}
        for pair in self._pairs():
            found = known["edges"][_arrow(pair)]
            edges[pair] = EdgeAblation(
                found["available"],
                {int(k): score for k, score in found["score"].items()},
                {float(delta): k for delta, k in found["required"].items()},
                found["epsilon"],
            )
        nodes = {
            layer: {int(k): score for k, score in curve.items()}
            for layer, curve in known["nodes"].items()
        }
        return Ablation(nodes, edges)

    def _graph(
        self, name: str, bases: Bases, edges: Edges, ablation: Ablation | None
    ) -> InteractionGraph:
        self.progress(f"modules, {name}", 0, 2)
        labels = self.backend.labels(lambda inputs: self._encode(bases, inputs))
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
        data, network = self.train, self.network
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

    def _metrics(
        self,
        bases: Mapping[str, Bases],
        edges: Mapping[str, Edges],
        ablation: Mapping[str, Ablation],
        graphs: Mapping[str, InteractionGraph],
    ) -> dict[str, Any]:
        main = graphs[self.options.basis]
        assert main.partition is not None
        return {
            "schema": SCHEMA,
            "backend": self.backend.name,
            "score": {"name": self.backend.score_name, "test": self.test_score},
            "node_layers": [layer.name for layer in self.network.node_layers],
            "bases": {
                name: _basis_metrics(bases[name], edges[name], ablation.get(name), graphs[name])
                for name in self.options.bases
            },
            "modules": {
                "basis": self.options.basis,
                "resolution": main.partition.resolution,
                "modularity": main.partition.modularity,
                "agreement": main.partition.agreement,
                "partition": main.communities,
            },
            "seconds": self.seconds,
        }

    def _export(self, run: Run, directory: RunDirectory) -> None:
        self.progress("writing", 0, 1)
        write_json(directory.file("metrics.json"), run.metrics)
        run.graph.write_graphml(directory.file("graph.graphml"))
        run.graph.write_json(directory.file("graph.json"))
        title = f"{self.backend.name}: interactions in the {self.options.basis.upper()} basis"
        try:
            draw_graph(run.graph, directory.file("graph.png"), title=title)
        except UsageError as error:
            log.warning("graph.png was not drawn: %s", error)
        directory.complete(
            {
                "backend": self.backend.name,
                "backend_options": self.backend.options.model_dump(mode="json"),
                "options": self.options.model_dump(mode="json")
                | {"truncate": str(self.options.truncation)},
                "versions": {
                    "libgraph": version("libgraph"),
                    "torch": torch.__version__,
                    "igraph": version("igraph"),
                    "leidenalg": version("leidenalg"),
                    "python": platform.python_version(),
                },
                "network": self.network.fingerprint(),
                "data": self.data_hash,
                "threads": torch.get_num_threads(),
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.began)),
                "seconds": self.seconds,
            }
        )
        self.progress("writing", 1, 1)

    def _pairs(self) -> list[tuple[str, str]]:
        return [(a.name, b.name) for a, b, _ in self.network.pairs]

    def _file(self, name: str) -> Path:
        assert self.directory is not None
        return self.directory.file(name)

    def _read_tensors(self, name: str) -> dict[str, Tensor]:
        tensors = read_tensors(self._file(name))
        return {key: value.to(self.options.device) for key, value in tensors.items()}


def _basis_metrics(
    bases: Bases, edges: Edges, ablation: Ablation | None, graph: InteractionGraph
) -> dict[str, Any]:
    assert graph.partition is not None
    sparsity = {}
    for (a, b), matrix in edges.items():
        inner = matrix[bases[b].isolated :, bases[a].isolated :].cpu().numpy()
        sparsity[_arrow((a, b))] = sparsity_measures(inner) if (inner > 0).any() else None
    found = ablation.edges if ablation is not None else {}
    return {
        "features": {layer: len(basis) for layer, basis in bases.items()},
        "edges_required": {
            _arrow(pair): {str(delta): k for delta, k in each.required.items()}
            for pair, each in found.items()
        },
        "epsilon": {_arrow(pair): each.epsilon for pair, each in found.items()},
        "sparsity": sparsity,
        "modules": {
            "count": graph.partition.size,
            "modularity": graph.partition.modularity,
            "agreement": graph.partition.agreement,
            "table": [
                {
                    "module": module.index,
                    "size": module.size,
                    "features": dict(module.features),
                    "weight": module.weight,
                    "concept": module.concept,
                    "concept_share": module.concept_share,
                    "within_concept": module.within_concept,
                }
                for module in module_table(graph)
            ],
        },
    }


def _arrow(pair: tuple[str, str]) -> str:
    return f"{pair[0]}->{pair[1]}"
