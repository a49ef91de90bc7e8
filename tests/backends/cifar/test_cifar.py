"""The CIFAR-10 backend: conv nets and MLPs as sections, their data, training and options."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import fails
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import libgraph as lg
from libgraph.backend.train import train_model
from libgraph.files.weights import read_weights
from libgraph.testing import check_backend
from libgraph_backends.cifar.backend import BUNDLED, CIFAR
from libgraph_backends.cifar.options import CIFAROptions, TrainingOptions
from libgraph_backends.cifar.training import initial_model, normalised, schedule, varied

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "cifar10"
real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no CIFAR-10 in {REAL}")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Batches of made-up images, lighter from class to class: two for training, one for tests."""
    directory = tmp_path_factory.mktemp("cifar10")
    random = np.random.default_rng(0)
    for name in ("data_batch_1", "data_batch_3", "test_batch"):
        records = random.integers(0, 76, (30, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(30) % 10
        records[:, 1:] += 20 * records[:, :1]
        records.tofile(directory / f"{name}.bin")
    return directory


def model(arch="conv", **options):
    torch.manual_seed(0)
    return initial_model(TrainingOptions(arch=arch, **options))


def written(module, path):
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)
    return path


# Networks


@settings(max_examples=20, deadline=None)
@given(
    layers=st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from([1, 3, 5]), st.integers(1, 3)),
        min_size=1,
        max_size=3,
    )
)
def test_the_sections_of_a_conv_net_compute_what_torch_does(layers, data, tmp_path_factory):
    channels, kernels, strides = zip(*layers, strict=True)
    module = model(channels=channels, kernels=kernels, strides=strides)
    path = written(module, tmp_path_factory.mktemp("model") / "model.safetensors")
    backend = CIFAR(CIFAROptions(data=data, model=path, strides=strides))
    images = next(backend.batches("test", 4)).inputs
    network = backend.network().double()
    torch.testing.assert_close(
        network(images)[:, 0], module.double()(normalised(images).double()), atol=1e-6, rtol=0
    )


def test_the_sections_of_the_mlp_compute_what_torch_does(data, tmp_path):
    module = model("mlp", hidden=(7, 5))
    path = written(module, tmp_path / "model.safetensors")
    backend = CIFAR(CIFAROptions(arch="mlp", data=data, model=path))
    images = next(backend.batches("test", 4)).inputs
    torch.testing.assert_close(
        backend.network()(images)[:, 0], module(normalised(images)), atol=1e-5, rtol=0
    )


SMALL = {
    "conv": {"channels": (3, 2), "kernels": (5, 3), "strides": (5, 4)},
    "mlp": {"hidden": (4, 3)},
}


def backend_of(arch, data, directory, **options):
    path = written(model(arch, **SMALL[arch]), directory / "model.safetensors")
    if arch == "conv":
        options["strides"] = SMALL[arch]["strides"]
    return CIFAR(CIFAROptions(arch=arch, data=data, model=path, **options))


@pytest.mark.parametrize("arch", ["conv", "mlp"])
def test_it_is_a_backend(arch, data, tmp_path):
    check_backend(backend_of(arch, data, tmp_path), samples=3)


@pytest.mark.parametrize("arch", ["conv", "mlp"])
def test_the_whole_analysis(arch, data, tmp_path):
    run = lg.analyze(backend_of(arch, data, tmp_path, samples=40), out=tmp_path / "run")
    assert run.metrics.score.name == "accuracy"
    assert set(run.sparsity["lib"].edges_required["input->" + LAST[arch]]) == {0.001, 0.01}
    labels = run.graph().layer("input").labels
    assert labels[0].text == "constant"
    assert any(" 3" in label.text for label in labels)
    assert "airplane" in (tmp_path / "run" / "graph.graphml").read_text(encoding="utf-8")


LAST = {"conv": "conv1", "mlp": "hidden1"}


def test_feature_maps_are_as_large_as_said(data):
    backend = CIFAR(CIFAROptions(data=data))
    batch = next(backend.batches("train", 2))
    network, widths = backend._conv_net()
    network.double()
    for layer, x in zip(network.node_layers, network.activations(batch.inputs), strict=True):
        assert x.shape[1] == widths.get(layer.name, 1) ** 2
        if layer.constant:
            assert (x[..., -1] == 1).all()


def test_images_are_moved_and_mirrored():
    images = torch.randint(256, (200, 3, 32, 32), dtype=torch.uint8)
    found = varied(images, torch.Generator().manual_seed(0))
    padded = nn.functional.pad(images, (4,) * 4)
    seen = set()
    for image, one in zip(padded, found, strict=True):
        matches = [
            (row, column, mirrored)
            for row in range(9)
            for column in range(9)
            for mirrored in (False, True)
            if torch.equal(
                one,
                (lambda part: part.flip(-1) if mirrored else part)(
                    image[:, row : row + 32, column : column + 32]
                ),
            )
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) > 100


# Training

TINY = {"channels": "3,2", "kernels": "5,3", "strides": "5,4", "batch_size": "8", "steps": "1000"}


