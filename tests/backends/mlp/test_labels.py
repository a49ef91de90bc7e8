"""Labels of MLPs: shares of planted blocks, names of classes."""

import math

import pytest
import torch
from helpers.numbers import normal, seeded
from torch import nn

from libgraph.network.basis import Basis
from libgraph_backends.mlp.backend import MLP
from libgraph_backends.mlp.labels import DIGITS, block_labels, block_shares
from libgraph_backends.mlp.options import MLPOptions
from libgraph_backends.shared.layers import forward


def constant(size):
    """The constant coordinate as the only feature."""
    encoder = torch.zeros(size, 1).double()
    encoder[-1] = 1
    return Basis(encoder, encoder.T, torch.ones(1), 1)


def test_labels_say_which_block_a_feature_is_of():
    planted = MLP(MLPOptions(width=3, layers=1)).planted
    x = planted.inputs(500, 0)
    # Unit 1 alone, unit 4 alone, then both; the constant coordinate says nothing.
    wanted = torch.zeros(6, 3).double()
    wanted[1, 0] = wanted[4, 1] = 1
    scale = next(forward(planted.plain, x)).std(0, correction=0)
    wanted[1, 2], wanted[4, 2] = 1 / scale[1], math.sqrt(3) / scale[4]
    encoder = torch.cat([torch.linalg.inv(planted.changes[1]) @ wanted, torch.ones(1, 3).double()])
    basis = Basis(encoder, encoder.T, torch.ones(3), 0)
    left_alone = Basis(encoder, encoder.T, torch.ones(3), 0, rotated=False)
    labels = block_labels(
        planted, x, {"input": constant(7), "hidden1": basis, "output": left_alone}
    )
    assert set(labels) == {"input", "hidden1"}
    assert [label.concept for label in labels["hidden1"][:2]] == ["0", "1"]
    assert labels["hidden1"][0].text == "100% block 0"
    assert labels["hidden1"][2].concepts["1"] == pytest.approx(0.75)
    assert labels["hidden1"][2].text == "75% block 1 | 25% block 0"
    assert [label.text for label in labels["input"]] == ["constant"]
    assert labels["input"][0].concept is None


def test_shares_of_blocks_are_variances_of_their_parts():
    x, coefficients = normal(seeded(0), 400, 5), normal(seeded(1), 5, 3)
    coefficients[:, 2] = 0
    members = torch.tensor([0, 2, 0, 1, 2])
    shares = block_shares(x.T.cov(correction=0), members, coefficients, 3)
    for j in range(2):
        parts = [(x * (members == block)) @ coefficients[:, j] for block in range(3)]
        variances = torch.stack([part.var(correction=0) for part in parts])
        torch.testing.assert_close(shares[j], variances / variances.sum())
    assert shares[2].tolist() == [0, 0, 0]


def coordinates(backend):
    """What `labels` is called with: all coordinates of the inputs as features."""
    eye = torch.eye(backend.network().node_layers[0].size)
    bases = {"input": Basis(eye, eye, torch.ones(len(eye)), 0)}
    return backend.labels(lambda x: {"input": backend.network().embed(x)}, bases)


def test_classes_of_ones_own_have_numbers():
    inputs, targets = normal(seeded(0), 40, 2), torch.arange(40) % 2
    inputs[:, 0] = targets.double()
    module = nn.Sequential(nn.Linear(2, 2))
    labels = coordinates(MLP(module=module, inputs=inputs, targets=targets))
    assert labels["input"][0].text.startswith("100% class 1 > class 0 | ")
    # Without classes there is nothing to tell apart.
    assert coordinates(MLP(module=module, inputs=inputs)) == {}


def test_digits_have_names():
    labels = coordinates(MLP(MLPOptions(task="digits")))
    concepts = {name for label in labels["input"] for name in label.concepts}
    assert concepts <= set(DIGITS)
    assert len(concepts) == 10
