"""Parameters keep the digits that they are stored with, whatever stands beside them."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.language_models import CONFIGURATIONS
from safetensors.torch import load_file, save_file
from torch import nn

from libgraph_backends.cifar.network import ConvNet
from libgraph_backends.lm.libraries import quiet
from libgraph_backends.lm.loading import load_model
from libgraph_backends.shared.checkpoints import load_into, widest
from libgraph_backends.shared.layers import from_state_dict, network_of
from libgraph_backends.shared.state_dicts import StateDict

THIRD = torch.tensor(1 / 3, dtype=torch.float64)
"""Of which single precision has eight digits."""

HALF = torch.float16


def thirds(*shape):
    return THIRD.expand(shape).clone()


def test_a_double_bias_beside_a_half_weight():
    state = StateDict({"0.weight": torch.ones(2, 3).to(HALF), "0.bias": thirds(2)}, "it")
    network = network_of(from_state_dict(state, None, "relu"))
    outputs = network(torch.zeros(1, 3, dtype=torch.float64))
    assert outputs.flatten().tolist() == [1 / 3, 1 / 3]


def test_a_double_bias_of_a_conv_net():
    tensors = {
        "0.weight": torch.ones(2, 3, 3, 3), "0.bias": thirds(2),
        "1.weight": torch.ones(10, 2), "1.bias": thirds(10),
    }  # fmt: skip
    network = ConvNet.from_state_dict(StateDict(tensors, "it"), (1,)).network().double()
    network.embed.mean.zero_()
    outputs = network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    # Both channels are 1/3 everywhere.
    assert torch.allclose(outputs, 3 * THIRD, rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_a_module_takes_on_the_digits_of_its_weights(tmp_path, kind):
    module = nn.Linear(3, 2).to(kind)
    save_file({"weight": thirds(2, 3), "bias": torch.ones(2).to(HALF)}, tmp_path / "w.safetensors")
    load_into(module, tmp_path / "w.safetensors")
    assert module.weight.dtype == torch.float64
    assert torch.equal(module.weight.detach(), thirds(2, 3))


def test_a_module_with_digits_enough_stays_as_it_is(tmp_path):
    module = nn.Linear(3, 2)
    save_file({"weight": torch.ones(2, 3).to(HALF), "bias": torch.ones(2)}, tmp_path / "w.pt")
    load_into(module, tmp_path / "w.pt")
    assert module.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([HALF, HALF], HALF),
        ([HALF, torch.bfloat16], torch.float32),
        ([HALF, torch.float64, torch.int64], torch.float64),
        ([torch.int64], torch.float32),
    ],
)
def test_what_holds_numbers_of_several_kinds(kinds, expected):
    assert widest(kinds) == expected


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_language_model_with_a_double_bias(tmp_path, wrapped):
    import transformers

    config = next(iter(CONFIGURATIONS.values()))
    with quiet():
        transformers.AutoModelForCausalLM.from_config(config).half().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("bias"))
    tensors[name] = thirds(*tensors[name].shape)
    if wrapped:
        torch.save({"model": tensors}, tmp_path / "w.pt")
        path.unlink()
    else:
        save_file(tensors, path, {"format": "pt"})
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
    loaded = load_model(str(tmp_path / "w.pt" if wrapped else tmp_path), None).model
    parameters = dict(loaded.model.named_parameters())
    assert torch.equal(parameters[name].detach().double(), tensors[name])