@pytest.mark.parametrize("arch", ["conv", "mlp"])
def test_a_trained_network_is_what_is_analysed(arch, data, tmp_path, run, caplog):
    options = {"arch": arch, "data": str(data), **TINY, "hidden": "4,3", "steps": "20"}
    pairs = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    code, out, err = run("train", "cifar", *pairs, "-o", "keep_every=10", "--out", "model")
    assert code == 0, err
    assert "60 training images: there is no data_batch_2.bin" in caplog.text
    assert "test_accuracy" in out
    weights = read_weights(tmp_path / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    kept = read_weights(tmp_path / "model" / "steps" / "000020.safetensors")
    assert all(torch.equal(kept[name].half(), weights[name]) for name in weights)
    strides = ["-o", "strides=5,4"] if arch == "conv" else []
    where = tmp_path / "model" / "model.safetensors"
    code, out, err = run(
        "analyze", "cifar", "-o", f"arch={arch}", "-o", f"data={data}", "-o", f"model={where}",
        *strides, "--out", "run",
    )  # fmt: skip
    assert code == 0, err
    assert "Δ 0.01" in out


def test_training_lowers_the_loss_and_goes_on_where_it_stopped(data, tmp_path, monkeypatch):
    from libgraph import fit as training

    options = {"data": str(data), **TINY}
    straight = train_model(CIFAR, options, tmp_path / "straight")
    # What a guess would cost is ln 10.
    assert straight["history"][-1]["test_loss"] < 0.8 * math.log(10)
    saved = training._save

    def stop(*arguments):
        saved(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_save", stop)
    with pytest.raises(KeyboardInterrupt):
        train_model(CIFAR, options, tmp_path / "resumed")
    monkeypatch.setattr(training, "_save", saved)
    train_model(CIFAR, options, tmp_path / "resumed")
    assert (tmp_path / "straight" / "model.safetensors").read_bytes() == (
        tmp_path / "resumed" / "model.safetensors"
    ).read_bytes()


def test_the_learning_rate_rises_and_falls():
    rates = [schedule(step, 1000) for step in range(1000)]
    assert rates.index(max(rates)) in range(150, 200)
    assert rates[0] == 0.005
    assert rates[-1] < 1e-4


@real_data
@pytest.mark.parametrize(("arch", "accuracy"), [("conv", 0.70), ("mlp", 0.50)])
def test_the_bundled_networks_classify(arch, accuracy):
    backend = CIFAR(CIFAROptions(arch=arch, data=REAL))
    network = backend.network().float()
    with torch.no_grad():
        scores = [
            backend.score(network(inputs), targets)
            for inputs, targets in backend.batches("test", 1000)
        ]
    assert float(torch.cat(scores).mean()) >= accuracy


def test_bundled_networks_are_small():
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 2**20


# What people get wrong


def test_where_images_are_from(data, run):
    fails(run("analyze", "cifar"), 2, "-o data=DIR", "-o download=true")
    fails(run("train", "cifar"), 2, "-o data=DIR", "-o download=true")
    both = ("-o", f"data={data}", "-o", "download=true")
    fails(run("analyze", "cifar", *both), 2, "give one")
    fails(run("analyze", "cifar", "-o", "data=nowhere"), 4, "nowhere", "data_batch_1")


def test_a_split_without_its_batch(data, tmp_path, run):
    for path in data.glob("data*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    fails(run("analyze", "cifar", "-o", f"data={tmp_path}"), 4, "test_batch")


def test_options_that_do_not_fit_together(data, run):
    where = ("-o", f"data={data}")
    fails(run("train", "cifar", *where, "-o", "channels=3,4"), 2, "2, 4, 4")
    fails(run("train", "cifar", *where, "-o", "kernels=4,3,3,3"), 2, "odd")
    fails(run("train", "cifar", *where, "-o", "channels=3,0,1,1"), 2, "channels.1")
    fails(run("analyze", "cifar", *where, "-o", "strides=2,2"), 3, "2 convolutions", "4, 6, 10")


def changed(**tensors):
    return {**model(**SMALL["conv"]).state_dict(), **tensors}


WRONG = {
    "a batch norm": (changed(**{"1.running_mean": torch.ones(3)}), "'1.running_mean'"),
    "whole numbers": (changed(**{"0.bias": torch.ones(3, dtype=torch.int64)}), "'0.bias'"),
    "a bias of another size": (changed(**{"0.bias": torch.ones(5)}), "'0.bias' should be 3, not 5"),
    "an even kernel": (changed(**{"2.weight": torch.ones(2, 3, 2, 2)}), "'2.weight'", "2 × 2"),
    "other channels": (changed(**{"2.weight": torch.ones(2, 4, 3, 3)}), "× 3 ×", "2 × 4 × 3 × 3"),
    "a readout of pixels": (changed(**{"6.weight": torch.ones(10, 8)}), "outputs × 2", "10 × 8"),
    "grey images": (changed(**{"0.weight": torch.ones(3, 1, 5, 5)}), "1 inputs"),
    "other classes": (
        changed(**{"6.weight": torch.ones(4, 2), "6.bias": torch.ones(4)}),
        "4 outputs",
    ),
    "nothing": ({"x": torch.ones(1)}, "'x'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_models_that_do_not_fit(case, data, tmp_path, run):
    tensors, *parts = WRONG[case]
    save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / "model.safetensors")
    options = ("-o", f"data={data}", "-o", "strides=5,4", "-o", "model=model.safetensors")
    fails(run("analyze", "cifar", *options), 3, "model.safetensors", *parts)


def test_weights_that_are_not_finite(data, tmp_path, run):
    bad = changed(**{"2.bias": torch.full((2,), torch.nan)})
    save_file({n: t.contiguous() for n, t in bad.items()}, tmp_path / "model.safetensors")
    options = ("-o", f"data={data}", "-o", "strides=5,4", "-o", "model=model.safetensors")
    fails(run("analyze", "cifar", *options), 5, "'2.bias'")
