"""The graph of one input: which features, at which positions, made the network say what it says.

Nodes are (node layer, position, feature), edges R_ts,ji = (f_sj − f⁰_sj) ∫dα Ĵ_ts,ji along the path
from a baseline to the input: what the source adds to the target, with its sign (docs/math.md §8).
Jacobians are exact, through softmax and norms. Where a section attends, the part of an edge that
comes from moving the attention pattern is told apart from that which goes through values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.errors import UsageError
from libgraph.graph.arrays import Pair
from libgraph.interventions.input_path import AUTO, Baseline, InputPath
from libgraph.interventions.nodes import Attributions, Nodes
from libgraph.interventions.readout import Readout
from libgraph.interventions.subject import Subject
from libgraph.network.dictionary import Dictionary
from libgraph.progress import Progress, silent

OUTPUTS = "outputs"
"""Name of the last nodes: the classes or tokens that the graph explains."""

MOST_NODES = 1500
"""Nodes of a node layer, unless another number is asked for."""

BEFOREHAND = 0.999
"""Share of first-order effects on the outputs that nodes have that are looked at."""


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
    integration: str = AUTO,
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
        integration: a rule along the path, so that edges add up to what they explain; `auto` for
            as many points as that takes in each section; or `gradient` for Jacobians at the input,
            with the baseline `zero` those of which the graph of averages is the mean square.
        baseline: where the path begins.
        classes: numbers of the classes that are explained, or how many of the most probable ones.
        most_nodes: of each node layer.
        progress: told after each section.

    Raises:
        UsageError: if there is not one sample, or no such class or rule.
    """
    if len(inputs) != 1:
        raise UsageError(f"A graph of one input takes one sample, not {len(inputs)}.")
    path = InputPath(subject, inputs, integration, baseline)
    readout, probabilities, chosen = _readout(subject, path.x[-1], classes)
    nodes = _choose(path, readout, probabilities, most_nodes)
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
        integration,
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
    numbers = explained_classes(probabilities, classes)
    readout = Readout(subject, numbers).to(outputs)
    return readout, probabilities[numbers], numbers


def explained_classes(
    probabilities: Float[Tensor, " o"], classes: Sequence[int] | int
) -> list[int]:
    """Numbers of the classes that are explained: those named, each once, or the most probable.

    Args:
        probabilities: of all classes.
        classes: their numbers, or how many.

    Raises:
        UsageError: if there are none, or one of them does not exist.
    """
    if isinstance(classes, int):
        if classes < 1:
            raise UsageError(f"{classes} classes explain nothing: use at least 1.")
        most: list[int] = probabilities.topk(min(classes, len(probabilities))).indices.tolist()
        return most
    last = len(probabilities) - 1
    if not classes:
        raise UsageError(f"No class is to be explained: name some, from 0 to {last}.")
    for number in classes:
        if not 0 <= number <= last:
            raise UsageError(f"There is no class {number}: they are numbers from 0 to {last}.")
    return list(dict.fromkeys(classes))


def _choose(path: InputPath, readout: Readout, probabilities: Tensor, most: int) -> list[Nodes]:
    """Nodes of every node layer by their first-order effect on the outputs, the largest first."""
    if most < 1:
        raise UsageError(f"{most} nodes are none: use at least 1.")
    subject = path.subject
    nodes: list[Nodes] = []
    for place, gradients in enumerate(_gradients(path, readout)):
        layer = subject.layers[place]
        basis = subject.cast[layer]
        f, start = (basis.features(x[place])[0] for x in (path.x, path.start))
        moved = (gradients @ basis.decoder.T) * (f - start)
        if isinstance(basis, Dictionary):
            left, before = (basis.error(x[place])[0] for x in (path.x, path.start))
            moved[..., basis.error_place] = (gradients * (left - before)).sum(-1)
        weights = probabilities.to(moved)[:, None, None]
        effect = (weights * moved).abs().sum(0).flatten()
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


def _gradients(path: InputPath, readout: Readout) -> Iterator[Float[Tensor, "c s d"]]:
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
