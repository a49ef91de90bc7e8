"""Labels of MLPs: shares of planted blocks, names of classes."""

import math

import pytest
import torch
from helpers.numbers import normal, seeded
from torch import nn

from libgraph.errors import UsageError
from libgraph.network.basis import Basis
from libgraph_backends.mlp.backend import MLP
from libgraph_backends.mlp.labels import DIGITS, block_labels, input_labels, variance_shares
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
    # Blocks do not depend on each other, but in 500 samples correlate by about 1/√500.
    assert labels["hidden1"][2].concepts["1"] == pytest.approx(0.75, abs=4 * 0.045 * 0.43)
    assert sum(labels["hidden1"][2].concepts.values()) == pytest.approx(1)
    assert labels["hidden1"][2].text.endswith("% block 0")
    assert [label.text for label in labels["input"]] == ["constant"]
    assert labels["input"][0].concept is None


def test_shares_of_groups_are_of_the_whole_variance():
    # Inputs that covary: the variances of the parts do not add up to that of the feature.
    x = normal(seeded(0), 400, 5) + normal(seeded(2), 400, 1)
    coefficients = normal(seeded(1), 5, 3).abs()
    coefficients[:, 2] = 0
    members = torch.tensor([0, 2, 0, 1, 2])
    shares = variance_shares(x.T.cov(correction=0), members, coefficients, 3)
    for j in range(2):
        f = x @ coefficients[:, j]
        parts = [(x * (members == group)) @ coefficients[:, j] for group in range(3)]
        covariances = torch.stack([((p - p.mean()) * (f - f.mean())).mean() for p in parts])
        torch.testing.assert_close(shares[j], covariances / f.var(correction=0))
        torch.testing.assert_close(shares[j].sum(), torch.tensor(1.0).double())
    assert shares[2].tolist() == [0, 0, 0]


def test_a_part_that_lowers_the_variance_has_none_of_it():
    x = normal(seeded(0), 400, 1) * torch.tensor([1.0, 1.0]) + 1e-3 * normal(seeded(1), 400, 2)
    coefficients = torch.tensor([[2.0], [-1.0]]).double()
    shares = variance_shares(x.T.cov(correction=0), torch.arange(2), coefficients, 2)
    assert shares.tolist() == [[1.0, 0.0]]


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


def test_inputs_have_names():
    x = normal(seeded(0), 300, 3) * torch.tensor([1.0, 2.0, 1.0])
    basis = constant(4)
    assert input_labels(x, basis, "abc")[0].text == "constant"
    module = nn.Sequential(nn.Linear(3, 2))
    backend = MLP(module=module, inputs=x, input_names=["a", "b", "c"], output_names=["y", "n"])
    labels = coordinates(backend)["input"]
    assert [label.text for label in labels] == ["100% a", "100% b", "100% c", "constant"]
    assert tuple(backend.output_names()) == ("y", "n")
    encoder = torch.tensor([[1.0], [1.0], [0.0], [0.0]]).double()
    (both,) = input_labels(x, Basis(encoder, encoder.T, torch.ones(1), 0), "abc")
    assert both.text.startswith(("80% b | 2", "79% b | 2", "81% b | 1"))
    assert sum(both.concepts.values()) == pytest.approx(1)


def test_shares_of_inputs_that_go_together_sum_to_one():
    a, b = normal(seeded(0), 2, 400)
    x = torch.stack([a, b, 0.5 * (a + b) + 0.3 * normal(seeded(1), 400)], dim=1)
    encoder = torch.tensor([[0.7, 1.0], [1.0, -0.6], [-0.6, 0.2], [0, 0]]).double()
    labels = input_labels(x, Basis(encoder, encoder.T, torch.ones(2), 0), "abc")
    for label in labels:
        assert sum(label.concepts.values()) == pytest.approx(1)
        assert max(label.concepts.values()) <= 1


def test_a_feature_of_many_small_parts_is_no_constant():
    x = normal(seeded(0), 3000, 1000)
    encoder = torch.ones(1001, 1).double()
    (label,) = input_labels(
        x, Basis(encoder, encoder.T, torch.ones(1), 0), [str(i) for i in range(1000)]
    )
    assert (label.text, dict(label.concepts)) == ("many small parts", {})


@pytest.mark.parametrize(
    "names", [{"input_names": ["a", "b"]}, {"output_names": "abc"}, {"output_names": []}]
)
def test_names_are_as_many_as_what_they_name(names):
    backend = MLP(module=nn.Sequential(nn.Linear(3, 2)), **names)
    with pytest.raises(UsageError, match=rf"{next(iter(names))} has . names for .: give one each"):
        backend.network()


def test_names_are_for_models_of_ones_own():
    with pytest.raises(UsageError, match="leave input_names= and output_names= out"):
        MLP(MLPOptions(input_names="a,b"))


def test_classes_have_the_names_of_the_outputs():
    inputs, targets = normal(seeded(0), 40, 2), torch.arange(40) % 2
    inputs[:, 0] = targets.double()
    module = nn.Sequential(nn.Linear(2, 2))
    backend = MLP(module=module, inputs=inputs, targets=targets, output_names=["no", "yes"])
    assert coordinates(backend)["input"][0].text.startswith("100% yes > no | ")


def test_outputs_have_names():
    assert MLP(MLPOptions(task="digits")).output_names() == DIGITS
    planted = MLP(MLPOptions(blocks=2, width=1, layers=1)).output_names()
    assert planted == ["output 0, block 0", "output 1, block 1"]
    assert MLP(module=nn.Sequential(nn.Linear(3, 2))).output_names() == ["output 0", "output 1"]


def test_digits_have_names():
    labels = coordinates(MLP(MLPOptions(task="digits")))
    concepts = {name for label in labels["input"] for name in label.concepts}
    assert concepts <= set(DIGITS)
    assert len(concepts) == 10
