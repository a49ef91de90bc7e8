"""Edges through attention patterns, head by head: which head was made to look there.

The part of an edge that moves attention is a sum over heads: that of one is what is left when the
patterns of all others are held and what goes through values is taken away.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.errors import UsageError
from libgraph.graph.arrays import Pair
from libgraph.interventions.input_path import AUTO, Baseline, InputPath
from libgraph.interventions.nodes import Nodes
from libgraph.interventions.subject import Subject
from libgraph.sections.holding import heads_of, patterns_held

Node = tuple[int, int]
"""Position and feature."""


def effects_by_head(
    subject: Subject,
    inputs: Tensor,
    pair: Pair,
    edges: Sequence[tuple[Node, Node]],
    *,
    integration: str = AUTO,
    baseline: Baseline = "mean",
) -> Float[Tensor, "e h"]:
    """What each edge adds by moving the pattern of each head.

    Args:
        subject: network and features.
        inputs: raw inputs of one sample.
        pair: neighbouring node layers.
        edges: source and target of each.
        integration: as of the graph that the edges are of.
        baseline: likewise.

    Raises:
        UsageError: if nothing attends between the node layers.
    """
    place = subject.layers.index(pair[0])
    section = subject.network.sections[place]
    heads = heads_of(section)
    if not heads:
        raise UsageError(f"Nothing attends between {pair[0]} and {pair[1]}.")
    path = InputPath(subject, inputs, integration, baseline)
    source, target = (subject.cast[layer] for layer in pair)
    with torch.no_grad():
        x, start = path.x[place], path.start[place]
        begins = torch.tensor([begin for begin, _ in edges])
        at = begins[:, 0], begins[:, 1]
        values, before = (source.features(y)[0][at] for y in (x, start))
        nodes = Nodes(pair[0], *at, values, before, torch.zeros(len(edges)))
        tangents = x.new_zeros(1, len(edges), *x.shape[1:])
        tangents[0, torch.arange(len(edges)), nodes.positions] = path.steps(place, nodes)
        section = target.read_after(section)
        linear = path.linear(section, place)
        rows = torch.arange(len(edges))
        positions = torch.tensor([end[0] for _, end in edges])
        columns = target.reader[:, [end[1] for _, end in edges]].T

        def arriving() -> Float[Tensor, " e"]:
            found: Tensor = (linear(tangents)[0][rows, positions] * columns).sum(1)
            return found

        with patterns_held(section):
            held = arriving()
        effects = []
        for head in range(heads):
            with patterns_held(section, head):
                effects.append(arriving() - held)
    return torch.stack(effects, dim=1).cpu()
