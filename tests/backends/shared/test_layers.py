"""Modules and state dicts that are no plain network are refused, naming what does not fit."""

import math
from typing import get_args

import pytest
import torch
from torch import nn

from libgraph.errors import BackendError, NumericalError
from libgraph_backends.shared.layers import ACTIVATIONS, ends, from_state_dict
from libgraph_backends.shared.modules import from_module
from libgraph_backends.shared.options import ActivationName
from libgraph_backends.shared.state_dicts import StateDict

UNSUPPORTED = {
    "convolution": ([nn.Linear(4, 4), nn.Conv1d(1, 1, 1)], "Layer '1' of the model is Conv1d"),
    "norm": ([nn.Linear(4, 4), nn.BatchNorm1d(4)], "Layer '1' of the model is BatchNorm1d"),
    "softmax": ([nn.Linear(4, 4), nn.Softmax(1)], "'1' of the model is Softmax"),
    "nested": ([nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))], "Layer '0.1' of the model is"),
    "flatten": ([nn.Flatten(0), nn.Linear(4, 4)], "Layer '0' of the model is Flatten"),
    "widths": (
        [nn.Linear(4, 3), nn.ReLU(), nn.Linear(4, 2)], "Layer '2' of the model takes 4 inputs.* 3",
    ),
    "first": ([nn.ReLU(), nn.Linear(4, 4)], "begins with ReLU"),
    "nothing": ([nn.Identity()], "no linear layer"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_unsupported_layer_is_named(name):
    parts, said = UNSUPPORTED[name]
    with pytest.raises(BackendError, match=said):
        from_module(nn.Sequential(*parts))


def test_a_module_that_is_no_sequential_is_named():
    with pytest.raises(BackendError, match="The model is LSTM"):
        from_module(nn.LSTM(2, 2))


@pytest.mark.parametrize("parameter", ["weight", "bias"])
def test_weights_that_are_not_finite_are_named(parameter):
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    getattr(module[2], parameter).data.view(-1)[0] = math.nan
    with pytest.raises(NumericalError, match="layer '2' of the model"):
        from_module(module)
    with pytest.raises(NumericalError, match=r"'2\.weight' in here"):
        from_state_dict(StateDict(module.state_dict(), "here"), None, "relu")


GOOD = {"a.weight": torch.ones(3, 4), "a.bias": torch.ones(3), "b.weight": torch.ones(2, 3)}
WRONG = {
    "inputs": ({}, (5, 3, 2), "'a.weight' should be 3 × 5, not 3 × 4"),
    "outputs": ({}, (4, 3, 1), "'b.weight' should be 1 × 3, not 2 × 3"),
    "too few sizes": ({}, (4, 3), "2 sizes need 1 weights, not 2: a.weight, b.weight"),
    "chain": ({"b.weight": torch.ones(2, 5)}, None, "'b.weight' should be any × 3, not 2 × 5"),
    "bias": ({"a.bias": torch.ones(4)}, None, "'a.bias' should be 3, not 4"),
    "convolution": ({"a.weight": torch.ones(3, 4, 1)}, None, "'a.weight' should be any × any"),
    "nothing in it": ({"a.weight": torch.ones(0, 4)}, None, "any × any, not 0 × 4"),
    "a number": ({"a.weight": torch.tensor(1.0)}, None, "any × any, not a number"),
    "norm": ({"running_mean": torch.ones(3)}, None, "'running_mean' is no weight"),
    "lone bias": ({"c.bias": torch.ones(3)}, None, "'c.bias' is no weight"),
    "integers": ({"a.weight": torch.ones(3, 4).long()}, None, "'a.weight' should hold floating"),
    "integer biases": ({"a.bias": torch.ones(3).long()}, None, "'a.bias' should hold floating"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_parameter_that_does_not_fit_is_named(kind):
    change, sizes, said = WRONG[kind]
    with pytest.raises(BackendError) as error:
        from_state_dict(StateDict({**GOOD, **change}, "here"), sizes, "relu")
    assert said in str(error.value)
    assert str(error.value).startswith("here: ")


def test_a_state_dict_without_weights_is_refused():
    with pytest.raises(BackendError, match=r"no parameter whose name ends in \.weight"):
        from_state_dict(StateDict({}, "here"), None, "relu")


def test_what_fits_is_taken():
    layers = from_state_dict(StateDict(GOOD, "here"), (4, 3, 2), "relu")
    assert ends(layers) == (4, 2)
    assert layers[0].matrix.shape == (5, 3)
    assert layers[1].matrix[-1].tolist() == [0, 0]


def test_every_activation_has_its_function():
    assert tuple(ACTIVATIONS) == get_args(ActivationName)
