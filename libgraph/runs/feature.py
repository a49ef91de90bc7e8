"""One feature, or one module, of a run: what it is, what feeds it, and where it leads.

Inputs and outputs are all interactions E of the feature, strongest first, not only the kept ones;
isolated features, such as the constant, interact with everything and are left out of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from libgraph.errors import UsageError
from libgraph.graph.features import FeatureLabel, LayerFeatures, feature_ids
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.selection import find_feature
from libgraph.runs.examples import Example, LayerExamples, examples_of

if TYPE_CHECKING:
    from libgraph.runs.run import Run

AnyRun = TypeVar("AnyRun", bound="Run")

TOP = 10
"""Inputs and outputs, unless another number is asked for."""


class Link(NamedTuple):
    """An interaction, seen from one of its ends.

    Attributes:
        feature: id of the other end.
        label: of it; empty if it has none.
        interaction: E.
        share: of all interactions on this side of the feature, isolated features left out.
        kept: whether the edge is in the graph: E is at least ε.
        module: of the other end; −1 for none.
    """

    feature: str
    label: str
    interaction: float
    share: float
    kept: bool
    module: int


class Direction(NamedTuple):
    """How activations x and a feature f are related: f = x · reads, and x ≈ f · writes + ….

    Attributes:
        reads: column of the encoder `(d,)`.
        writes: row of the decoder `(d,)`.
    """

    reads: Tensor
    writes: Tensor


class Ablated(NamedTuple):
    """Scores with and without a feature, those of its layer that are less important left out.

    Attributes:
        features_with: how many features were kept, this one among them.
        score_with: of the model then.
        features_without: how many were kept without it.
        score_without: likewise.
    """

    features_with: int
    score_with: float
    features_without: int
    score_without: float


class Effect(NamedTuple):
    """What a feature does to an output.

    Attributes:
        output: what it is called.
        change: of it, by one deviation of the feature.
    """

    output: str
    change: float


@dataclass(frozen=True)
class Feature:
    """A feature of a run.

    Args:
        run: which it is of.
        basis: in which basis.
        layer: its node layer.
        index: its place there.
    """

    run: Run
    basis: str
    layer: LayerFeatures
    index: int

    def __repr__(self) -> str:
        label = self.label.text.split(" | ")[0] if self.label is not None else "no label"
        return f"<{type(self).__name__} {self.id}: {label}>"

    def __str__(self) -> str:
        """What `libgraph show` prints."""
        from libgraph.runs.shown import feature_text

        return feature_text(self)

    @property
    def id(self) -> str:
        """Its name, such as `ln2.0/5`."""
        return f"{self.layer.name}/{self.index}"

    @property
    def label(self) -> FeatureLabel | None:
        """What it stands for, if features were labelled."""
        return self.layer.labels[self.index] if self.layer.labels is not None else None

    @property
    def isolated(self) -> bool:
        """Whether it interacts with everything and has no place in modules, as the constant."""
        return self.index < self.layer.isolated

    @property
    def importance(self) -> float:
        """What features of its basis are sorted by."""
        return float(self.layer.importance[self.index])

    @property
    def share(self) -> float | None:
        """Of the importance of its node layer, isolated features left out."""
        if self.isolated or not self.layer.rotated:
            return None
        total = float(self.layer.importance[self.layer.isolated :].clip(min=0).sum())
        return max(self.importance, 0.0) / total if total > 0 else 0.0

    @property
    def module(self) -> int:
        """Its module; −1 for none."""
        return int(self._graph.membership(self.layer.name)[self.index])

    @cached_property
    def _graph(self) -> InteractionGraph:
        return graph_once(self.run, self.basis)

    def inputs(self, top: int | None = TOP) -> list[Link]:
        """Features that feed it, strongest first."""
        return self._links("in", top)

    def outputs(self, top: int | None = TOP) -> list[Link]:
        """Features that it feeds, strongest first."""
        return self._links("out", top)

    def _links(self, side: Literal["in", "out"], top: int | None) -> list[Link]:
        found: list[Link] = []
        total = 0.0
        for pair, matrix in self._graph.edges.items():
            here, there = pair[::-1] if side == "in" else pair
            if here != self.layer.name:
                continue
            other = self._graph.layer(there)
            row = np.array(matrix[self.index] if side == "in" else matrix[:, self.index])
            row[: other.isolated] = 0
            total += float(row.sum())
            order = np.argsort(-row, kind="stable")[: len(row) if top is None else top]
            kept = self._graph.kept_edges(pair)
            mine, theirs = (
                (kept.outputs, kept.inputs) if side == "in" else (kept.inputs, kept.outputs)
            )
            drawn = set(theirs[mine == self.index].tolist())
            names, modules = feature_ids(other), self._graph.membership(there)
            found += [
                Link(
                    names[j],
                    other.labels[j].text if other.labels is not None else "",
                    float(row[j]),
                    float(row[j]),
                    j in drawn,
                    int(modules[j]),
                )
                for j in order.tolist()
                if row[j] > 0
            ]
        found.sort(key=lambda link: -link.interaction)
        return [link._replace(share=link.interaction / total) for link in found[:top]]

    def examples(self) -> list[Example]:
        """Samples that drive it most up and down, and some that do not; see `Run.examples`.

        Raises:
            UsageError: if the run has none of this feature.
        """
        examples = self.run.all_examples()
        if examples is None:
            raise UsageError(
                f"'{self.run.title}' has no examples, being of an earlier version: the same "
                "analysis with force=True adds them and computes nothing again that still holds."
            )
        return [] if self._examples is None else examples_of(examples, *self._place)

    @property
    def _place(self) -> tuple[str, int]:
        return self.layer.name, self.index

    @cached_property
    def _examples(self) -> LayerExamples | None:
        examples = self.run.all_examples()
        if examples is None or self.basis != self.run.basis or self.isolated:
            return None
        return examples.layers.get(self.layer.name)

    @property
    def position_share(self) -> float | None:
        """Share of its variance that lies between positions; None where there is only one."""
        stored = self._examples
        if stored is None or stored.position_share is None:
            return None
        return float(stored.position_share[self.index])

    def effects(self) -> list[Effect]:
        """Outputs that it moves most up, then most down, to first order; empty where unknown."""
        stored = self._examples
        if stored is None or stored.outputs is None or stored.effects is None:
            return []
        outputs = self._graph.layers[-1]
        names = [label.text for label in outputs.labels] if outputs.labels else None
        # Runs of earlier versions have those of few outputs twice.
        rows = (stored.outputs[self.index].tolist(), stored.effects[self.index].tolist())
        chosen = dict(zip(*rows, strict=True))
        return [
            Effect(names[number] if names else f"{outputs.name}/{number}", change)
            for number, change in chosen.items()
        ]

    def direction(self) -> Direction:
        """The directions of activations that it is read by and written along."""
        basis = self.run.bases(self.basis)[self.layer.name]
        return Direction(basis.encoder[:, self.index], basis.decoder[self.index])

    def ablated(self) -> Ablated | None:
        """Scores with and without it, at the nearest numbers of features that were tried."""
        figures = self.run.metrics.bases[self.basis]
        curve = figures.curves.nodes.get(self.layer.name)
        if not curve:
            ablation = self.run.ablation(self.basis)
            curve = {} if ablation is None else ablation.nodes.get(self.layer.name, {})
        return ablated(curve, self.index)


def ablated(curve: Mapping[int, float], index: int) -> Ablated | None:
    """What a curve of scores by number of features kept says of the feature of this index."""
    with_it = min((n for n in curve if n > index), default=None)
    without = max((n for n in curve if n <= index), default=None)
    if with_it is None or without is None:
        return None
    return Ablated(with_it, curve[with_it], without, curve[without])


@dataclass(frozen=True)
class Flow:
    """Weight of the kept edges between a module and another.

    Args:
        module: the other one; −1 for features in none.
        weight: summed over the edges.
    """

    module: int
    weight: float


@dataclass(frozen=True)
class Module:
    """A module of a run.

    Attributes:
        number: which.
        basis: of which basis.
        concept: that its features share most, if they are labelled.
        concept_share: of their variance.
        layers: how many features it has, by node layer.
        members: ids of its features, the most important of each node layer first.
        inputs: modules that feed it, by weight of kept edges; −1 for features without.
        outputs: modules that it feeds.
        weight: of kept edges inside it.
    """

    number: int
    basis: str
    concept: str | None
    concept_share: float
    layers: Mapping[str, int]
    members: Sequence[str]
    inputs: Sequence[Flow]
    outputs: Sequence[Flow]
    weight: float


def graph_once(run: Run, basis: str) -> InteractionGraph:
    """The graph of a basis, which a run that was read back makes anew each time, once."""
    known: dict[str, InteractionGraph] = run.__dict__.setdefault("_graphs_looked_at", {})
    if basis not in known:
        known[basis] = run.graph(basis)
    return known[basis]


def with_graph(run: AnyRun, basis: str, graph: InteractionGraph) -> AnyRun:
    """The run, which from now on is looked at with another graph of a basis."""
    run.__dict__.setdefault("_graphs_looked_at", {})[basis] = graph
    return run


def feature_of(run: Run, name: str, basis: str | None = None) -> Feature:
    """One feature; see `Run.feature`."""
    basis = run.chosen(basis)
    place = find_feature(graph_once(run, basis), name)
    return Feature(run, basis, place.layer, place.index)


def search(run: Run, text: str, basis: str | None = None) -> list[Feature]:
    """Features with a text in their id or label; see `Run.search`."""
    basis = run.chosen(basis)
    wanted = text.casefold()
    return [
        Feature(run, basis, layer, index)
        for layer in graph_once(run, basis).layers
        for index, name in enumerate(feature_ids(layer))
        if wanted in name.casefold()
        or (layer.labels is not None and wanted in layer.labels[index].text.casefold())
    ]


def module_of(run: Run, number: int, basis: str | None = None) -> Module:
    """One module; see `Run.module`."""
    basis = run.chosen(basis)
    graph = graph_once(run, basis)
    table = run.metrics.bases[basis].modules.table
    if graph.partition is None or not 0 <= number < min(len(table), graph.partition.size):
        known = "modules are known of the basis asked for alone" * (graph.partition is None)
        raise UsageError(
            f"There is no module {number} of the {basis} basis: "
            f"{known or f'it has {len(table)}, from 0 on'}."
        )
    summary = table[number]
    inputs: dict[int, float] = {}
    outputs: dict[int, float] = {}
    inside = 0.0
    for pair in graph.edges:
        kept = graph.kept_edges(pair)
        source = graph.membership(pair[0])[kept.inputs]
        target = graph.membership(pair[1])[kept.outputs]
        inside += float(kept.weight[(source == number) & (target == number)].sum())
        for found, here, there in ((inputs, target, source), (outputs, source, target)):
            across = (here == number) & (there != number)
            others, places = np.unique(there[across], return_inverse=True)
            sums = np.bincount(places, weights=kept.weight[across], minlength=len(others))
            for other, weight in zip(others.tolist(), sums.tolist(), strict=True):
                found[other] = found.get(other, 0.0) + weight
    members = [
        feature_ids(layer)[place]
        for layer in graph.layers
        for place in np.flatnonzero(graph.membership(layer.name) == number).tolist()
    ]
    return Module(
        number,
        basis,
        summary.concept,
        summary.concept_share,
        dict(summary.features),
        members,
        _flows(inputs),
        _flows(outputs),
        inside,
    )


def _flows(weights: Mapping[int, float]) -> list[Flow]:
    flows = [Flow(other, weight) for other, weight in weights.items() if weight > 0]
    return sorted(flows, key=lambda flow: -flow.weight)
