"""Files of directions with biases, thresholds and activations are dictionaries."""

import pytest
import torch
from helpers.networks import Toy, random_network
from helpers.numbers import assert_close, normal, seeded
from safetensors.torch import save_file

import libgraph as lg
from libgraph.errors import UsageError
from libgraph.network.dictionary import Dictionary

K, D = 10, 4


@pytest.fixture(scope="module")
def backend():
    network = random_network(["tanh", "linear"], [D, 5, 3], seed=0, rotated=False)
    return Toy(network, normal(seeded(0), 40, 2, D))


def analysed(backend, path, parts, metadata=None):
    tensors = {
        "l0/decoder": normal(seeded(1), K, D) / 3,
        "l0/encoder": normal(seeded(2), D, K),
        **parts,
    }
    save_file(tensors, path, metadata)
    return tensors, lg.analyze(backend, basis=str(path), ablate=False, seeds=1)


@pytest.mark.parametrize("kind", ["bias", "threshold", "relu", "topk:3"])
def test_latents_are_those_of_the_definition(backend, tmp_path, kind):
    bias = normal(seeded(3), K) / 2
    threshold = normal(seeded(4), K).abs()
    parts = {"bias": {"l0/bias": bias}, "threshold": {"l0/threshold": threshold}}.get(kind, {})
    metadata = {"activation": kind} if kind in ("relu", "topk:3") else None
    tensors, run = analysed(backend, tmp_path / "mine.safetensors", parts, metadata)
    basis = run.bases()["l0"]
    assert isinstance(basis, Dictionary)
    x = backend.network().embed(backend.inputs)
    h = x[..., :-1] - x[..., :-1].mean((0, 1))
    pre = h @ tensors["l0/encoder"] + (bias if kind == "bias" else 0)
    z = pre.relu()
    if kind == "threshold":
        z = z * (pre > threshold)
    if kind == "topk:3":
        z = z * (pre >= pre.topk(3).values[..., -1:])
    kept = z @ tensors["l0/decoder"] + x[..., :-1].mean((0, 1))
    assert_close((basis.latents(x) @ basis.decoder)[..., :-1], kept)
    assert_close(basis.latents(x)[..., basis.isolated :].sum(-1), z.sum(-1))


@pytest.mark.parametrize(
    ("parts", "metadata", "message"),
    [
        ({}, {"activation": "gelu"}, "is 'gelu': use relu"),
        ({}, {"l0/activation": "topk:99"}, "topk:K with K up to 10"),
        ({}, {"l7/activation": "relu"}, "'l7/activation' is for no node layer"),
        ({"l0/bias": torch.zeros(3)}, None, "'l0/bias' has 3 numbers for 10 directions"),
        ({"l0/bias": torch.full((K,), torch.inf)}, None, "is NaN or infinite"),
        ({"l1/bias": torch.zeros(K)}, None, "'l1/bias' is there without 'l1/decoder'"),
    ],
)
def test_mistakes_are_named(backend, tmp_path, parts, metadata, message):
    with pytest.raises(UsageError, match=message):
        analysed(backend, tmp_path / "mine.safetensors", parts, metadata)


def test_node_layers_without_directions_keep_lib(backend, tmp_path):
    _, run = analysed(backend, tmp_path / "mine.safetensors", {})
    lib = lg.analyze(backend, basis="lib", ablate=False, seeds=1)
    assert_close(run.bases()["l1"].encoder, lib.bases()["l1"].encoder)
    assert not isinstance(run.bases()["l0"], Dictionary)
