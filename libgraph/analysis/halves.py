"""Modules of two halves of the data: would other samples give the same?

The interactions of even and of odd samples, in the same bases and at the same ε, and how alike the
modules are that they give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from libgraph.backend.data import Data
from libgraph.edges.interactions import Edges, Interactions, interactions
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.agreement import mean_agreement
from libgraph.modules.communities import find_communities
from libgraph.network.basis import Bases
from libgraph.network.network import Network
from libgraph.pipeline.options import AnalysisOptions
from libgraph.progress import Progress, renamed
from libgraph.sections.quadrature import Quadrature

HALVES = ("even", "odd")
"""Samples that the modules of two halves come from."""


def interactions_of_halves(
    network: Network,
    bases: Mapping[str, Bases],
    data: Data,
    integration: str,
    progress: Progress,
) -> Interactions:
    """Interactions in the same bases on even samples and on odd ones: `lib even`, `lib odd`, …"""
    edges: dict[str, Edges] = {}
    for number, half in enumerate(HALVES):
        of_half = interactions(
            network,
            bases,
            replace(data, part=(number, len(HALVES))),
            Quadrature.parse(integration),
            renamed(progress, f"interactions, {half} samples"),
        )
        edges |= {f"{name} {half}": by_pair for name, by_pair in of_half.items()}
    return Interactions(edges, {})


def halves_agree(
    graph: InteractionGraph, halves: Sequence[Edges], options: AnalysisOptions
) -> float:
    """Adjusted mutual information of the modules that edges of either half give, at the same ε."""
    partitions = [
        find_communities(
            replace(graph, edges={pair: matrix.cpu().numpy() for pair, matrix in edges.items()}),
            options.resolution,
            options.seed,
            options.seeds,
            options.objective,
        )
        for edges in halves
    ]
    return mean_agreement([np.concatenate([*p.membership.values()]) for p in partitions])
