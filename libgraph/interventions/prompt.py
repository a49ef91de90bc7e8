"""The graph of one input: which features, at which positions, made the network say what it says.

Nodes are (node layer, position, feature), edges R_ts,ji = (f_sj − f⁰_sj) ∫dα Ĵ_ts,ji along the path
from a baseline to the input: what the source adds to the target, with its sign (docs/math.md §9).
Jacobians are exact, through softmax and norms. Where a section attends, the part of an edge that
comes from moving the attention pattern is told apart from that which goes through values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from libgraph.errors import UsageError
from libgraph.graph.arrays import Pair
from libgraph.interventions.readout import Readout
from libgraph.interventions.subject import Subject
from libgraph.progress import Progress, silent
from libgraph.sections.chunks import chunks
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import LinearMap, Section

Baseline = Literal["zero", "mean"]
"""Where the path of integration begins: at nothing, or at the mean activation of each position."""

OUTPUTS = "outputs"
"""Name of the last nodes: the classes or tokens that the graph explains."""

MOST_NODES = 1500
"""Nodes of a node layer, unless another number is asked for."""

BEFOREHAND = 0.999
"""Share of first-order effects on the outputs that nodes have that are looked at."""


@dataclass(frozen=True)
class Nodes:
    """Nodes of one node layer, those with more influence first.

    Args:
        layer: its name.
        positions: `(m)`.
        features: places in the node layer `(m)`.
        values: of the features there `(m)`.
        baseline: of the same at the beginning of the path `(m)`.
        influence: share of what the outputs are made of that passes through each `(m)`.
    """

    layer: str
    positions: Int[Tensor, " m"]
    features: Int[Tensor, " m"]
    values: Float[Tensor, " m"]
    baseline: Float[Tensor, " m"]
    influence: Float[Tensor, " m"]

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def ids(self) -> list[str]:
        """What nodes are called: `ln2.0/5@7` is feature 5 of ln2.0 at position 7."""
        return [
            f"{self.layer}/{feature}@{position}"
            for feature, position in zip(
                self.features.tolist(), self.positions.tolist(), strict=True
            )
        ]

    def of(self, chosen: Tensor) -> Nodes:
        """Some of the nodes."""
        return Nodes(
            self.layer,
            *(
                part[chosen]
                for part in (
                    self.positions, self.features, self.values, self.baseline, self.influence
                )
            ),
        )  # fmt: skip


@dataclass(frozen=True)
class Attributions:
    """Edges between the nodes of two neighbouring node layers.

    Args:
        effects: R `(m_out, m_in)`, with its sign.
        pattern: the part of it that comes from moving attention; absent where nothing attends.
        rest: what all other features, and what lies outside of all features, add `(m_out)`.
        error: f_i − f⁰_i less all of that `(m_out)`: what integration along the path misses.
    """

    effects: Float[Tensor, "o i"]
    pattern: Float[Tensor, "o i"] | None
    rest: Float[Tensor, " o"]
    error: Float[Tensor, " o"]


@dataclass(frozen=True)
class PromptGraph:
    """The attribution graph of one input.

    Args:
        layers: nodes of each node layer, from input to output.
        edges: by neighbouring node layers.
        probabilities: of the classes that are explained `(classes)`.
        class_names: what they are called.
        tokens: the input, position by position; empty where it is no text.
        lengths: positions of each node layer.
        integration: rule of the path.
        baseline: where it begins.
    """

    layers: tuple[Nodes, ...]
    edges: Mapping[Pair, Attributions]
    probabilities: Float[Tensor, " c"]
    class_names: tuple[str, ...]
    tokens: tuple[str, ...]
    lengths: Mapping[str, int]
    integration: str
    baseline: Baseline

    @property
    def completeness(self) -> dict[Pair, float]:
        """By layer pair, the largest error of a node relative to the largest change of one.

        The change is f_i − f⁰_i; with the rule `gradient` it is what curvature leaves unexplained.
        """
        found = {}
        for pair, edges in self.edges.items():
            change = (edges.effects.sum(1) + edges.rest + edges.error).abs()
            found[pair] = float(edges.error.abs().max() / change.max().clamp(min=1e-300))
        return found


def prompt_graph(
    subject: Subject,
    inputs: Tensor,
    *,
    integration: str = "gauss-legendre:16",
    baseline: Baseline = "mean",
    classes: Sequence[int] | int = 5,
    most_nodes: int = MOST_NODES,
    progress: Progress = silent,
) -> PromptGraph:
    """All edges between the nodes that matter for what the network says of one input.

    Nodes are chosen by |(f − f⁰) ∂o/∂f|, summed over the outputs with their probabilities; edges
    between them are exact. `influence.prune` keeps what explains a stated share.

    Args:
        subject: network and features.
        inputs: raw inputs of one sample.
        integration: a rule along the path, so that edges add up to what they explain; or
            `gradient` for Jacobians at the input, with the baseline `zero` those of which the
            graph of averages is the mean square.
        baseline: where the path begins.
        classes: numbers of the classes that are explained, or how many of the most probable ones.
        most_nodes: of each node layer.
        progress: told after each section.

    Raises:
        UsageError: if there is not one sample, or no such class or rule.
    """
    if len(inputs) != 1:
        raise UsageError(f"A graph of one input takes one sample, not {len(inputs)}.")
    quadrature = Quadrature.parse(integration)
    path = _Path(subject, inputs, quadrature, baseline)
    readout, probabilities, chosen = _readout(subject, path.x[-1], classes)
    nodes = _chosen_nodes(path, readout, probabilities, most_nodes)
    edges: dict[Pair, Attributions] = {}
    stages = list(pairwise(nodes))
    with torch.no_grad():
        for number, (source, target) in enumerate(stages):
            progress("edges of one input", number, len(stages))
            edges[source.layer, target.layer] = path.attributions(number, source, target, readout)
        progress("edges of one input", len(stages), len(stages))
    # Outputs are called by the numbers of their classes, as people ask for them.
    nodes[-1] = replace(nodes[-1], features=readout.numbers.to(nodes[-1].features))
    return PromptGraph(
        tuple(nodes),
        edges,
        probabilities.cpu(),
        tuple(subject.class_names(chosen)),
        _tokens(subject, inputs),
        {name: x.shape[1] for name, x in zip(subject.layers, path.x, strict=True)},
        quadrature.name,
        baseline,
    )


def _tokens(subject: Subject, inputs: Tensor) -> tuple[str, ...]:
    shown = subject.backend.show(inputs)
    return () if isinstance(shown, Tensor) or not len(shown) else tuple(map(str, shown[0]))


def _readout(
    subject: Subject, outputs: Float[Tensor, "1 t d"], classes: Sequence[int] | int
) -> tuple[Readout, Tensor, list[int]]:
    """What the graph explains: some classes, at the last position."""
    with torch.no_grad():
        logits = subject.logits(outputs)[0, -1]
    probabilities = logits.double().softmax(-1)
    if isinstance(classes, int):
        if classes < 1:
            raise UsageError(f"{classes} classes explain nothing: use at least 1.")
        numbers = probabilities.topk(min(classes, len(probabilities))).indices.tolist()
    else:
        numbers = list(dict.fromkeys(classes))
        if not numbers or not 0 <= min(numbers) <= max(numbers) < len(probabilities):
            raise UsageError(f"Classes are numbers from 0 to {len(probabilities) - 1}.")
    readout = Readout(subject, numbers).to(outputs)
    return readout, probabilities[numbers], numbers


class _Path:
    """The activations of one input, and the straight paths from the baseline to them."""

    def __init__(
        self, subject: Subject, inputs: Tensor, quadrature: Quadrature, baseline: Baseline
    ) -> None:
        self.subject, self.quadrature = subject, quadrature
        self.inputs = inputs
        with torch.no_grad():
            self.x = list(subject.network.activations(inputs))
        if baseline == "zero":
            self.start = [torch.zeros_like(x) for x in self.x]
        else:
            self.start = [
                self._mean(layer, x) for layer, x in zip(subject.layers, self.x, strict=True)
            ]

    def _mean(self, layer: str, x: Float[Tensor, "1 s d"]) -> Float[Tensor, "1 s d"]:
        means = self.subject.mean_activations[layer]
        if x.shape[1] > len(means):
            raise UsageError(
                f"Means at positions are known of {len(means)}, and this input has {x.shape[1]} at "
                f"{layer}: use the baseline zero, or a shorter one."
            )
        return means[None, : x.shape[1]]

    def linear(self, section: Section, place: int) -> LinearMap:
        """Tangents to their effects, averaged along the path."""
        return section.linearize_between(self.start[place], self.x[place], self.quadrature)

    def attributions(
        self, place: int, source: Nodes, target: Nodes, readout: Readout
    ) -> Attributions:
        """Edges from the nodes of node layer `place` to those that follow."""
        subject = self.subject
        last = place == len(subject.network.sections)
        section = readout if last else subject.network.sections[place]
        encoder = None if last else subject.cast[subject.layers[place + 1]].encoder
        decoder = subject.cast[source.layer].decoder
        seen = _Seen(section, encoder, target)
        pattern: Tensor | None = None
        if section.positionwise:
            effects = self._at_same_position(seen, place, source, decoder)
        else:
            effects, pattern = self._reached(seen, place, source, decoder)
        linear = self.linear(section, place)
        step = (self.x[place] - self.start[place]).unsqueeze(1)
        total = seen(linear(step)[0])[0]
        change = seen(section(self.x[place])) - seen(section(self.start[place]))
        return Attributions(
            effects.cpu(),
            None if pattern is None else pattern.cpu(),
            (total - effects.sum(1)).cpu(),
            (change[0] - total).cpu(),
        )

    def _at_same_position(
        self, seen: _Seen, place: int, source: Nodes, decoder: Float[Tensor, "k d"]
    ) -> Float[Tensor, "o i"]:
        """Edges of a positionwise section, whose positions are so many samples."""
        x, start = (path[place].transpose(0, 1) for path in (self.x, self.start))
        effects = x.new_zeros(len(seen.target), len(source))
        weight = source.values - source.baseline
        for position in source.positions.unique().tolist():
            here = (source.positions == position).nonzero()[:, 0]
            there = (seen.target.positions == position).nonzero()[:, 0]
            if not len(there):
                continue
            at = slice(position, position + 1)
            linear = seen.section.linearize_between(start[at], x[at], self.quadrature)
            columns = seen.columns(there)
            for part in chunks(len(here), max(x.shape[-1], seen.section.d_out), x):
                nodes = here[part]
                tangents = (weight[nodes].to(x)[:, None] * decoder[source.features[nodes]])[
                    None, :, None
                ]
                effect = linear(tangents)[0, :, 0]
                effects[there[:, None], nodes[None]] = (effect @ columns).T
        return effects

    def _reached(
        self, seen: _Seen, place: int, source: Nodes, decoder: Float[Tensor, "k d"]
    ) -> tuple[Float[Tensor, "o i"], Float[Tensor, "o i"] | None]:
        """Edges, and the part of them through patterns, of many source nodes at a time."""
        x = self.x[place]
        reach = seen.section.reach(self.start[place], x, self.quadrature)
        weight = (source.values - source.baseline).to(x)
        values, patterns = [], []
        elements = 6 * x.shape[1] * max(x.shape[2], seen.section.d_out)
        for part in chunks(len(source), elements, x):
            steps = weight[part, None] * decoder[source.features[part]]
            value, pattern = reach(source.positions[part], steps)
            values.append(seen(value))
            if pattern is not None:
                patterns.append(seen(pattern))
        through = torch.cat(values).T
        if not patterns:
            return through, None
        moved = torch.cat(patterns).T
        return through + moved, moved


@dataclass(frozen=True)
class _Seen:
    """Outputs of a section as its target nodes see them."""

    section: Section
    encoder: Float[Tensor, "d k"] | None
    target: Nodes

    def columns(self, nodes: Tensor) -> Float[Tensor, "d o"]:
        """What the features of some target nodes read."""
        if self.encoder is None:
            return torch.eye(self.section.d_out).to(self.section._like)[
                :, self.target.features[nodes]
            ]
        return self.encoder[:, self.target.features[nodes]]

    def __call__(self, y: Float[Tensor, "m t d"]) -> Float[Tensor, "m o"]:
        """What arrives at each target node."""
        arriving = y.new_empty(len(y), len(self.target))
        for position in self.target.positions.unique().tolist():
            nodes = (self.target.positions == position).nonzero()[:, 0]
            arriving[:, nodes] = y[:, position] @ self.columns(nodes)
        return arriving


def _chosen_nodes(path: _Path, readout: Readout, probabilities: Tensor, most: int) -> list[Nodes]:
    """Nodes of every node layer by their first-order effect on the outputs, the largest first."""
    if most < 1:
        raise UsageError(f"{most} nodes are none: use at least 1.")
    subject = path.subject
    nodes: list[Nodes] = []
    for place, gradients in enumerate(_gradients(path, readout)):
        layer = subject.layers[place]
        basis = subject.cast[layer]
        f, start = (x[place][0] @ basis.encoder for x in (path.x, path.start))
        slopes = gradients @ basis.decoder.T
        weights = probabilities.to(slopes)[:, None, None]
        effect = (weights * slopes * (f - start)).abs().sum(0).flatten()
        order = effect.argsort(descending=True, stable=True)
        shares = effect[order].cumsum(0) / effect.sum().clamp(min=1e-300)
        count = min(most, int((shares < BEFOREHAND).sum()) + 1, int((effect > 0).sum()))
        picked = order[: max(count, 1)]
        positions, features = picked // f.shape[1], picked % f.shape[1]
        values, begun = f[positions, features], start[positions, features]
        unknown = torch.zeros(len(picked), dtype=torch.float64)
        nodes.append(Nodes(layer, positions, features, values, begun, unknown))
    with torch.no_grad():
        logits, begun = (readout(x[-1])[0, 0] for x in (path.x, path.start))
    explained = probabilities.double().cpu()
    if readout.plain:
        # The last node layer has the classes themselves.
        position = path.x[-1].shape[1] - 1
        where = torch.full_like(readout.numbers, position)
        nodes[-1] = Nodes(subject.layers[-1], where, readout.numbers, logits, begun, explained)
        return nodes
    numbers = torch.arange(len(logits), device=logits.device)
    nodes.append(Nodes(OUTPUTS, torch.zeros_like(numbers), numbers, logits, begun, explained))
    return nodes


def _gradients(path: _Path, readout: Readout) -> Iterator[Float[Tensor, "c s d"]]:
    """Of every class that is explained, in the activations of each node layer in turn."""
    with torch.enable_grad():
        x = path.x[0].detach().requires_grad_()
        cuts = [x]
        for section in path.subject.network.sections:
            x = section(x)
            cuts.append(x)
        logits = readout(x)[0, 0]
        by_class = [
            torch.autograd.grad(logit, cuts, retain_graph=True, materialize_grads=True)
            for logit in logits
        ]
    for place in range(len(cuts)):
        yield torch.stack([gradients[place][0] for gradients in by_class]).detach()
