"""What tells the modules of an analysis from chance: two halves of the data, rotated networks.

Modules that other samples would not give, or that a network has which reads its node layers through
random rotations, are not to be relied on. Both checks cost more interactions, and are made where
they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from libgraph.accumulate import Data, Progress
from libgraph.agreement import mean_agreement
from libgraph.bases import Bases
from libgraph.communities import find_communities
from libgraph.graph import InteractionGraph
from libgraph.interactions import Edges, Interactions, interactions
from libgraph.network import Network
from libgraph.quadrature import Quadrature
from libgraph.rotated_networks import rotated_networks
from libgraph.settings import AnalysisOptions
from libgraph.significance import significance

HALVES = ("even", "odd")
"""Samples that the modules of two halves come from."""

DRAWN_SAMPLES = 500
"""Samples on which networks and their rotations are compared; each draw makes bases anew."""


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
        found = interactions(
            network,
            bases,
            replace(data, part=(number, len(HALVES))),
            Quadrature.parse(integration),
            partial(_renamed, progress, f"interactions, {half} samples"),
        )
        edges |= {f"{name} {half}": by_pair for name, by_pair in found.items()}
    return Interactions(edges, {})


def halves_agree(
    graph: InteractionGraph, halves: Sequence[Edges], options: AnalysisOptions
) -> float:
    """Adjusted mutual information of the modules that edges of either half give, at the same ε."""
    found = [
        find_communities(
            replace(graph, edges={pair: each.cpu().numpy() for pair, each in edges.items()}),
            options.resolution,
            options.seed,
            options.seeds,
        )
        for edges in halves
    ]
    return mean_agreement([np.concatenate([*each.membership.values()]) for each in found])


def against_rotations(
    network: Network, data: Data, options: AnalysisOptions, progress: Progress
) -> dict[str, Any]:
    """The modularity in the basis of the graph against that of rotated networks.

    On the first `DRAWN_SAMPLES` samples and without ε; docs/significance.md says why.
    """
    few = min(data.limit or DRAWN_SAMPLES, DRAWN_SAMPLES)
    graph, rotated = rotated_networks(
        network,
        replace(data, limit=few, batch_size=min(data.batch_size, few)),
        options.basis,
        options.truncation,
        Quadrature.parse(options.integration),
        options.sparse(None),
    )
    found = significance(
        graph,
        rotated,
        draws=options.draws,
        resolution=options.resolution,
        seed=options.seed,
        progress=progress,
    )
    return asdict(found)


def _renamed(
    progress: Progress, stage: str, _: str, done: int, total: int | None, note: str = ""
) -> None:
    """Progress under another name."""
    progress(stage, done, total, note)
