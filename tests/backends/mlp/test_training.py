"""Training on digits: from the seed, with a record."""

import pytest
import torch
from safetensors.torch import load_file

from libgraph.backend.train import train
from libgraph_backends.mlp.backend import MLP
from libgraph_backends.mlp.options import TrainingOptions

SMALL = {"task": "digits", "hidden": "5", "steps": 40}


def test_training_starts_at_the_seed(tmp_path):
    for number, seed in enumerate((0, 0, 1)):
        record = train(MLP, {**SMALL, "seed": seed}, tmp_path / str(number))
        assert record.outcome["sizes"] == [64, 5, 10]
    a, b, c = (load_file(tmp_path / f"{i}" / "model.safetensors") for i in range(3))
    assert list(a) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert torch.equal(a["0.weight"], b["0.weight"])
    assert not torch.equal(a["0.weight"], c["0.weight"])


def test_training_learns_digits(tmp_path):
    record = train(MLP, {**SMALL, "hidden": "16", "steps": 300}, tmp_path / "model")
    assert record.history[-1]["test_accuracy"] > 0.85
    backend = MLP(MLP.Options(task="digits", model=tmp_path / "model" / "model.safetensors"))
    (batch,) = backend.batches("test", 1000)
    right = backend.score(backend.network()(batch.inputs), batch.targets)
    accuracy = record.history[-1]["test_accuracy"]
    assert float(right.double().mean()) == pytest.approx(accuracy, abs=1.5 / len(right))


def test_the_bundled_weights_were_trained_with_the_defaults():
    assert TrainingOptions().hidden == (32, 32)
