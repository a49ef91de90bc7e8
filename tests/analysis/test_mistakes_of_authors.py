"""Twenty mistakes of whoever writes a backend: each is one sentence, before anything long runs."""

import itertools
from copy import deepcopy

import numpy as np
import pytest
import torch
from helpers.networks import Toy, random_network
from helpers.numbers import normal, seeded
from torch import nn

import libgraph as lg
from libgraph.backend import Backend, Batch, Network, NodeLayer
from libgraph.sections import Function, Linear
from libgraph.testing import check_backend

INPUTS = 0.7 * normal(seeded(1), 30, 1, 3) + 0.3
NETWORK = random_network(["relu", "linear"], [3, 4, 3], seed=2, rotated=False)
KEPT = torch.randn(4, 4, generator=seeded(4))


def toy(**methods):
    """A backend that works, of which some methods are others."""
    kind = type("Changed", (Toy,), methods)
    return kind(NETWORK, INPUTS)


def pairs(inputs, targets, size):
    return [Batch(*part) for part in zip(inputs.split(size), targets.split(size), strict=True)]


class Global(nn.Module):
    """A map with a tensor that nobody knows of."""

    def __init__(self):
        super().__init__()
        self.hidden = [KEPT]

    def forward(self, x):
        return x @ self.hidden[0]


def made_of(section):
    layers = [NodeLayer("first", 4), NodeLayer("second", 4, constant=False)]
    return lambda self: Network(deepcopy(NETWORK.embed), [deepcopy(section)], layers)


class Mixing(nn.Module):
    def forward(self, x):
        return x - x.mean(0, keepdim=True)


counter = itertools.count()


def other_weights(self):
    matrix = torch.eye(4) + next(counter)
    layers = [NodeLayer("first", 4), NodeLayer("second", 4, constant=False)]
    return Network(NETWORK.embed, [Linear(matrix)], layers)


def others(self, split, size):
    return pairs(torch.randn(30, 1, 3), torch.zeros(30), size)


def fails(*_):
    raise KeyError("weights")


TARGETS = torch.zeros(30)

