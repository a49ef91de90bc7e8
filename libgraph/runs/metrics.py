"""The figures of a run: what `metrics.json` says, for people and for their scripts.

Features and edges needed, sparsity, curves, and modules: how many, how good, what is in each. The
same figures for a run that is being made and for one whose modules are found again later, so that
both read alike. The shape is versioned by `SCHEMA` and documented in docs/files.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from libgraph.backend.contract import Backend
from libgraph.edges.curves import area, required_features
from libgraph.edges.interactions import Edges
from libgraph.edges.sparsity import sparsity_measures
from libgraph.graph.arrays import FloatArray, Pair
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.agreement import agreement_with_concepts
from libgraph.modules.summary import module_table
from libgraph.network.basis import Bases
from libgraph.pipeline.options import AnalysisOptions
from libgraph.runs.run import Ablation, arrow


def module_metrics(graph: InteractionGraph, *, known: bool) -> dict[str, Any]:
    """Modules with what is in them, and the share of all their edge weight within one concept.

    Args:
        graph: with a partition.
        known: whether concepts are the true modules.
    """
    table = module_table(graph)
    weight = sum(module.weight for module in table if module.within_concept is not None)
    within = sum(module.weight * (module.within_concept or 0.0) for module in table)
    partition = graph.partition
    return {
        "count": len(table),
        "modularity": partition.modularity if partition else None,
        "agreement": partition.agreement if partition else None,
        "within_concept": within / weight if weight > 0 else None,
        "table": [asdict(module) for module in table],
        **_truth(graph, known),
    }


def partition_metrics(graph: InteractionGraph, basis: str, *, known: bool) -> dict[str, Any]:
    """Which feature is in which module, and how that was found.

    Args:
        graph: with a partition.
        basis: name of its basis.
        known: whether concepts are the true modules.
    """
    partition = graph.partition
    how = ("resolution", "seed", "seeds", "consensus", "modularity", "agreement")
    return {
        "basis": basis,
        **{name: getattr(partition, name) for name in how if partition},
        **_truth(graph, known),
        "partition": graph.communities,
    }


def _truth(graph: InteractionGraph, known: bool) -> dict[str, float | None]:
    """How well modules agree with those known to be there; nothing where none are."""
    return agreement_with_concepts(graph) if known else {}


SCHEMA = 1


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
