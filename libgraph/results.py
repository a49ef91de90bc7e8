"""The results of a run: what they are, how they are written and read, what is measured on them.

Tensors go to `bases.safetensors` (`lib/ln1.0/encoder`, …) and `edges.safetensors`
(`lib/ln1.0->ln2.0`, as `[out, in]`; where they are estimates also `lib/ln1.0->ln2.0/error`),
ablations to `ablation.json`, and the figures that people and scripts read to `metrics.json`, whose
shape is versioned by `SCHEMA`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from libgraph.ablation import EdgeAblation, area, required_features
from libgraph.backend import Backend
from libgraph.bases import Bases, Basis
from libgraph.features import FloatArray
from libgraph.files import write_json
from libgraph.graph import InteractionGraph, Pair
from libgraph.interactions import Edges, Interactions
from libgraph.module_metrics import module_metrics, partition_metrics
from libgraph.network import NodeLayer
from libgraph.report.metrics_tables import metrics_text
from libgraph.settings import AnalysisOptions
from libgraph.sparsity import sparsity_measures
from libgraph.store import read_json, read_tensors, write_tensors

SCHEMA = 1
PARTS = ("encoder", "decoder", "importance")
ERROR = "/error"


@dataclass(frozen=True)
class Ablation:
    """What ablation found for one basis.

    Args:
        nodes: score by number of features kept, by node layer.
        edges: by layer pair.
    """

    nodes: Mapping[str, Mapping[int, float]]
    edges: Mapping[Pair, EdgeAblation]


@dataclass(frozen=True)
class Run:
    """Results of an analysis.

    Args:
        backend: what was analysed.
        options: how.
        bases: by name of the basis and of the node layer.
        edges: by name of the basis and layer pair.
        errors: standard errors of the edges, in the same form; empty where edges are exact.
        ablation: by name of the basis; empty if there was none.
        graphs: by name of the basis, with modules and labels.
        metrics: what `metrics.json` holds.
        directory: where the results were written, if anywhere.
    """

    backend: Backend
    options: AnalysisOptions
    bases: Mapping[str, Bases]
    edges: Mapping[str, Edges]
    errors: Mapping[str, Edges]
    ablation: Mapping[str, Ablation]
    graphs: Mapping[str, InteractionGraph]
    metrics: Mapping[str, Any]
    directory: Path | None = None

    def __repr__(self) -> str:
        main, *beside = (name.upper() for name in self.options.bases)
        bases = f"{main} beside {', '.join(beside)}" if beside else main
        return f"<{type(self).__name__} of {self.backend!r}: {bases}>"

    def __str__(self) -> str:
        """The tables that `libgraph analyze` prints."""
        return metrics_text(self.metrics, self.backend.concept)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What a notebook shows of it."""
        printer.text(str(self))

    @property
    def graph(self) -> InteractionGraph:
        """The graph of the basis asked for."""
        return self.graphs[self.options.main]

    @property
    def sparsity(self) -> dict[str, dict[str, Any]]:
        """Edges required and measures of sparsity by layer pair, by basis."""
        return {
            name: {"edges_required": entry["edges_required"], **entry["sparsity"]}
            for name, entry in self.metrics["bases"].items()
        }


def arrow(pair: Pair) -> str:
    """A layer pair as it is written in files: `ln1.0->ln2.0`."""
    return "->".join(pair)


def save_bases(path: Path, bases: Mapping[str, Bases]) -> None:
    """Write encoders, decoders and importance of every basis and node layer."""
    tensors = {
        f"{name}/{layer}/{part}": getattr(basis, part)
        for name, by_layer in bases.items()
        for layer, basis in by_layer.items()
        for part in PARTS
    }
    write_tensors(path, tensors)


