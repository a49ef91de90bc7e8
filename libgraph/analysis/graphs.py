"""The graph of one basis: its features with what they stand for, its edges, its modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from libgraph.edges.graph_of import graph_of
from libgraph.edges.interactions import Edges
from libgraph.errors import BackendError
from libgraph.graph.features import ERROR, FeatureLabel
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.communities import find_communities
from libgraph.network.basis import Bases
from libgraph.network.cross_layer import CrossLayer, carrying, of_model, origins
from libgraph.network.dictionary import Dictionary
from libgraph.network.transcoder import Transcoder
from libgraph.pipeline.options import AnalysisOptions
from libgraph.pipeline.workload import Workload
from libgraph.progress import Progress
from libgraph.runs.run import Ablation

SIZE, MEAN = "size of the activation", "mean over coordinates"
"""Those of what a dictionary divides activations by, and takes out of them."""

PASSES = "passes the latents by"
"""Ends the labels of features of the stream beside a transcoder's latents."""

CARRIED = "carried from"
"""Stands before the feature that a carried latent is at its own node layer."""


def labelled_graph(
    workload: Workload,
    bases: Bases,
    edges: Edges,
    ablation: Ablation | None,
    options: AnalysisOptions,
    progress: Progress,
) -> InteractionGraph:
    """Features and edges with labels, ε where edges were ablated, and modules.

    Args:
        workload: whose backend labels features, of the network's activations.
        bases: one basis per node layer.
        edges: interactions between their features.
        ablation: of these.
        options: of the modules.
        progress: told of two steps, under the name that it gives to them.
    """
    progress("modules", 0, 2)
    cast = {name: basis.to(workload.train.dtype) for name, basis in bases.items()}
    seen = of_model(bases, workload.network.node_layers)
    labels = dict(workload.backend.labels(partial(_features, workload, cast), seen))
    labels |= _output_labels(workload)
    labels |= _carried(labels, bases)
    own = {layer.name: len(layer.isolated_coordinates) for layer in workload.network.node_layers}
    for name, basis in bases.items():
        if isinstance(basis, Dictionary) and name in labels:
            before = list(labels[name][: basis.error_place])
            after = list(labels[name][basis.isolated :])
            if basis.size is not None:
                before[-1] = FeatureLabel(SIZE)
                # There is one where it is taken out.
                before[own[name] : -1] = [FeatureLabel(MEAN) for _ in before[own[name] : -1]]
            if isinstance(basis, Transcoder):
                after[: basis.carried] = [
                    FeatureLabel(f"{label.text} | {PASSES}", label.concepts)
                    for label in after[: basis.carried]
                ]
            labels[name] = [*before, FeatureLabel(ERROR), *after]
    pairs = ablation.edges if ablation is not None else {}
    epsilon = {pair: edge.epsilon for pair, edge in pairs.items()}
    graph = graph_of(bases, edges, epsilon=epsilon, labels=labels)
    progress("modules", 1, 2)
    partition = find_communities(
        graph, options.resolution, options.seed, options.seeds, options.objective
    )
    progress("modules", 2, 2)
    return graph.with_partition(partition)


def _carried(
    labels: Mapping[str, Sequence[FeatureLabel]], bases: Bases
) -> dict[str, Sequence[FeatureLabel]]:
    """Labels of node layers with carried latents, which say where these are from.

    What a latent writes there it says itself; where it writes nothing it has its own node layer's.
    """
    found: dict[str, Sequence[FeatureLabel]] = {}
    for name, places in origins(bases).items():
        if name not in labels:
            continue
        first = len(bases[name]) - len(places)
        carried = [
            labels[name][first + number]
            if isinstance(bases[name], CrossLayer)
            else labels[layer][feature]
            for number, (layer, feature) in enumerate(places)
        ]
        found[name] = [
            *labels[name][:first],
            *(
                FeatureLabel(f"{label.text} | {CARRIED} {layer}/{feature}", label.concepts)
                for label, (layer, feature) in zip(carried, places, strict=True)
            ),
        ]
    return found


def _output_labels(workload: Workload) -> dict[str, list[FeatureLabel]]:
    """Names of the outputs, where these are left in their own coordinates."""
    outputs, names = workload.network.node_layers[-1], workload.backend.output_names()
    if outputs.rotated or not names:
        return {}
    if len(names) != outputs.size:
        raise BackendError(
            f"The backend '{workload.backend.name}' has {len(names)} names for {outputs.size} "
            "outputs: give one each, or none."
        )
    return {outputs.name: [FeatureLabel(name) for name in names]}


def _features(workload: Workload, bases: Bases, inputs: Tensor) -> dict[str, Tensor]:
    """Features `(n, positions, features)` of every rotated node layer, from raw inputs."""
    network, data = carrying(workload.network, bases), workload.train
    if inputs.is_floating_point():
        inputs = inputs.to(data.dtype)
    with torch.no_grad():
        activations = network.activations(inputs.to(data.device))
        return {
            layer.name: bases[layer.name].features(x)
            for layer, x in zip(network.node_layers, activations, strict=True)
            if layer.rotated
        }
