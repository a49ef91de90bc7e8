"""The same numbers on a GPU: every section, the bases, a whole analysis. Skipped without one."""

import pytest
import torch
from helpers.networks import Toy, random_network
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import KINDS, random_section

import libgraph as lg
from libgraph.bases.method import EIGH_ON_DEVICE, Truncation, eigenbasis
from libgraph.sections.quadrature import Quadrature

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]


@pytest.mark.parametrize("rule", ["gradient", "gauss-legendre:2"])
@pytest.mark.parametrize("kind", KINDS)
def test_sections(kind, rule):
    section, x = random_section(kind, 4, 3), normal(seeded(1), 3, 5, 4)
    features, decoder = normal(seeded(2), 3, 5, 6), normal(seeded(3), 6, 4)
    keep = torch.rand(4, 3, generator=seeded(4)) < 0.5

    def results(device):
        at = section.to(device)
        here = [each.to(device) for each in (x, features, decoder)]
        return [
            at(here[0]),
            at.jacobian_gram(here[0]),
            at.interactions(*here, Quadrature.parse(rule)),
            at.masked(here[0], keep.to(device)),
        ]

    expected = results("cpu")
    found = results("cuda")
    assert {each.device.type for each in found} == {"cuda"}
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours.cpu(), theirs)


@pytest.mark.parametrize("size", [5, EIGH_ON_DEVICE + 3])
def test_eigenproblems_stay_on_the_device(size):
    root = normal(seeded(0), size, size)
    gram = root @ root.T
    truncation = Truncation.parse("rel:1e-12")
    values, vectors = eigenbasis(gram.cuda(), truncation, "Gram")
    expected, _ = eigenbasis(gram, truncation, "Gram")
    assert values.is_cuda
    assert vectors.is_cuda
    assert_close(values.cpu(), expected)
    assert_close((vectors * values @ vectors.T).cpu(), gram)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_whole_analysis(dtype):
    network = random_network(["tanh", "attention", "linear"], [4, 4, 4, 3], rotated=False)
    backend = Toy(network.double(), normal(seeded(0), 40, 3, 4))
    runs = [
        lg.analyze(backend, dtype=dtype, device=device, truncate="rel:1e-4")
        for device in ("cpu", "cuda")
    ]
    for name in ("lib", "pca"):
        for layer in network.node_layers:
            ours, theirs = (run.bases(name)[layer.name].importance for run in runs)
            assert_close(ours.cpu(), theirs, 1e-8 if dtype == "float64" else 1e-3)
        for pair in runs[0].edges(name):
            ours, theirs = (run.edges(name)[pair] for run in runs)
            assert_close(ours.cpu(), theirs, 1e-8 if dtype == "float64" else 1e-3)
