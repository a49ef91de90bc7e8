"""Checks of a backend: its data, its network, what it says of outputs and of features."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor, nn

from libgraph.backend.contract import Backend, Batch, Split
from libgraph.backend.data import Data
from libgraph.cutting.capture import doubled, in_double, outputs_of
from libgraph.network.basis import Basis
from libgraph.network.network import Network, NodeLayer
from libgraph.testing.comparison import LARGEST, relative_error, require, require_close
from libgraph.testing.sections import check_section


def check_backend(
    backend: Backend,
    *,
    samples: int = 6,
    batch_size: int = 7,
    matches: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Check data, network, sections, scores and labels of a backend in float64.

    Args:
        backend: ready to use.
        samples: how many samples the numerical checks use.
        batch_size: in what batches all data are asked for.
        matches: the model that the network is of, a module or any function of a batch's inputs:
            its outputs have to be the network's, in double precision.

    Raises:
        AssertionError: saying what does not hold.
    """
    network = backend.network().double()
    again = backend.network()
    require(
        not network.shares_modules(again),
        "network() returns the same object twice, or with the same model in it: a change of "
        "precision would reach both; make a new one, such as of copy.deepcopy(model)",
    )
    require(
        again.double().fingerprint() == network.fingerprint(),
        "network() returns another network the second time",
    )
    _check_batches(backend, "train", batch_size)
    _check_batches(backend, "test", batch_size)
    (batch,) = islice(Data(backend, "train", batch_size=samples, limit=samples), 1)
    with torch.no_grad():
        _check_network(network, batch)
        if matches is not None:
            _check_model(network, matches, batch.inputs)
        activations = network.activations(batch.inputs)
        for x, (a, b, section) in zip(activations, network.pairs, strict=False):
            check_section(section, x, name=f"{a.name}->{b.name}")
        _check_scores(backend, network, batch)
        _check_labels(backend, network)


def _check_model(network: Network, model: Callable[[Tensor], Tensor], inputs: Tensor) -> None:
    """The network's last node layer against the model's outputs, channels first or last."""
    if isinstance(model, nn.Module):
        expected = outputs_of(doubled(model), (inputs,))
    else:
        with in_double():
            expected = model(inputs.clone())
    actual = network(inputs)
    flat = (
        expected.detach().double().flatten(1) if expected.ndim > 1 else expected[:, None].double()
    )
    require(
        flat.shape == actual.flatten(1).shape,
        f"the network has {actual.flatten(1).shape[1]} outputs a sample {tuple(actual.shape)}, but "
        f"the model {flat.shape[1]} {tuple(expected.shape)}",
    )
    errors = [relative_error(rows.flatten(1), flat) for rows in (actual, actual.transpose(1, 2))]
    require(
        min(errors) <= LARGEST,
        f"the network computes something else than the model: outputs differ by {min(errors):.1e} "
        f"of the largest, of which {LARGEST:.0e} is let pass",
    )


def _check_batches(backend: Backend, split: Split, batch_size: int) -> None:
    first, again = (list(backend.batches(split, batch_size)) for _ in range(2))
    count = sum(len(batch.inputs) for batch in first)
    require(
        count == backend.samples(split),
        f"samples('{split}') is {backend.samples(split)}, but batches have {count}",
    )
    largest = max((len(batch.inputs) for batch in first), default=0)
    require(
        largest <= batch_size,
        f"the {split} split has a batch of {largest} samples where {batch_size} were asked for",
    )
    require(
        all(len(batch.inputs) == len(batch.targets) for batch in first),
        f"the {split} split has batches with more inputs than targets, or fewer",
    )
    same = len(first) == len(again) and all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)
        for a, b in zip(first, again, strict=True)
    )
    require(same, f"the {split} split comes in another order the second time")


def _check_network(network: Network, batch: Batch) -> None:
    before = batch.inputs.clone()
    activations = list(network.activations(batch.inputs))
    require(torch.equal(batch.inputs, before), "the embedding changes the inputs that it is given")
    for layer, x in zip(network.node_layers, activations, strict=True):
        shape = tuple(x.shape)
        require(
            x.ndim == 3 and shape == (len(batch.inputs), shape[1], layer.size),
            f"node layer '{layer.name}' has activations of shape {shape}, "
            f"not (samples, positions, {layer.size})",
        )
        if layer.constant:
            require_close(
                x[..., -1],
                torch.ones_like(x[..., -1]),
                f"the last coordinate of node layer '{layer.name}' is not 1",
                terms=layer.size,
            )
    require_close(
        network(batch.inputs),
        activations[-1],
        "forward and activations disagree",
        terms=max(layer.size for layer in network.node_layers),
    )


def _check_scores(backend: Backend, network: Network, batch: Batch) -> None:
    scores = backend.score(network(batch.inputs), batch.targets)
    require(
        scores.shape == (len(batch.inputs),),
        f"score returns shape {tuple(scores.shape)}, not one score per sample",
    )
    require(bool(scores.isfinite().all()), "score returns NaN or infinity")


def _check_labels(backend: Backend, network: Network) -> None:
    rotated = {layer.name: layer for layer in network.node_layers if layer.rotated}

    def encode(inputs: Tensor) -> dict[str, Tensor]:
        if inputs.is_floating_point():
            inputs = inputs.double()
        activations = zip(network.node_layers, network.activations(inputs), strict=True)
        return {layer.name: x[..., :2] for layer, x in activations if layer.rotated}

    bases = {name: _first_two(layer) for name, layer in rotated.items()}
    for name, labels in backend.labels(encode, bases).items():
        require(name in rotated, f"labels are for '{name}', which is no rotated node layer")
        require(len(labels) == 2, f"{len(labels)} labels for 2 features of node layer '{name}'")
    names, outputs = backend.output_names(), network.node_layers[-1].size
    require(not names or len(names) == outputs, f"{len(names)} output names for {outputs} outputs")


def _first_two(layer: NodeLayer) -> Basis:
    eye = torch.eye(layer.size, dtype=torch.float64)
    return Basis(eye[:, :2], eye[:2], torch.ones(2, dtype=torch.float64), 0)
