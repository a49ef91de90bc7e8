"""Graphs with modules that are known."""

from itertools import pairwise

import numpy as np

from libgraph.graph.features import FeatureLabel, LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph


def planted(sizes=(24, 30, 27), modules=3, noise=0.01, seed=0):
    """Layers whose feature k > 0 belongs to module k % modules, and the true modules."""
    rng = np.random.default_rng(seed)
    truth = [np.arange(size) % modules for size in sizes]
    names = [f"l{index}" for index in range(len(sizes))]
    layers = tuple(
        LayerFeatures(
            name,
            rng.random(len(true)),
            labels=tuple(FeatureLabel(f"k{m}", {f"k{m}": 0.9, "x": 0.1}) for m in true),
        )
        for name, true in zip(names, truth, strict=True)
    )
    edges = {}
    for (a, left), (b, right) in pairwise(zip(names, truth, strict=True)):
        same = right[:, None] == left[None, :]
        edges[a, b] = rng.exponential(size=same.shape) * np.where(same, 1, noise)
    graph = InteractionGraph(layers, edges, dict.fromkeys(edges, 0.05))
    return graph, dict(zip(names, truth, strict=True))


def nested(copies=6, groups=3, parts=4):
    """Groups of modules: weights 1 inside a module, 0.05 inside a group, 0.0004 elsewhere."""
    module = np.repeat(np.arange(groups * parts), copies)
    same = module[:, None] == module[None, :]
    near = module[:, None] // parts == module[None, :] // parts
    weight = np.where(same, 1.0, np.where(near, 0.05, 0.0004))
    layers = tuple(LayerFeatures(name, np.ones(len(module)), isolated=0) for name in "ab")
    # Without ε the clustering weight is the root.
    return InteractionGraph(layers, {("a", "b"): weight**2}), module
