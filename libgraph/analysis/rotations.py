"""A null model of networks: every section reads its node layer through a random rotation.

A rotation O before each section but the first, y = section(x O), leaves the section the map it is;
lost is which of the directions that one section writes the next one reads. Independent normal
weights do not know their coordinates, so such a network and its rotations are exchangeable, with
residual streams or without, in any basis, and p is even. Source: ours; docs/significance.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from libgraph.accumulate.halfway import remembered
from libgraph.accumulate.ranks import ranks, shared_out
from libgraph.backend.data import Data
from libgraph.bases.method import Setting, Truncation
from libgraph.bases.methods import basis_method
from libgraph.bases.random_basis import random_rotation
from libgraph.bases.statistics import node_statistics
from libgraph.edges.graph_of import graph_of
from libgraph.edges.interactions import interactions
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.null_models import NullModel
from libgraph.modules.significance import Significance, significance
from libgraph.network.network import Network
from libgraph.pipeline.options import AnalysisOptions
from libgraph.progress import Progress, silent
from libgraph.sections.quadrature import Quadrature

DRAWN_SAMPLES = 500
"""Samples on which networks and their rotations are compared; each draw makes bases anew."""


def against_rotations(
    network: Network, data: Data, options: AnalysisOptions, progress: Progress
) -> Significance:
    """The modularity in the basis of the graph against that of rotated networks.

    On the first `DRAWN_SAMPLES` samples and without ε; docs/significance.md says why.
    """
    samples = min(data.limit or DRAWN_SAMPLES, DRAWN_SAMPLES)
    graph, rotated = rotated_networks(
        network,
        replace(data, limit=samples, batch_size=min(data.batch_size, samples)),
        options.basis,
        options.truncation,
        Quadrature.parse(options.integration),
        options.model_dump(include=set(basis_method(options.basis).reads)),
    )
    return significance(
        graph,
        rotated,
        draws=options.draws,
        resolution=options.resolution,
        seed=options.seed,
        objective=options.objective,
        remember=remembered,
        together=ranks()[1],
        take_turns=shared_out,
        progress=progress,
    )


def rotated_networks(
    network: Network,
    data: Data,
    basis: str = "lib",
    truncation: Truncation | None = None,
    quadrature: Quadrature | None = None,
    options: Mapping[str, object] | None = None,
) -> tuple[InteractionGraph, NullModel]:
    """The graph of a network on some data, and the null model of its rotations on the same data.

    Args:
        network: what is rotated, in the dtype of the data.
        data: hundreds of samples will do; graph and draws are computed on the same ones.
        basis: one of `METHODS`.
        truncation: of bases, by default rel:1e-10.
        quadrature: of interactions, by default the gradient.
        options: those that the basis reads, by name; by default as they are by default.
    """
    truncation = truncation or Truncation.parse("rel:1e-10")
    quadrature = quadrature or Quadrature.parse("gradient")

    make = basis_method(basis).prepared(Setting(options or {}))

    def measured(network: Network) -> InteractionGraph:
        statistics = node_statistics(network, data)
        bases = make(network, statistics, data, truncation, silent)
        return graph_of(bases, interactions(network, {basis: bases}, data, quadrature)[basis])

    with torch.no_grad():
        return measured(network), _Rotated(network, measured)


@dataclass(frozen=True)
class _Rotated:
    """The null model: a network's rotations, and what measures the graph of each."""

    __name__ = "rotated"

    network: Network
    measured: Callable[[Network], InteractionGraph]

    def __call__(self, graph: InteractionGraph, rng: np.random.Generator) -> InteractionGraph:
        """The graph of one rotated network."""
        return self.drawn(graph, rng)()

    def drawn(
        self, graph: InteractionGraph, rng: np.random.Generator
    ) -> Callable[[], InteractionGraph]:
        """What measures it."""
        rotations = random_rotations(self.network, rng)

        def measure() -> InteractionGraph:
            with torch.no_grad():
                return self.measured(rotated(self.network, rotations))

        return measure


def rotate(network: Network, rng: np.random.Generator) -> Network:
    """The network with a random rotation before every section but the first.

    Isolated coordinates, the constant among them, stay as they are.
    """
    return rotated(network, random_rotations(network, rng))


def random_rotations(network: Network, rng: np.random.Generator) -> list[np.ndarray]:
    """One for every section but the first."""
    rotations = []
    for layer, _, _ in network.pairs[1:]:
        isolated = set(layer.isolated_coordinates)
        free = [index for index in range(layer.size) if index not in isolated]
        rotation = np.eye(layer.size)
        rotation[np.ix_(free, free)] = random_rotation(len(free), rng)
        rotations.append(rotation)
    return rotations


def rotated(network: Network, rotations: Sequence[np.ndarray]) -> Network:
    """The network with a rotation before every section but the first."""
    first, *rest = network.sections
    sections = [
        section.rebase(decoder=_like(section)(rotation))
        for section, rotation in zip(rest, rotations, strict=True)
    ]
    return Network(network.embed, [first, *sections], network.node_layers)


def _like(section: torch.nn.Module) -> Callable[[np.ndarray], Tensor]:
    """To a tensor of the section's dtype and device."""
    like = next(iter(section.state_dict().values()), torch.zeros(0, dtype=torch.float64))
    return lambda array: torch.as_tensor(array).to(like)
