"""What the graph of one input is going to take: nodes, memory and time, before it is made."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from libgraph.interventions.input_path import AUTO
from libgraph.interventions.prompt import MOST_NODES, explained_classes
from libgraph.interventions.subject import Subject
from libgraph.sections.quadrature import Quadrature


class ExpectedLayer(NamedTuple):
    """A node layer of one input: how much there is, and how much is looked at."""

    name: str
    positions: int
    features: int
    nodes: int


@dataclass(frozen=True)
class Expected:
    """What the graph of one input is going to take, at most.

    Args:
        layers: node layers.
        bytes: of all edges and the parts of them through patterns.
        seconds: measured on a few nodes of every section.
    """

    layers: tuple[ExpectedLayer, ...]
    bytes: int
    seconds: float


PROBED = 64
"""Source nodes that are measured of each section."""


def expected(
    subject: Subject,
    inputs: Tensor,
    integration: str,
    most_nodes: int = MOST_NODES,
    classes: Sequence[int] | int = 5,
) -> Expected:
    """Nodes, memory and time of `prompt_graph`, at most: as if no node had nothing to say.

    Raises:
        UsageError: if there is no such rule or class.
    """
    quadrature = Quadrature.parse("gauss-legendre:16" if integration == AUTO else integration)
    layers = []
    seconds = 0.0
    with torch.no_grad():
        activations = list(subject.network.activations(inputs))
        explained_classes(subject.logits(activations[-1])[0, -1], classes)
        for name, x in zip(subject.layers, activations, strict=True):
            features = len(subject.cast[name])
            nodes = min(most_nodes, features * x.shape[1])
            layers.append(ExpectedLayer(name, x.shape[1], features, nodes))
        for (a, _, section), x, layer in zip(
            subject.network.pairs, activations[:-1], layers[:-1], strict=True
        ):
            reach = section.reach(torch.zeros_like(x), x, quadrature)
            step = subject.cast[a.name].decoder[:1]
            # Libraries get ready at the first call.
            reach(torch.zeros(1, dtype=torch.int64, device=x.device), step)
            probed = min(PROBED, layer.nodes)
            began = time.perf_counter()
            reach(torch.zeros(probed, dtype=torch.int64, device=x.device), step.repeat(probed, 1))
            took = (time.perf_counter() - began) / probed
            # A positionwise section meets one position at a time.
            seconds += took * layer.nodes / (x.shape[1] if section.positionwise else 1)
    edges = sum(a.nodes * b.nodes for a, b in pairwise(layers))
    return Expected(tuple(layers), 3 * edges * activations[0].element_size(), seconds)
