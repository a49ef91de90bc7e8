"""The trainer computes the network of sections, learns, and follows its seed."""

import pytest
import torch
from helpers.modular_addition import small_weights

from libgraph.errors import DataError
from libgraph.progress import silent
from libgraph_backends.modular_addition.backend import ModularAddition
from libgraph_backends.modular_addition.data import all_pairs
from libgraph_backends.modular_addition.network import PARAMETERS
from libgraph_backends.modular_addition.options import ModularAdditionOptions, TrainingOptions
from libgraph_backends.modular_addition.training import initial_weights, logits

TINY = {"modulus": 7, "d_model": 8, "d_mlp": 16, "heads": 2, "steps": 20}


def tiny_options(**options):
    return TrainingOptions(**{**TINY, **options})


def test_the_trainer_writes_weights_that_load(tmp_path):
    history = ModularAddition.train(tiny_options(), tmp_path, silent)["history"]
    path = tmp_path / "model.safetensors"
    # The checkpoint stays until `train` has written its record beside the model.
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {path.name, "checkpoint.safetensors"}
    assert [record["step"] for record in history] == [20]
    backend = ModularAddition(ModularAdditionOptions(weights=path))
    assert backend.modulus == 7
    (test,) = backend.batches("test", 100)
    network = backend.network()
    right = backend.score(network(test.inputs), test.targets).mean()
    assert float(right) == pytest.approx(history[0]["test_accuracy"], abs=1e-6)
    assert list(backend.weights) == list(PARAMETERS)


def test_training_learns_its_training_set(tmp_path):
    options = tiny_options(steps=150, weight_decay=0.0, learning_rate=1e-2)
    history = ModularAddition.train(options, tmp_path, silent)["history"]
    assert history[-1]["loss"] < 0.1


def test_training_repeats_and_follows_its_seed(tmp_path):
    models = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        ModularAddition.train(tiny_options(seed=seed), tmp_path / name, silent)
        models.append((tmp_path / name / "model.safetensors").read_bytes())
    assert models[0] == models[1] != models[2]


def test_a_split_that_would_be_empty_is_refused(tmp_path):
    with pytest.raises(DataError, match="leaves one split empty"):
        ModularAddition.train(tiny_options(modulus=3, frac_train=0.001), tmp_path, silent)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("modulus", [3, 7])
def test_logits_of_the_trainer_are_those_of_the_network(heads, modulus):
    weights = small_weights(seed=heads, d_model=8, d_mlp=16, heads=heads, modulus=modulus)
    inputs = all_pairs(modulus)
    expected = ModularAddition(weights=weights).network()(inputs)[:, -1]
    torch.testing.assert_close(logits(weights, inputs), expected, rtol=1e-10, atol=1e-10)


def test_initial_weights_have_the_variance_of_their_fan_in():
    weights = initial_weights(TrainingOptions())
    for name, fan_in in (
        ("embed.W_E", 128),
        ("blocks.0.attn.W_O", 128),
        ("blocks.0.mlp.W_out", 512),
    ):
        assert float(weights[name].detach().var()) * fan_in == pytest.approx(1, abs=0.05)
    assert all(not weight.any() for name, weight in weights.items() if ".b_" in name)
