"""Passages that do not fit their node layer are named before anything is computed with them."""

import dataclasses

import pytest
import torch
from helpers.dictionaries import WIDTH, network_with_mlp

from libgraph.errors import BackendError
from libgraph.network.network import Network

WRONG = {
    "fewer": ({"passing": (0, 2)}, "should be as many, apart, and below 9"),
    "outside": ({"written": (6, 10)}, r"writes coordinates \(6, 10\)"),
    "both": ({"passing": (WIDTH - 1, 2 * WIDTH - 1)}, "apart"),
    "none": ({"written": (4, 4), "passing": (0, 0)}, "as many"),
    "reader": ({"readers": {"mlp": torch.eye(3)}}, r"reads mlp with a matrix of shape \(3, 3\)"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_named(wrong):
    changes, message = WRONG[wrong]
    network = network_with_mlp()[0].network()
    layers = [*network.node_layers]
    passage = dataclasses.replace(layers[1].passage, **changes)
    layers[1] = dataclasses.replace(layers[1], passage=passage)
    with pytest.raises(BackendError, match=message):
        Network(network.embed, list(network.sections), layers)
