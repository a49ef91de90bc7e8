"""Networks of images are trained, and what was trained is analysed."""

import math
from pathlib import Path

import pytest
import torch
from helpers.cifar import small_backend
from helpers.commands import fails
from torch import nn

import libgraph as lg
from libgraph.backend.train import train
from libgraph.files.weights import read_weights
from libgraph_backends.cifar.backend import CIFAR
from libgraph_backends.cifar.options import CIFAROptions
from libgraph_backends.cifar.training import learning_rate_share, varied

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "cifar10"
TINY = {"channels": "3,2", "kernels": "5,3", "strides": "5,4", "hidden": "4,3", "batch_size": "8"}
FIRST = {"conv": "conv1", "mlp": "hidden1"}


def pairs(**options):
    return [part for name, value in options.items() for part in ("-o", f"{name}={value}")]


@pytest.mark.parametrize("arch", ["conv", "mlp"])
def test_a_trained_network_is_what_is_analysed(arch, small_data, tmp_path, run, caplog):
    source = {"arch": arch, "data": small_data}
    options = pairs(**source, **TINY, steps=20, keep_every=10)
    code, out, err = run("train", "cifar", *options, "--out", "model")
    assert code == 0, err
    assert "60 training images: there is no data_batch_2.bin" in caplog.text
    assert "test_accuracy" in out
    where = tmp_path / "model" / "model.safetensors"
    weights = read_weights(where)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    last = read_weights(tmp_path / "model" / "steps" / "000020.safetensors")
    assert all(torch.equal(last[name].half(), weights[name]) for name in weights)
    strides = {"strides": "5,4"} if arch == "conv" else {}
    options = pairs(**source, **strides, model=where)
    code, out, err = run("analyze", "cifar", *options, "--out", "run")
    assert code == 0, err
    assert "Δ 0.01" in out
    assert "airplane" in (tmp_path / "run" / "graph.graphml").read_text(encoding="utf-8")


@pytest.mark.parametrize("arch", ["conv", "mlp"])
def test_the_whole_analysis(arch, small_data, tmp_path):
    run = lg.analyze(small_backend(arch, small_data, tmp_path, samples=40))
    assert run.metrics.score.name == "accuracy"
    required = run.sparsity["lib"].edges_required
    assert set(required["input->" + FIRST[arch]]) == {0.001, 0.01}
    labels = run.graph().layer("input").labels
    assert labels[0].text == "constant"
    assert any(" 3" in label.text for label in labels)


def test_training_lowers_the_loss(data, tmp_path):
    record = train(CIFAR, {"data": str(data), **TINY, "steps": "1000"}, tmp_path / "model")
    # What a guess would cost is ln 10.
    assert record.history[-1]["test_loss"] < 0.8 * math.log(10)


def test_images_are_moved_and_mirrored():
    images = torch.randint(256, (200, 3, 32, 32), dtype=torch.uint8)
    moved = varied(images, torch.Generator().manual_seed(0))
    # Every image as it could have become, by rows, columns and mirroring.
    windows = nn.functional.pad(images, (4,) * 4).unfold(2, 32, 1).unfold(3, 32, 1)
    candidates = torch.stack([windows, windows.flip(-1)], dim=1)
    same = (candidates == moved[:, None, :, None, None]).all(-1).all(-1).all(2)
    assert (same.flatten(1).sum(1) == 1).all()
    assert len(same.nonzero()[:, 1:].unique(dim=0)) > 100


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate_share(step, 1000) for step in range(1000)]
    highest = rates.index(max(rates))
    assert highest in range(150, 200)
    assert rates[:highest] == sorted(rates[:highest])
    assert rates[highest:] == sorted(rates[highest:], reverse=True)
    assert rates[0] == 0.005
    assert rates[-1] < 1e-4


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no CIFAR-10 in {REAL}")
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
