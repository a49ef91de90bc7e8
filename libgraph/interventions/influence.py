"""Influence: which nodes and edges of one input's graph make up most of what its outputs are.

The weight of an edge is |R| as a share of all that comes in at its target, the rest included.
Outputs count by their probabilities; the influence of a node is what flows from it to them along
all paths. Node layers follow each other, so that one product a layer pair does what the inverse
(1 − A)⁻¹ does for any graph without circles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.errors import UsageError
from libgraph.graph.arrays import Pair
from libgraph.interventions.nodes import Attributions
from libgraph.interventions.prompt import PromptGraph


@dataclass(frozen=True)
class Pruned:
    """The part of a graph that explains a stated share, and which edges of it do.

    Args:
        graph: nodes that were kept, and all edges between them.
        kept: by layer pair, which edges were kept `(m_out, m_in)`.
        weights: share of what comes in at its target, of every edge of the graph likewise.
    """

    graph: PromptGraph
    kept: dict[Pair, Tensor]
    weights: dict[Pair, Tensor]


def shares(edges: Attributions) -> Float[Tensor, "o i"]:
    """|R| of each edge as a share of all that comes in at its target."""
    size = edges.effects.abs().double()
    total = size.sum(1) + edges.rest.abs() + edges.error.abs()
    return size / total.clamp(min=1e-300)[:, None]


def with_influence(graph: PromptGraph) -> PromptGraph:
    """The graph, each node with its share of what the outputs are made of."""
    layers = list(graph.layers)
    last = layers[-1].influence.double()
    layers[-1] = replace(layers[-1], influence=last / last.sum().clamp(min=1e-300))
    for place in range(len(layers) - 2, -1, -1):
        pair = layers[place].layer, layers[place + 1].layer
        influence = layers[place + 1].influence @ shares(graph.edges[pair])
        layers[place] = replace(layers[place], influence=influence)
    return replace(graph, layers=tuple(layers))


def prune(graph: PromptGraph, nodes: float = 0.8, edges: float = 0.95) -> Pruned:
    """Keep nodes, then edges, that explain these shares of the influence there is.

    Of every node layer the nodes with most influence are kept until they have this share of that
    of all nodes of the layer, and of every layer pair the edges that carry this share between
    them; outputs stay.

    Raises:
        UsageError: if a share is not above 0 and at most 1.
    """
    for share in (nodes, edges):
        if not 0 < share <= 1:
            raise UsageError(f"A share of {share} cannot be kept: use more than 0, at most 1.")
    graph = with_influence(graph)
    chosen = [_largest(layer.influence, nodes) for layer in graph.layers[:-1]]
    chosen.append(torch.arange(len(graph.layers[-1])))
    layers = tuple(layer.of(kept) for layer, kept in zip(graph.layers, chosen, strict=True))
    attributions, kept, weights = {}, {}, {}
    for place, (pair, found) in enumerate(graph.edges.items()):
        source, target = chosen[place], chosen[place + 1]
        weight = shares(found)[target][:, source]
        attributions[pair] = _between(found, source, target)
        weights[pair] = weight
        carried = (weight * layers[place + 1].influence[:, None]).flatten()
        mask = torch.zeros_like(carried, dtype=torch.bool)
        mask[_largest(carried, edges)] = True
        kept[pair] = mask.view_as(weight) & (weight > 0)
    return Pruned(replace(graph, layers=layers, edges=attributions), kept, weights)


def _largest(values: Float[Tensor, " m"], share: float) -> Tensor:
    """Places of the largest values that make up this share of the sum, the largest first."""
    order = values.argsort(descending=True, stable=True)
    reached = values[order].cumsum(0) / values.sum().clamp(min=1e-300)
    # Rounding must not leave the last one out.
    return order[: int((reached < share * (1 - 1e-12)).sum()) + 1]


def _between(edges: Attributions, source: Tensor, target: Tensor) -> Attributions:
    """Edges between some of the nodes; what the others add is part of the rest."""
    effects = edges.effects[target][:, source]
    rest = edges.rest[target] + edges.effects[target].sum(1) - effects.sum(1)
    pattern = None if edges.pattern is None else edges.pattern[target][:, source]
    return Attributions(effects, pattern, rest, edges.error[target])
