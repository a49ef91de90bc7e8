"""The graph of one input with the names and labels of a run: as a graph, as a table, as JSON.

A node is called like its feature with its position behind: `ln2.0/5@7`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from libgraph.bars import shown
from libgraph.graph.arrays import FloatArray, IndexArray, Pair
from libgraph.graph.features import FeatureLabel, LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.interventions.influence import Pruned, prune
from libgraph.interventions.nodes import Nodes
from libgraph.interventions.pattern_heads import effects_by_head
from libgraph.interventions.prompt import PromptGraph, prompt_graph
from libgraph.interventions.subject import Subject
from libgraph.progress import Progress
from libgraph.runs.feature import graph_once
from libgraph.runs.requests import input_of
from libgraph.runs.run import Run
from libgraph.runs.subject import subject_of


class Edge(NamedTuple):
    """An edge between two nodes, seen by what it carries.

    Attributes:
        source: id of the node.
        target: likewise.
        effect: what the source adds to the target.
        pattern: the part of it that comes from moving attention; None where nothing attends.
        share: of all that comes in at the target.
        carried: that, times the influence of the target.
    """

    source: str
    target: str
    effect: float
    pattern: float | None
    share: float
    carried: float


@dataclass(frozen=True)
class Prompted:
    """What a run's network makes of one input.

    Args:
        run: which run.
        basis: whose features.
        pruned: nodes and edges that were kept.
        subject: the network, with the features.
        inputs: raw inputs of the sample.
    """

    run: Run
    basis: str
    pruned: Pruned
    subject: Subject
    inputs: Tensor

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(layer)} of {layer.layer}" for layer in self.nodes)
        return f"<{type(self).__name__} {self.text!r}: {sizes}>"

    @property
    def nodes(self) -> tuple[Nodes, ...]:
        """Kept nodes of each node layer, those with more influence first, outputs last."""
        return self.pruned.graph.layers

    @property
    def whole(self) -> PromptGraph:
        """Kept nodes and all edges between them."""
        return self.pruned.graph

    @property
    def text(self) -> str:
        """The input, if it is a text."""
        return "".join(self.pruned.graph.tokens)

    def token(self, layer: str, position: int) -> str:
        """What stands at a position of a node layer; nothing if the input is no text."""
        tokens, length = self.whole.tokens, self.whole.lengths.get(layer, 0)
        place = position + max(len(tokens) - length, 0)
        return tokens[place] if place < len(tokens) and length else ""

    @cached_property
    def _labels(self) -> dict[str, tuple[FeatureLabel, ...]]:
        graph = graph_once(self.run, self.basis)
        return {layer.name: layer.labels for layer in graph.layers if layer.labels is not None}

    def label(self, layer: str, feature: int) -> str:
        """What a feature stands for; the class, where the node is an output."""
        if layer == self.nodes[-1].layer:
            numbers = self.nodes[-1].features.tolist()
            return self.whole.class_names[numbers.index(feature)]
        return self._labels[layer][feature].text if layer in self._labels else ""

    def edges(self, top: int | None = None) -> list[Edge]:
        """Kept edges, those that carry most first."""
        edges: list[Edge] = []
        for (source, target), pair in zip(
            zip(self.nodes, self.nodes[1:], strict=False), self.whole.edges, strict=True
        ):
            found = self.whole.edges[pair]
            carried = self.pruned.weights[pair] * target.influence[:, None]
            rows, columns = self.pruned.kept[pair].nonzero(as_tuple=True)
            starts, ends = source.ids, target.ids
            edges += [
                Edge(
                    starts[i],
                    ends[j],
                    float(found.effects[j, i]),
                    None if found.pattern is None else float(found.pattern[j, i]),
                    float(self.pruned.weights[pair][j, i]),
                    float(carried[j, i]),
                )
                for j, i in zip(rows.tolist(), columns.tolist(), strict=True)
            ]
        return sorted(edges, key=lambda edge: -edge.carried)[:top]

    def pattern_edges(self, top: int = 10) -> list[tuple[Edge, tuple[float, ...]]]:
        """Kept edges that move attention most, and how much of it by each head.

        An edge counts by its part through patterns, as a share of what comes in at its target,
        times the influence of that.
        """
        edges = [edge for edge in self.edges() if edge.pattern is not None and edge.effect]
        edges.sort(key=lambda edge: -abs((edge.pattern or 0) / edge.effect) * edge.carried)
        found: dict[int, tuple[float, ...]] = {}
        by_pair: dict[Pair, list[int]] = {}
        for number, edge in enumerate(edges[:top]):
            by_pair.setdefault((_layer_of(edge.source), _layer_of(edge.target)), []).append(number)
        for pair, numbers in by_pair.items():
            ends = [(_node_of(edges[i].source), _node_of(edges[i].target)) for i in numbers]
            effects = effects_by_head(
                self.subject,
                self.inputs,
                pair,
                ends,
                integration=self.whole.integration,
                baseline=self.whole.baseline,
            )
            found |= {i: tuple(row) for i, row in zip(numbers, effects.tolist(), strict=True)}
        return [(edges[i], found[i]) for i in sorted(found)]

    def graph(self) -> InteractionGraph:
        """Kept nodes and edges as a graph, |effect| for interactions: to draw, export or look at.

        Importance is influence; constants and other isolated features are isolated here too.
        Modules are those of the run.
        """
        run_graph = graph_once(self.run, self.basis)
        isolated = {layer.name: layer.isolated for layer in run_graph.layers}
        layers, orders = [], []
        for nodes in self.nodes:
            alone = nodes.features < isolated.get(nodes.layer, 0)
            if nodes is self.nodes[-1]:
                alone = torch.zeros_like(alone)
            order = torch.argsort((~alone).int(), stable=True)
            layers.append(self._layer(nodes.of(order), int(alone.sum())))
            orders.append(order)
        edges: dict[Pair, FloatArray] = {}
        for place, (pair, found) in enumerate(self.whole.edges.items()):
            kept = torch.where(self.pruned.kept[pair], found.effects.abs(), 0).double()
            edges[pair] = kept[orders[place + 1]][:, orders[place]].numpy()
        partition = run_graph.partition
        if partition is None:
            return InteractionGraph(tuple(layers), edges)
        membership = {
            nodes.layer: self._modules(run_graph, nodes.of(order))
            for nodes, order in zip(self.nodes, orders, strict=True)
        }
        return InteractionGraph(
            tuple(layers), edges, partition=replace(partition, membership=membership)
        )

    def _modules(self, graph: InteractionGraph, nodes: Nodes) -> IndexArray:
        """Modules of nodes in the run; outputs that are no node layer of it are in none."""
        if nodes.layer not in {layer.name for layer in graph.layers}:
            return np.full(len(nodes), -1)
        modules: IndexArray = graph.membership(nodes.layer)[nodes.features.cpu().numpy()]
        return modules

    def _layer(self, nodes: Nodes, isolated: int) -> LayerFeatures:
        last = nodes.layer == self.nodes[-1].layer
        labels = []
        for feature, position in zip(
            nodes.features.tolist(), nodes.positions.tolist(), strict=True
        ):
            token = "" if last else self.token(nodes.layer, position)
            text = self.label(nodes.layer, feature)
            shown = f"{token.strip()} · {text}" if token.strip() else text
            known = self._labels.get(nodes.layer)
            concepts = {} if last or known is None else known[feature].concepts
            labels.append(FeatureLabel(shown, concepts))
        return LayerFeatures(
            nodes.layer,
            np.asarray(nodes.influence, dtype=np.float64),
            isolated=isolated,
            rotated=not last,
            labels=tuple(labels),
            ids=tuple(nodes.ids),
        )


def _layer_of(node: str) -> str:
    return node.rpartition("/")[0]


def _node_of(node: str) -> tuple[int, int]:
    """Position and feature, from `ln2.0/5@7`."""
    feature, _, position = node.rpartition("/")[2].partition("@")
    return int(position), int(feature)


def prompt_of(
    run: Run,
    given: str | int | Tensor,
    basis: str | None = None,
    *,
    nodes: float = 0.8,
    edges: float = 0.95,
    subject: Subject | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Prompted:
    """The graph of one input; see `Run.prompt`.

    Args:
        run: whose network and features.
        given: a text, the number of a sample of the test split, or raw inputs of one sample.
        basis: the main one if None.
        nodes: share of the influence that is kept of each node layer.
        edges: share that is kept of what edges between kept nodes carry.
        subject: the network with its data, if it is there already.
        progress: told after each section.
        **options: of `prompt_graph`: `integration` (`auto`, a rule along the path, or `gradient`),
            `baseline` (`mean` or `zero`), `classes` (numbers of outputs, or how many of the most
            probable ones), `most_nodes` (of each node layer, before anything is left out).

    Raises:
        UsageError: if there is no such sample, class or rule, or a share is not in (0, 1].
    """
    subject = subject_of(run, basis) if subject is None else subject
    subject.require_own_latents("The graph of one input")
    if isinstance(given, str):
        inputs = input_of(subject, given, None)
    else:
        inputs = input_of(subject, None, given) if isinstance(given, int) else given
    with shown(progress) as told:
        graph = prompt_graph(subject, inputs, progress=told, **options)
    return Prompted(run, run.chosen(basis), prune(graph, nodes, edges), subject, inputs)
