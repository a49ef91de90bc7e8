"""What `metrics.json` says of results: features and edges needed, sparsity, curves, modules.

The same figures for a run that is being made and for one whose modules are found again later, so
that both read alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
from torch import Tensor

from libgraph.backend.contract import Backend
from libgraph.edges.curves import area, required_features
from libgraph.edges.interactions import Edges
from libgraph.edges.reconstruction import Reconstructions, through_errors
from libgraph.edges.sparsity import sparsity_measures
from libgraph.errors import UsageError
from libgraph.graph.arrays import FloatArray, Pair
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.partition import Partition
from libgraph.modules.agreement import agreement_with_concepts
from libgraph.modules.summary import module_table
from libgraph.network.basis import Bases
from libgraph.pipeline.options import AnalysisOptions
from libgraph.runs.computed_run import BasisResult
from libgraph.runs.metrics import (
    SCHEMA,
    AreaFigures,
    BasisFigures,
    CurveFigures,
    DictionariesFigures,
    LayerDictionaryFigures,
    Metrics,
    ModulesFigures,
    PartitionFigures,
    Required,
    ScoreFigures,
    SparsityFigures,
)
from libgraph.runs.run import Ablation, arrow


def run_metrics(
    backend: Backend,
    options: AnalysisOptions,
    results: Mapping[str, BasisResult],
    score: float,
    seconds: Mapping[str, float],
) -> Metrics:
    """What `metrics.json` holds.

    Args:
        backend: what was analysed.
        options: how.
        results: by name of the basis.
        score: of the whole model on the test split.
        seconds: by stage.
    """
    main = results[options.main]
    return Metrics(
        schema=SCHEMA,
        backend=backend.name,
        concept=backend.concept,
        score=ScoreFigures(
            name=backend.score_name, test=score, higher_is_better=backend.higher_is_better
        ),
        node_layers=tuple(main.bases),
        signs=options.signs,
        bases={
            name: _basis_figures(results[name], backend, options, score) for name in options.bases
        },
        modules=partition_metrics(main.graph, options.main, modules_known=backend.modules_known),
        seconds=dict(seconds),
    )


def module_metrics(graph: InteractionGraph, *, modules_known: bool) -> ModulesFigures:
    """Modules with what is in them, and the share of all their edge weight within one concept.

    Args:
        graph: with a partition.
        modules_known: whether concepts are the true modules.

    Raises:
        UsageError: if the graph has no partition.
    """
    table = module_table(graph)
    weight = sum(module.weight for module in table if module.within_concept is not None)
    within = sum(module.weight * (module.within_concept or 0.0) for module in table)
    partition = _partition(graph)
    return ModulesFigures(
        count=len(table),
        modularity=partition.modularity,
        agreement=partition.agreement,
        within_concept=within / weight if weight > 0 else None,
        table=tuple(table),
    ).model_copy(update=_truth(graph, modules_known))


def partition_metrics(
    graph: InteractionGraph, basis: str, *, modules_known: bool
) -> PartitionFigures:
    """Which feature is in which module, and how that was found.

    Args:
        graph: with a partition.
        basis: name of its basis.
        modules_known: whether concepts are the true modules.

    Raises:
        UsageError: if the graph has no partition.
    """
    partition = _partition(graph)
    return PartitionFigures(
        basis=basis,
        resolution=partition.resolution,
        seed=partition.seed,
        seeds=partition.seeds,
        consensus=partition.consensus,
        objective=partition.objective,
        modularity=partition.modularity,
        agreement=partition.agreement,
        partition=graph.communities,
    ).model_copy(update=_truth(graph, modules_known))


def _partition(graph: InteractionGraph) -> Partition:
    if graph.partition is None:
        raise UsageError(
            "This graph has no modules yet: attach find_communities(graph) by with_partition."
        )
    return graph.partition


def _truth(graph: InteractionGraph, modules_known: bool) -> dict[str, float | None]:
    """How well modules agree with those known to be there; nothing where none are."""
    return agreement_with_concepts(graph) if modules_known else {}


def _basis_figures(
    result: BasisResult, backend: Backend, options: AnalysisOptions, score: float
) -> BasisFigures:
    """All that was measured in one basis."""
    ablation = result.ablation or Ablation({}, {})
    modules = module_metrics(result.graph, modules_known=backend.modules_known)
    checks = {"halves": result.halves, "significance": result.significance}
    figures = BasisFigures(
        features={layer: len(basis) for layer, basis in result.bases.items()},
        features_required=_features_required(ablation, backend, options.tolerances, score),
        edges_required={
            arrow(pair): dict(edges.required) for pair, edges in ablation.edges.items()
        },
        epsilon={arrow(pair): edges.epsilon for pair, edges in ablation.edges.items()},
        standard_error=standard_error(result.bases, result.edges, result.errors),
        sparsity=sparsity(result.bases, result.edges),
        sparsity_total=sparsity_in_total(result.bases, result.edges),
        curves=CurveFigures(
            nodes={layer: dict(curve) for layer, curve in ablation.nodes.items()},
            edges={arrow(pair): dict(edges.score) for pair, edges in ablation.edges.items()},
        ),
        area=_areas(ablation, result.bases, curves=options.curves),
        modules=modules.model_copy(
            update={name: value for name, value in checks.items() if value is not None}
        ),
    )
    if result.kept is None:
        return figures
    return figures.model_copy(update={"dictionaries": _dictionaries(result, result.kept)})


def _dictionaries(result: BasisResult, kept: Reconstructions) -> DictionariesFigures:
    """What latents keep, and what runs through their errors."""
    errors = through_errors(result.bases, result.edges)
    return DictionariesFigures(
        layers={
            layer: LayerDictionaryFigures(**asdict(found)) for layer, found in kept.layers.items()
        },
        **asdict(kept.together),
        missed={arrow(pair): value for pair, value in result.missed.items()},
        through_errors={arrow(pair): value for pair, value in errors.items()},
    )


def _features_required(
    ablation: Ablation, backend: Backend, tolerances: Sequence[float], score: float
) -> dict[str, Required]:
    """Features that keep the score, by node layer and tolerance."""
    return {
        layer: {
            delta: required_features(curve, score, delta, backend.higher_is_better)
            for delta in tolerances
        }
        for layer, curve in ablation.nodes.items()
    }


def _areas(ablation: Ablation, bases: Bases, *, curves: bool) -> AreaFigures:
    """Areas under the curves; none of edges where only those were tried that a bisection took."""
    sizes = {layer: len(basis.encoder) for layer, basis in bases.items()}
    return AreaFigures(
        nodes={layer: area(curve, sizes[layer]) for layer, curve in ablation.nodes.items()},
        edges={
            arrow((source, target)): area(edges.score, sizes[source] * sizes[target])
            for (source, target), edges in ablation.edges.items()
            if curves
        },
    )


def sparsity(bases: Bases, edges: Edges) -> dict[str, SparsityFigures | None]:
    """Measures of each edge matrix without isolated features; None where all edges are zero.

    Features that were dropped count as features without edges: a basis that keeps more of them
    would look sparser otherwise.
    """
    matrices = {pair: _padded(bases, pair, matrix) for pair, matrix in edges.items()}
    return {
        arrow(pair): SparsityFigures(**sparsity_measures(matrix)) if (matrix > 0).any() else None
        for pair, matrix in matrices.items()
    }


def sparsity_in_total(bases: Bases, edges: Edges) -> SparsityFigures | None:
    """Measures of all edges together, those of each layer pair as shares of their sum.

    Otherwise the layer pair with the largest interactions would be all that counts, and how large
    they are depends on the units of the node layers.
    """
    matrices = [_padded(bases, pair, matrix) for pair, matrix in edges.items()]
    shares = [(matrix / matrix.sum()).ravel() for matrix in matrices if (matrix > 0).any()]
    return SparsityFigures(**sparsity_measures(np.concatenate(shares))) if shares else None


def _padded(bases: Bases, pair: Pair, matrix: Tensor) -> FloatArray:
    """A matrix without isolated features, with zeros for those that were dropped."""
    inner = _inner(bases, pair, matrix).cpu().numpy()
    # A dictionary may have more features than there are coordinates.
    full = (len(bases[layer].encoder) - bases[layer].isolated for layer in reversed(pair))
    padded = np.zeros([max(sizes) for sizes in zip(full, inner.shape, strict=True)])
    padded[: inner.shape[0], : inner.shape[1]] = inner
    return padded


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
