"""Lesions of modules: what is computed, by hand, and what a planted network loses."""

import numpy as np
import pytest
import torch
from helpers.numbers import assert_close

import libgraph as lg
from libgraph.backend.data import Data
from libgraph.errors import UsageError
from libgraph.interventions.lesions import lesion_modules
from libgraph.modules.communities import find_communities


def squared_errors(outputs, targets):
    return (outputs[:, 0] - targets).square()


@pytest.fixture(scope="module")
def planted():
    """A planted network, its run and its data."""
    backend = lg.load_backend("mlp", blocks=2, width=3, layers=2, samples=600, seed=1)
    run = lg.analyze(backend, ablate=False, beside=())
    return backend, run, Data(backend, "train", 250)


def blocks_of(batch):
    """Group of each output: the block that it is of."""
    return (torch.arange(6) // 3).expand(len(batch.inputs), -1)


def by_blocks(run):
    """The graph with the blocks as modules."""
    graph = run.graph()
    membership = {}
    for layer in graph.layers:
        modules = np.full(layer.size, -1)
        if layer.rotated:
            for feature in range(layer.isolated, layer.size):
                modules[feature] = int(layer.labels[feature].concept)
        membership[layer.name] = modules
    partition = find_communities(graph)
    object.__setattr__(partition, "membership", membership)
    return graph.with_partition(partition)


def test_without_its_module_a_block_loses_its_own_outputs(planted):
    backend, run, data = planted
    lesions = lesion_modules(
        backend.network().double(), run.bases(), by_blocks(run), data, squared_errors, blocks_of, 2
    )
    outputs = torch.cat([batch.targets for batch in data])
    variance = outputs.var(0, correction=0).unflatten(0, (2, 3)).mean(1)
    assert lesions.count.tolist() == [1800, 1800]
    assert lesions.whole == pytest.approx(0, abs=1e-20)
    # What varies in a block is gone; of the other what 600 samples mix into its features.
    for block in (0, 1):
        assert lesions.increase[block, block] > 0.7 * float(variance[block])
        assert lesions.increase[block, 1 - block] < 0.3 * float(variance[1 - block])
    assert lesions.total == pytest.approx(lesions.increase.sum(1) / 2)


def test_a_lesion_is_what_it_says(planted):
    backend, run, data = planted
    graph, bases, network = by_blocks(run), run.bases(), backend.network().double()
    lesions = lesion_modules(network, bases, graph, data, squared_errors, blocks_of, 2)
    inputs, targets = (
        torch.cat([getattr(batch, name) for batch in data]) for name in ("inputs", "targets")
    )
    means = {
        layer.name: (x.flatten(0, 1) @ bases[layer.name].encoder).mean(0)
        for layer, x in zip(network.node_layers, network.activations(inputs), strict=True)
    }
    for module in (0, 1):
        x = network.embed(inputs)
        for index, layer in enumerate(network.node_layers):
            x = network.sections[index - 1](x) if index else x
            basis = bases[layer.name]
            f = x @ basis.encoder
            wanted = f.clone()
            for feature in np.flatnonzero(graph.membership(layer.name) == module):
                wanted[..., feature] = means[layer.name][feature]
            x = x + (wanted - f) @ basis.decoder
        expected = squared_errors(x, targets).unflatten(1, (2, 3)).mean((0, 2))
        assert_close(torch.from_numpy(lesions.lesioned[module]), expected, 1e-9)


def test_a_group_without_targets_has_no_loss(planted):
    backend, run, data = planted
    graph = by_blocks(run)
    lesions = lesion_modules(
        backend.network().double(), run.bases(), graph, data, squared_errors, blocks_of, 3
    )
    assert lesions.count[2] == 0
    assert np.isnan(lesions.whole[2])
    assert np.isfinite(lesions.total).all()


def test_a_graph_without_modules_is_refused(planted):
    backend, run, data = planted
    graph = run.graph().with_partition(None)
    with pytest.raises(UsageError, match="with_partition"):
        lesion_modules(backend.network(), run.bases(), graph, data, squared_errors, blocks_of, 2)


@pytest.mark.parametrize(
    ("loss", "count", "said"),
    [
        (lambda outputs, targets: squared_errors(outputs, targets).mean(), 2, "not averaged"),
        (squared_errors, 1, "Group 1 is none of 1"),
    ],
)
def test_losses_and_groups_fit_together(planted, loss, count, said):
    backend, run, data = planted
    network = backend.network().double()
    with pytest.raises(UsageError, match=said):
        lesion_modules(network, run.bases(), by_blocks(run), data, loss, blocks_of, count)
