"""Checks that a backend keeps its side of the contract: for the tests of whoever writes one.

    from libgraph.testing import check_backend

    def test_backend():
        check_backend(MyBackend())

Each check fails with an `AssertionError` that says what is wrong with which node layer or section.
"""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor

from libgraph.backend.contract import Backend, Batch, Split
from libgraph.backend.data import Data
from libgraph.network.basis import Basis
from libgraph.network.network import Network, NodeLayer
from libgraph.sections import Section, autodiff
from libgraph.sections.quadrature import Quadrature

TOLERANCE = 1e-9


def check_backend(backend: Backend, *, samples: int = 6) -> None:
    """Check data, network, sections, scores and labels of a backend in float64.

    Args:
        backend: ready to use.
        samples: how many samples the numerical checks use.

    Raises:
        AssertionError: saying what does not hold.
    """
    network = backend.network().double()
    assert backend.network() is not network, (
        "network() returns the same object twice: a change of precision would reach both"
    )
    _check_batches(backend, "train")
    _check_batches(backend, "test")
    (batch,) = islice(Data(backend, "train", batch_size=samples, limit=samples), 1)
    with torch.no_grad():
        _check_network(network, batch)
        for x, (a, b, section) in zip(
            network.activations(batch.inputs), network.pairs, strict=False
        ):
            check_section(section, x, name=f"{a.name}->{b.name}")
        _check_scores(backend, network, batch)
        _check_labels(backend, network)


def check_section(section: Section, x: Tensor, *, name: str = "section") -> None:
    """Check a section's closed forms against automatic differentiation on activations `x`."""
    once = torch.cat([section(x[i : i + 1]) for i in range(len(x))])
    _close(section(x), once, f"{name}: samples see each other, or order matters")
    if section.positionwise:
        apart = torch.stack([section(x[:, t : t + 1])[:, 0] for t in range(x.shape[1])], dim=1)
        _close(section(x), apart, f"{name}: says it is positionwise and is not")
    gram = autodiff.jacobian_gram(section, x)
    _close(section.jacobian_gram(x), gram, f"{name}: Jacobian Gram differs from autodiff")
    generator = torch.Generator().manual_seed(0)
    decoder = torch.randn(5, section.d_in, generator=generator, dtype=x.dtype).to(x.device)
    features = x @ decoder.T
    for quadrature in (Quadrature.gradient(), Quadrature.gauss_legendre(2)):
        edges = autodiff.interactions(section, x, features, decoder, quadrature)
        _close(
            section.interactions(x, features, decoder, quadrature),
            edges,
            f"{name}: interactions ({quadrature.name}) differ from autodiff",
        )
    encoder = torch.randn(section.d_out, 3, generator=generator, dtype=x.dtype).to(x.device)
    # A rotation, so that the section sees x and nothing outside of its domain.
    shape = (section.d_in, section.d_in)
    rotation = torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64)).Q
    rotation = rotation.to(x)
    rebased = section.rebase(rotation, encoder)(x @ rotation.T)
    _close(rebased, section(x) @ encoder, f"{name}: rebase changes the map")
    keep = torch.rand(section.d_in, section.d_out, generator=generator).to(x.device) < 0.5
    few = torch.stack([section(x * keep[:, i].to(x))[..., i] for i in range(section.d_out)], dim=-1)
    _close(section.masked(x, keep), few, f"{name}: masked differs from leaving inputs out")


def _check_batches(backend: Backend, split: Split) -> None:
    first, again = (list(backend.batches(split, 7)) for _ in range(2))
    count = sum(len(batch.inputs) for batch in first)
    assert count == backend.samples(split), (
        f"samples('{split}') is {backend.samples(split)}, but batches have {count}"
    )
    assert all(len(batch.inputs) == len(batch.targets) for batch in first), (
        f"the {split} split has batches with more inputs than targets, or fewer"
    )
    assert all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)
        for a, b in zip(first, again, strict=True)
    ), f"the {split} split comes in another order the second time"


def _check_network(network: Network, batch: Batch) -> None:
    activations = list(network.activations(batch.inputs))
    for layer, x in zip(network.node_layers, activations, strict=True):
        shape = tuple(x.shape)
        wanted = (len(batch.inputs), *shape[1:2], layer.size)
        assert shape == wanted, (
            f"node layer '{layer.name}' has activations of shape {shape}, "
            f"not (samples, positions, {layer.size})"
        )
        if layer.constant:
            ones = torch.ones_like(x[..., -1])
            _close(x[..., -1], ones, f"the last coordinate of node layer '{layer.name}' is not 1")
    _close(network(batch.inputs), activations[-1], "forward and activations disagree")


def _check_scores(backend: Backend, network: Network, batch: Batch) -> None:
    scores = backend.score(network(batch.inputs), batch.targets)
    assert scores.shape == (len(batch.inputs),), (
        f"score returns shape {tuple(scores.shape)}, not one score per sample"
    )
    assert bool(scores.isfinite().all()), "score returns NaN or infinity"


def _check_labels(backend: Backend, network: Network) -> None:
    rotated = {layer.name: layer for layer in network.node_layers if layer.rotated}

    def encode(inputs: Tensor) -> dict[str, Tensor]:
        if inputs.is_floating_point():
            inputs = inputs.double()
        found = zip(network.node_layers, network.activations(inputs), strict=True)
        return {layer.name: x[..., :2] for layer, x in found if layer.rotated}

    bases = {name: _first_two(layer) for name, layer in rotated.items()}
    for name, labels in backend.labels(encode, bases).items():
        assert name in rotated, f"labels are for '{name}', which is no rotated node layer"
        assert len(labels) == 2, f"{len(labels)} labels for 2 features of node layer '{name}'"


def _first_two(layer: NodeLayer) -> Basis:
    eye = torch.eye(layer.size, dtype=torch.float64)
    return Basis(eye[:, :2], eye[:2], torch.ones(2, dtype=torch.float64), 0)


def _close(found: Tensor, expected: Tensor, message: str) -> None:
    assert found.shape == expected.shape, (
        f"{message}: shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    )
    scale = float(expected.abs().max()) or 1.0
    error = float((found.double() - expected.double()).abs().max()) / scale
    assert error < TOLERANCE, f"{message} (by {error:.1e} of the largest)"