def load_bases(
    path: Path, names: Sequence[str], layers: Sequence[NodeLayer], device: str
) -> dict[str, Bases]:
    """Read what `save_bases` wrote for these node layers."""
    tensors = read_tensors(path, device)

    def basis(name: str, layer: NodeLayer) -> Basis:
        encoder, decoder, importance = (tensors[f"{name}/{layer.name}/{part}"] for part in PARTS)
        isolated = len(layer.isolated_coordinates)
        return Basis(encoder, decoder, importance, isolated, layer.rotated)

    return {name: {layer.name: basis(name, layer) for layer in layers} for name in names}


def save_interactions(path: Path, found: Interactions) -> None:
    """Write the interactions of every basis and layer pair, and their errors if there are any."""
    tensors: dict[str, Tensor] = {
        f"{name}/{arrow(pair)}{suffix}": matrix
        for matrices, suffix in ((found.edges, ""), (found.errors, ERROR))
        for name, by_pair in matrices.items()
        for pair, matrix in by_pair.items()
    }
    write_tensors(path, tensors)


def load_interactions(
    path: Path, names: Sequence[str], pairs: Sequence[Pair], device: str
) -> Interactions:
    """Read what `save_interactions` wrote for these layer pairs."""
    tensors = read_tensors(path, device)
    estimated = f"{names[0]}/{arrow(pairs[0])}{ERROR}" in tensors

    def matrices(suffix: str) -> dict[str, Edges]:
        return {
            name: {pair: tensors[f"{name}/{arrow(pair)}{suffix}"] for pair in pairs}
            for name in names
        }

    return Interactions(matrices(""), matrices(ERROR) if estimated else {})


def save_ablation(path: Path, ablation: Ablation, name: str) -> None:
    """Write one basis's ablations beside those of the others."""
    known = read_json(path) if path.is_file() else {}
    edges = {arrow(pair): asdict(found) for pair, found in ablation.edges.items()}
    write_json(path, {**known, name: {"nodes": ablation.nodes, "edges": edges}})


def load_ablation(path: Path, name: str, pairs: Sequence[Pair]) -> Ablation:
    """Read what `save_ablation` wrote; JSON has turned the numbers that are keys into strings."""
    known = read_json(path)[name]
    edges = {}
    for pair in pairs:
        found = known["edges"][arrow(pair)]
        score = {int(k): value for k, value in found["score"].items()}
        required = {float(delta): k for delta, k in found["required"].items()}
        edges[pair] = EdgeAblation(found["available"], score, required, found["epsilon"])
    nodes = {
        layer: {int(k): value for k, value in curve.items()}
        for layer, curve in known["nodes"].items()
    }
    return Ablation(nodes, edges)