MISTAKES = {
    "a module in place of a network": (
        {"network": lambda self: nn.Linear(3, 3)},
        r"network\(\) of the backend returns a Linear: lg\.cut\(module, example_inputs\) makes one",
    ),
    "no network": (
        {"network": lambda self: None},
        r"network\(\) of the backend returns a NoneType: it has to return a libgraph\.Network",
    ),
    "a network that fails": (
        {"network": fails},
        r"network\(\) of the backend fails with KeyError: 'weights', at .*test_mistakes_of_authors",
    ),
    "a tuple in place of a batch": (
        {"batches": lambda self, split, size: [(INPUTS[:size], TARGETS[:size])]},
        r"batches\('train'\) of the backend yields a tuple: it has to yield Batch",
    ),
    "arrays in place of tensors": (
        {"batches": lambda self, split, size: [Batch(np.zeros((30, 3)), TARGETS)]},
        "yields inputs that are a ndarray: they have to be a tensor, such as of torch.as_tensor",
    ),
    "no targets": (
        {"batches": lambda self, split, size: [Batch(INPUTS, None)]},
        "yields targets that are a NoneType",
    ),
    "fewer targets": (
        {"batches": lambda self, split, size: [Batch(INPUTS, TARGETS[:7])]},
        "yields 30 inputs with 7 targets",
    ),
    "nothing to go through": (
        {"batches": lambda self, split, size: None},
        r"batches\('train'\) of the backend returns a NoneType",
    ),
    "batches that are too large": (
        {"batches": lambda self, split, size: pairs(INPUTS, TARGETS, 30)},
        "yields 30 samples where 8 were asked for",
        {"batch_size": 8},
    ),
    "fewer samples than announced": (
        {"samples": lambda self, split: 40},
        r"samples\('train'\) of the backend is 40, but its batches have 30 samples",
    ),
    "samples that are no number": (
        {"samples": lambda self, split: 30.0},
        r"samples\('train'\) of the backend returns 30\.0: it has to return how many there are",
    ),
    "batches that differ from call to call": (
        {"batches": others},
        "yields other samples the second time: .* shuffle with a seed, or not at all",
    ),
    "weights that differ from call to call": (
        {"network": other_weights},
        r"gives other weights the second time \('sections\.0\.matrix'\): make them once",
    ),
    "a float in place of scores": (
        {"score": lambda self, outputs, targets: 0.5},
        r"score\(\) of the backend returns a float: .* one score a sample, not their mean",
    ),
    "the mean in place of scores": (
        {"score": lambda self, outputs, targets: outputs.mean()},
        r"score\(\) of the backend returns shape \(\) for 4 samples",
    ),
    "a score for each output": (
        {"score": lambda self, outputs, targets: outputs},
        r"score\(\) of the backend returns shape \(4, 1, 3\) for 4 samples",
    ),
    "a score that fails": (
        {"score": lambda self, outputs, targets: outputs @ targets},
        r"score\(\) of the backend fails with RuntimeError: .*, at .*test_mistakes_of_authors",
    ),
    "a tensor that is not cast": (
        {"network": made_of(Function(Global(), 4, 4))},
        r"section first->second fails with RuntimeError: .* register it \(nn\.Module\.register_",
    ),
    "an output of another shape": (
        {"network": made_of(Function(lambda x: x[..., :2], 4, 4))},
        r"Node layer 'second' has activations of shape \(4, 1, 2\): they need",
    ),
    "several outputs": (
        {"network": made_of(Function(lambda x: (x, x), 4, 4))},
        "Node layer 'second' is given a tuple: activations are one tensor",
    ),
    "samples that see each other": (
        {"network": made_of(Function(Mixing(), 4, 4))},
        "other outputs for a sample alone than among others: samples must not see each other",
    ),
    "whole numbers for weights": (
        {"network": made_of(Linear(torch.eye(4, dtype=torch.long)))},
        r"section first->second fails with RuntimeError",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake):
    methods, message, *options = MISTAKES[mistake]
    with pytest.raises(lg.BackendError, match=message) as caught:
        lg.analyze(toy(**methods), **dict(*options))
    assert "\n" not in str(caught.value)


def test_a_method_that_is_missing():
    class Half(Backend):
        name = "half"

        def network(self):
            return NETWORK

        def samples(self, split):
            return 3

    with pytest.raises(lg.BackendError, match=r"backend Half has no batches\(\), score\(\), which"):
        Half()


def test_options_of_another_type():
    with pytest.raises(lg.UsageError, match="takes options of the type TypedOptions, not a dict"):
        Toy.__mro__[1].__init__(toy(), {"seed": 1})


def test_closures_work_in_any_precision():
    """Tensors and modules that a function holds are cast with it, and stay as they were."""
    matrix, layer = torch.randn(4, 4, generator=seeded(3)), nn.Linear(4, 4)

    def closure(x):
        return layer(x @ matrix)

    for dtype in (torch.float64, torch.float32):
        section = Function(closure, 4, 4).to(dtype)
        assert section(torch.ones(2, 1, 4, dtype=dtype)).dtype == dtype
    assert matrix.dtype == layer.weight.dtype == torch.float32
    run = lg.analyze(toy(network=made_of(Function(closure, 4, 4))), ablate=False)
    assert run.metrics is not None


def test_a_network_is_compared_with_its_model():
    class Model(nn.Module):
        def __init__(self, by):
            super().__init__()
            self.network, self.by = NETWORK, by

        def forward(self, x):
            return self.by * self.network(x)[:, 0]

    check_backend(toy(), matches=Model(1.0))
    check_backend(toy(), matches=lambda x: NETWORK.double()(x)[:, 0])
    with pytest.raises(AssertionError, match=r"something else than the model: outputs differ by 1"):
        check_backend(toy(), matches=Model(1.001))
    with pytest.raises(AssertionError, match=r"the network has 3 outputs a sample"):
        check_backend(toy(), matches=lambda x: x[..., :2])
