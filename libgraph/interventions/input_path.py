"""The way from a baseline to one input, and what features add along it.

Each section is differentiated along the straight line between the activations before it, by as many
points as explain the change of its output, or by a rule that was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.errors import UsageError
from libgraph.interventions.nodes import Attributions, Nodes
from libgraph.interventions.readout import Readout
from libgraph.interventions.subject import Subject
from libgraph.network.dictionary import Dictionary
from libgraph.sections.chunks import chunks
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import LinearMap, Section

Baseline = Literal["zero", "mean"]
"""Where the path of integration begins: at nothing, or at the mean activation of each position."""

AUTO = "auto"
"""The rule that takes as many points in each section as explain its change."""

POINTS = (4, 8, 16, 32, 64, 128, 256)

EXACT = 1e-10
"""Error of the change of a section's output, relative to the largest, that is exact enough."""


class InputPath:
    """The activations of one input, and the straight paths from the baseline to them."""

    def __init__(
        self, subject: Subject, inputs: Tensor, integration: str, baseline: Baseline
    ) -> None:
        self.subject = subject
        self.fixed = None if integration == AUTO else Quadrature.parse(integration)
        self._rules: dict[int, Quadrature] = {}
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

    def rule(self, section: Section, place: int) -> Quadrature:
        """That which was asked for, or as many points as explain the change of the output."""
        if self.fixed is not None:
            return self.fixed
        if place not in self._rules:
            self._rules[place] = self._found(section, place)
        return self._rules[place]

    def _found(self, section: Section, place: int) -> Quadrature:
        x, start = self.x[place], self.start[place]
        step = (x - start).unsqueeze(1)
        change = section(x) - section(start)
        enough = EXACT * float(change.abs().max())
        before, stays = float("inf"), 0
        for points in POINTS:
            rule = Quadrature.gauss_legendre(points)
            linear = section.linearize_between(start, x, rule)
            error = float((linear(step)[:, 0] - change).abs().max())
            # Where rounding, or single precision, is what is left, more points do not help; where
            # few points miss a steep stretch of the path, twice as many may not help yet.
            stays = stays + 1 if error > 0.5 * before else 0
            if error <= enough or stays == 2:
                break
            before = error
        return rule

    def linear(self, section: Section, place: int) -> LinearMap:
        """Tangents to their effects, averaged along the path."""
        rule = self.rule(section, place)
        return section.linearize_between(self.start[place], self.x[place], rule)

    def steps(self, place: int, nodes: Nodes) -> Float[Tensor, "m d"]:
        """What each node puts into the activation of its position, less what it does at the start.

        An error is a node with all of its coordinates.
        """
        basis, x, start = self.subject.cast[nodes.layer], self.x[place], self.start[place]
        change = (nodes.values - nodes.baseline).to(x)
        steps: Tensor = change[:, None] * basis.decoder[nodes.features]
        if isinstance(basis, Dictionary):
            left = (basis.error(x) - basis.error(start))[0]
            errors = nodes.features == basis.error_place
            steps[errors] = left[nodes.positions[errors]]
        return steps

    def attributions(
        self, place: int, source: Nodes, target: Nodes, readout: Readout
    ) -> Attributions:
        """Edges from the nodes of node layer `place` to those that follow."""
        subject = self.subject
        last = place == len(subject.network.sections)
        section = readout if last else subject.network.sections[place]
        reader: Tensor | None = None
        if not last:
            following = subject.cast[subject.layers[place + 1]]
            section, reader = following.read_after(section), following.reader
        steps = self.steps(place, source)
        seen = _Seen(section, reader, target)
        pattern: Tensor | None = None
        if section.positionwise:
            effects = self._at_same_position(seen, place, source, steps)
        else:
            effects, pattern = self._reached(seen, place, source, steps)
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
        self, seen: _Seen, place: int, source: Nodes, steps: Float[Tensor, "i d"]
    ) -> Float[Tensor, "o i"]:
        """Edges of a positionwise section, whose positions are so many samples."""
        x, start = (path[place].transpose(0, 1) for path in (self.x, self.start))
        effects = x.new_zeros(len(seen.target), len(source))
        rule = self.rule(seen.section, place)
        for position in source.positions.unique().tolist():
            here = (source.positions == position).nonzero()[:, 0]
            there = (seen.target.positions == position).nonzero()[:, 0]
            if not len(there):
                continue
            at = slice(position, position + 1)
            linear = seen.section.linearize_between(start[at], x[at], rule)
            columns = seen.columns(there)
            for part in chunks(len(here), max(x.shape[-1], seen.section.d_out), x):
                nodes = here[part]
                effect = linear(steps[nodes][None, :, None])[0, :, 0]
                effects[there[:, None], nodes[None]] = (effect @ columns).T
        return effects

    def _reached(
        self, seen: _Seen, place: int, source: Nodes, steps: Float[Tensor, "i d"]
    ) -> tuple[Float[Tensor, "o i"], Float[Tensor, "o i"] | None]:
        """Edges, and the part of them through patterns, of many source nodes at a time."""
        x = self.x[place]
        reach = seen.section.reach(self.start[place], x, self.rule(seen.section, place))
        values, patterns = [], []
        elements = 6 * x.shape[1] * max(x.shape[2], seen.section.d_out)
        for part in chunks(len(source), elements, x):
            value, pattern = reach(source.positions[part], steps[part])
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
    reader: Float[Tensor, "d k"] | None
    target: Nodes

    def columns(self, nodes: Tensor) -> Float[Tensor, "d o"]:
        """What the features of some target nodes read."""
        if self.reader is None:
            return torch.eye(self.section.d_out).to(self.section._like)[
                :, self.target.features[nodes]
            ]
        return self.reader[:, self.target.features[nodes]]

    def __call__(self, y: Float[Tensor, "m t d"]) -> Float[Tensor, "m o"]:
        """What arrives at each target node."""
        arriving = y.new_empty(len(y), len(self.target))
        for position in self.target.positions.unique().tolist():
            nodes = (self.target.positions == position).nonzero()[:, 0]
            arriving[:, nodes] = y[:, position] @ self.columns(nodes)
        return arriving