def run_metrics(
    backend: Backend,
    options: AnalysisOptions,
    bases: Mapping[str, Bases],
    edges: Mapping[str, Edges],
    errors: Mapping[str, Edges],
    ablation: Mapping[str, Ablation],
    graphs: Mapping[str, InteractionGraph],
    checks: Mapping[str, Mapping[str, Any]],
    score: float,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """What `metrics.json` holds; documented in `docs/files.md`."""
    known = backend.modules_known
    return {
        "schema": SCHEMA,
        "backend": backend.name,
        "concept": backend.concept,
        "score": {
            "name": backend.score_name,
            "test": score,
            "higher_is_better": backend.higher_is_better,
        },
        "node_layers": list(bases[options.main]),
        "signs": options.signs,
        "bases": {
            name: _features(bases[name])
            | _required(ablation.get(name), backend, options, score)
            | {"standard_error": standard_error(bases[name], edges[name], errors.get(name, {}))}
            | {"sparsity": sparsity(bases[name], edges[name])}
            | {"sparsity_total": sparsity_in_total(bases[name], edges[name])}
            | _curves(ablation.get(name), bases[name], whole=options.curves)
            | {"modules": {**module_metrics(graphs[name], known=known), **checks[name]}}
            for name in options.bases
        },
        "modules": partition_metrics(graphs[options.main], options.main, known=known),
        "seconds": dict(seconds),
    }


def _features(bases: Bases) -> dict[str, Any]:
    return {"features": {layer: len(basis) for layer, basis in bases.items()}}


def _required(
    ablation: Ablation | None, backend: Backend, options: AnalysisOptions, score: float
) -> dict[str, Any]:
    """Features and edges that keep the score, by tolerance, and ε by layer pair."""
    nodes = ablation.nodes if ablation else {}
    edges = ablation.edges if ablation else {}
    return {
        "features_required": {
            layer: {
                str(delta): required_features(curve, score, delta, backend.higher_is_better)
                for delta in options.tolerances
            }
            for layer, curve in nodes.items()
        },
        "edges_required": {
            arrow(pair): {str(delta): k for delta, k in found.required.items()}
            for pair, found in edges.items()
        },
        "epsilon": {arrow(pair): found.epsilon for pair, found in edges.items()},
    }


def _curves(ablation: Ablation | None, bases: Bases, *, whole: bool) -> dict[str, Any]:
    """Scores by number of features and of edges kept, and the areas under these curves.

    No areas of edges where only those were tried that a bisection came by.
    """
    nodes = ablation.nodes if ablation else {}
    edges = {pair: found.score for pair, found in ablation.edges.items()} if ablation else {}
    sizes = {layer: len(basis.encoder) for layer, basis in bases.items()}
    return {
        "curves": {
            "nodes": {layer: _by_text(curve) for layer, curve in nodes.items()},
            "edges": {arrow(pair): _by_text(curve) for pair, curve in edges.items()},
        },
        "area": {
            "nodes": {layer: area(curve, sizes[layer]) for layer, curve in nodes.items()},
            "edges": {
                arrow((a, b)): area(curve, sizes[a] * sizes[b])
                for (a, b), curve in edges.items()
                if whole
            },
        },
    }


def _by_text(curve: Mapping[int, float]) -> dict[str, float]:
    return {str(kept): score for kept, score in curve.items()}


def sparsity(bases: Bases, edges: Edges) -> dict[str, dict[str, float] | None]:
    """Measures of each edge matrix without isolated features; None where all edges are zero.

    Features that were dropped count as features without edges: a basis that keeps more of them
    would look sparser otherwise.
    """
    whole = {pair: _whole(bases, pair, matrix) for pair, matrix in edges.items()}
    return {
        arrow(pair): sparsity_measures(matrix) if (matrix > 0).any() else None
        for pair, matrix in whole.items()
    }


def sparsity_in_total(bases: Bases, edges: Edges) -> dict[str, float] | None:
    """Measures of all edges together, those of each layer pair as shares of their sum.

    Otherwise the layer pair with the largest interactions would be all that counts, and how large
    they are depends on the units of the node layers.
    """
    whole = [_whole(bases, pair, matrix) for pair, matrix in edges.items()]
    shares = [(matrix / matrix.sum()).ravel() for matrix in whole if (matrix > 0).any()]
    return sparsity_measures(np.concatenate(shares)) if shares else None


def _whole(bases: Bases, pair: Pair, matrix: Tensor) -> FloatArray:
    """A matrix without isolated features, with zeros for those that were dropped."""
    inner = _inner(bases, pair, matrix).cpu().numpy()
    # A dictionary may have more features than there are coordinates.
    full = (len(bases[layer].encoder) - bases[layer].isolated for layer in reversed(pair))
    whole = np.zeros([max(one, other) for one, other in zip(full, inner.shape, strict=True)])
    whole[: inner.shape[0], : inner.shape[1]] = inner
    return whole


def standard_error(bases: Bases, edges: Edges, errors: Edges) -> dict[str, float | None]:
    """√Σ error² / √Σ E² of each edge matrix without isolated features; None where all are zero."""
    relative: dict[str, float | None] = {}
    for pair, error in errors.items():
        size = _inner(bases, pair, edges[pair]).norm()
        relative[arrow(pair)] = float(_inner(bases, pair, error).norm() / size) if size else None
    return relative


def _inner(bases: Bases, pair: Pair, matrix: Tensor) -> Tensor:
    """A matrix `[out, in]` without isolated features."""
    source, target = pair
    return matrix[bases[target].isolated :, bases[source].isolated :]
