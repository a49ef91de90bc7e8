"""What a backend of one's own may get wrong: told in a sentence, before numbers are wrong."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from helpers.networks import Toy, random_network
from helpers.numbers import normal, seeded
from torch import nn

import libgraph as lg
from libgraph.analysis.stages import AnalysisStages
from libgraph.errors import BackendError, UsageError
from libgraph.network.network import Network, NodeLayer
from libgraph.pipeline.options import AnalysisOptions
from libgraph.sections import Function
from libgraph.testing import check_backend

INPUTS = 0.7 * normal(seeded(1), 30, 1, 3) + 0.3


def toy(**changes) -> Toy:
    backend = Toy(random_network(["relu", "linear"], [3, 4, 3], seed=2, rotated=False), INPUTS)
    for name, value in changes.items():
        setattr(backend, name, value)
    return backend


class Rows(nn.Module):
    """Inputs as they are."""

    def forward(self, x):
        return x


class WithTwo(nn.Module):
    """Inputs with a two appended."""

    def forward(self, x):
        return torch.cat([x, torch.full_like(x[..., :1], 2.0)], dim=-1)


@pytest.mark.parametrize(
    ("embed", "sentence"),
    [
        (
            Rows(),
            r"'l0' .* shape \(4, 1, 3\): they need \(samples, positions, 4\)",
        ),
        (nn.Flatten(), r"'l0' has activations of shape \(4, 3\)"),
        (
            WithTwo(),
            r"coordinate of node layer 'l0' is not 1 \(its mean is 2, .*constant=False",
        ),
    ],
)
def test_activations_that_are_no_activations(embed, sentence):
    backend = toy()
    plain = backend._network
    backend._network = Network(embed, list(plain.sections), plain.node_layers)
    with pytest.raises(BackendError, match=sentence):
        lg.analyze(backend)


def test_a_constant_that_a_section_loses():
    def square(x):
        return torch.cat([x[..., :3] ** 2, x[..., :1]], dim=-1)

    plain = toy()._network
    layers = [plain.node_layers[0], NodeLayer("squares", 4)]
    network = Network(plain.embed, [Function(square, 4, 4)], layers)
    with pytest.raises(BackendError, match="'squares' is not 1"):
        lg.analyze(Toy(network, INPUTS))
    layers[1] = NodeLayer("squares", 4, constant=False)
    lg.analyze(Toy(Network(plain.embed, [Function(square, 4, 4)], layers), INPUTS), ablate=False)


def test_a_model_that_all_networks_share():
    """Its cast to the precision of scores would change what interactions are computed with."""
    plain = toy()._network
    inner = nn.Linear(4, 3).double()

    def shared(section):
        return Network(plain.embed, [Function(section, 4, 3)], [*plain.node_layers[::2]])

    backend = Toy(shared(inner), INPUTS)
    backend.network = lambda: shared(inner)
    with pytest.raises(BackendError, match=r"gives what it gave before.*deepcopy"):
        lg.analyze(backend)
    with pytest.raises(AssertionError, match="the same model in it"):
        check_backend(backend)
    backend.network = lambda: shared(deepcopy(inner))
    check_backend(backend)
    lg.analyze(backend)


def test_batches_and_scores_that_are_none(monkeypatch):
    backend = toy(batches=lambda split, size: iter([(INPUTS, torch.zeros(30))]))
    with pytest.raises(BackendError, match=r"yields a tuple: it has to yield Batch"):
        lg.analyze(backend)
    backend = toy(score=lambda outputs, targets: outputs.mean())
    with pytest.raises(BackendError, match=r"returns shape \(\) for 4 samples: .*one score"):
        lg.analyze(backend)


def test_runs_are_no_graphs(tmp_path):
    run = lg.analyze(toy(), ablate=False)
    for call in (lg.draw, lg.write_graphml):
        with pytest.raises(UsageError, match="ComputedRun is no interaction graph: give its"):
            call(run, tmp_path / "graph.png")
    assert not any(tmp_path.iterdir())


ANYWHERE = {"dtype", "device", "batch_size", "memory", "limit", "truncate"}
"""What every stage depends on (`Workload.facts`)."""


NO_STAGE = {"lesions", "ablate", "beside", "halves", "objective", "resolution", "seeds"}
"""What decides which stages there are, or changes what is made of their results anew each time."""


def test_every_option_is_read_by_a_stage():
    """One that is not would leave the results of an earlier run as they were."""
    options = AnalysisOptions(basis="sparse", beside=("dictionary",), signs=2, halves=True, draws=1)
    reads = {name for stage in AnalysisStages.of(options, toy().network()) for name in stage.reads}
    assert set(AnalysisOptions.model_fields) - reads - ANYWHERE - NO_STAGE == set()
