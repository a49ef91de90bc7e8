"""Parts of a graph: some of its features with the edges between them, which keep their names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from libgraph.errors import UsageError
from libgraph.graph.arrays import Pair, read_only
from libgraph.graph.features import LayerFeatures, feature_ids
from libgraph.graph.interaction_graph import InteractionGraph

Chosen = str | Iterable[str]
"""A name or several: ids of features, `ln1.0/3`, or node layers, which are all their features."""

Masks = dict[str, NDArray[np.bool_]]
"""Which features are meant, by node layer."""


@dataclass(frozen=True)
class Place:
    """Where a feature is: its node layer, and its place in that."""

    layer: LayerFeatures
    index: int


def places(graph: InteractionGraph) -> dict[str, Place]:
    """Where each feature is, by id."""
    return {
        name: Place(layer, index)
        for layer in graph.layers
        for index, name in enumerate(feature_ids(layer))
    }


def find_feature(graph: InteractionGraph, name: str) -> Place:
    """Where the feature of an id is.

    Raises:
        UsageError: If there is none, with what looks like it.
    """
    for layer in graph.layers:
        start = f"{layer.name}/"
        rest = name.removeprefix(start)
        if layer.ids is None and name.startswith(start) and rest.isdecimal():
            if rest == str(int(rest)) and int(rest) < layer.size:
                return Place(layer, int(rest))
            raise UsageError(
                f"There is no feature '{name}': {layer.name} has {layer.size}, the last is "
                f"{start}{layer.size - 1}."
            )
        if layer.ids is not None and name in layer.ids:
            return Place(layer, layer.ids.index(name))
    layers = [layer.name for layer in graph.layers]
    close = difflib.get_close_matches(name.rpartition("/")[0], layers, n=3, cutoff=0.4)
    raise UsageError(
        f"There is no feature '{name}': features are called like "
        f"{(close or layers)[0]}/0, of the node layers {', '.join(close or layers)}."
    )


def subgraph(
    graph: InteractionGraph,
    features: Chosen | None = None,
    *,
    module: int | Sequence[int] | None = None,
    layers: Chosen | None = None,
    between: tuple[Chosen, Chosen] | None = None,
) -> InteractionGraph:
    """Features that all of these choose, and all edges between them.

    Args:
        graph: The whole.
        features: Ids, or node layers.
        module: Features of this module, or of these.
        layers: Node layers, ``"A:B"`` for all from A to B.
        between: Features on a path of kept edges from the first of these to the second, ends
            included.

    Raises:
        UsageError: If a name is none of the graph's, or nothing is left.
    """
    masks = {layer.name: np.ones(layer.size, dtype=bool) for layer in graph.layers}
    if features is not None:
        _narrow(masks, chosen(graph, features))
    if module is not None:
        numbers = np.atleast_1d(np.asarray(module))
        count = 0 if graph.partition is None else graph.partition.size
        for number in numbers.tolist():
            if not 0 <= number < count:
                raise UsageError(f"There is no module {number}: the graph has {count}, from 0 on.")
        _narrow(masks, {name: np.isin(graph.membership(name), numbers) for name in masks})
    if layers is not None:
        names = set(layer_names(graph, layers))
        _narrow(masks, {name: np.full(len(masks[name]), name in names) for name in masks})
    if between is not None:
        first, last = (chosen(graph, end) for end in between)
        _narrow(masks, _reached(graph, first, forwards=True))
        _narrow(masks, _reached(graph, last, forwards=False))
    if not any(mask.any() for mask in masks.values()):
        raise UsageError("Nothing of the graph is left: choose other features, modules or layers.")
    return only(graph, masks)


def layer_names(graph: InteractionGraph, layers: Chosen) -> list[str]:
    """Names of node layers, of which ``A:B`` means all from A to B, and either may be left out.

    Raises:
        UsageError: If there is no such node layer.
    """
    known = [layer.name for layer in graph.layers]
    names: list[str] = []
    for name in [layers] if isinstance(layers, str) else layers:
        if name in known:
            names.append(name)
            continue
        ends = list(_ends(name, known))
        if not ends:
            graph.layer(name)
        first, last = ends
        names += known[first : last + 1]
    return names


def _ends(text: str, known: Sequence[str]) -> Iterable[int]:
    """First and last of a range, whose names may have colons themselves."""
    for cut, sign in enumerate(text):
        first, last = text[:cut] or known[0], text[cut + 1 :] or known[-1]
        if sign == ":" and first in known and last in known:
            return known.index(first), known.index(last)
    return ()


def chosen(graph: InteractionGraph, names: Chosen) -> Masks:
    """Which features some names mean.

    Raises:
        UsageError: If one means none.
    """
    masks = {layer.name: np.zeros(layer.size, dtype=bool) for layer in graph.layers}
    for name in [names] if isinstance(names, str) else names:
        if name in masks:
            masks[name][:] = True
        else:
            place = find_feature(graph, name)
            masks[place.layer.name][place.index] = True
    return masks


def _narrow(masks: Masks, others: Mapping[str, NDArray[np.bool_]]) -> None:
    for name, mask in others.items():
        masks[name] &= mask


def _reached(graph: InteractionGraph, start: Masks, *, forwards: bool) -> Masks:
    """Features that kept edges lead to from some, or that lead to these."""
    masks = {name: mask.copy() for name, mask in start.items()}
    order = {layer.name: place for place, layer in enumerate(graph.layers)}
    pairs = sorted(graph.edges, key=lambda pair: order[pair[0 if forwards else 1]])
    for pair in pairs if forwards else reversed(pairs):
        kept = graph.kept_edges(pair)
        ends = (kept.inputs, kept.outputs) if forwards else (kept.outputs, kept.inputs)
        here, there = pair if forwards else pair[::-1]
        masks[there][ends[1][masks[here][ends[0]]]] = True
    return masks


def only(graph: InteractionGraph, masks: Mapping[str, NDArray[np.bool_]]) -> InteractionGraph:
    """Some features of the graph with the edges between them; node layers without any are left out.

    What is kept of these edges is what the whole graph keeps.
    """
    layers = []
    for layer in graph.layers:
        mask = masks[layer.name]
        if mask.any():
            chosen_ = np.flatnonzero(mask).tolist()
            ids = feature_ids(layer)
            layers.append(
                replace(
                    layer,
                    importance=layer.importance[mask],
                    isolated=int(mask[: layer.isolated].sum()),
                    labels=None
                    if layer.labels is None
                    else tuple(layer.labels[place] for place in chosen_),
                    ids=tuple(ids[place] for place in chosen_),
                )
            )
    names = {layer.name for layer in layers}
    edges = {
        pair: matrix[np.ix_(masks[pair[1]], masks[pair[0]])]
        for pair, matrix in graph.edges.items()
        if names.issuperset(pair)
    }
    partition = graph.partition
    if partition is not None:
        membership = {
            name: values[masks[name]]
            for name, values in partition.membership.items()
            if name in names
        }
        partition = replace(partition, membership=membership)
    epsilon = {pair: value for pair, value in graph.epsilon.items() if pair in edges}
    made = InteractionGraph(tuple(layers), edges, epsilon, partition)
    for pair in edges:
        kept = graph.kept_edges(pair)
        inside = masks[pair[0]][kept.inputs] & masks[pair[1]][kept.outputs]
        new = [np.cumsum(masks[name]) - 1 for name in pair]
        _keep(made, pair, new[0][kept.inputs[inside]], new[1][kept.outputs[inside]])
    return made


def strongest_edges(
    graph: InteractionGraph, count: int | None = None, weight: float = 0.0
) -> InteractionGraph:
    """The graph with fewer of its kept edges: so many of the largest weight, none of less weight.

    Args:
        graph: The whole.
        count: Edges at most; ties go to the earlier layer pairs.
        weight: Least weight of an edge.
    """
    kept = {pair: graph.kept_edges(pair) for pair in graph.edges}
    weights = np.concatenate([np.empty(0), *(edges.weight for edges in kept.values())])
    takes = weights >= weight
    if count is not None and count < takes.sum():
        order = np.argsort(-np.where(takes, weights, -1.0), kind="stable")
        takes = np.zeros_like(takes)
        takes[order[:count]] = True
    made = replace(graph)
    start = 0
    for pair, edges in kept.items():
        inside = takes[start : start + len(edges.weight)]
        start += len(edges.weight)
        _keep(made, pair, edges.inputs[inside], edges.outputs[inside])
    return made


def _keep(
    graph: InteractionGraph, pair: Pair, inputs: NDArray[np.int64], outputs: NDArray[np.int64]
) -> None:
    """Have a graph that was just made keep these edges."""
    graph._derived.kept[pair] = read_only(inputs), read_only(outputs)
