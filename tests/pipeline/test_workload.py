"""What analyses work on: batches, limits, and the facts that say whether a result still holds."""

import json
from functools import partial

import pytest
import torch
from helpers.networks import Toy, ToyLoss, random_network
from helpers.numbers import normal, seeded
from helpers.sections import AppendOne
from safetensors.torch import save_file

import libgraph as lg
from libgraph.accumulate.memory import least_memory
from libgraph.degeneracy.measure import measure_degeneracy
from libgraph.network.network import Network, NodeLayer
from libgraph.pipeline.options import ComputingOptions
from libgraph.pipeline.workload import Workload
from libgraph.sections import SkipMLP

OPTIONS = ComputingOptions()


def planted(seed):
    return random_network(["relu", "linear"], [5, 4, 3], seed=seed, rotated=False)


def unnamed(function):
    """A network with an activation that its representation cannot tell from others."""
    shapes = (6, 6), (6, 4), (4, 6)
    section = SkipMLP(*(normal(seeded(i), *shape) for i, shape in enumerate(shapes)), function)
    return Network(AppendOne(), [section], [NodeLayer("a", 6), NodeLayer("b", 6, constant=False)])


@pytest.fixture
def network():
    return planted(0)


@pytest.fixture
def x(network):
    return normal(seeded(1), 40, 1, network.node_layers[0].size - 1)


def facts(backend, options=OPTIONS):
    workload = Workload(backend, options)
    return workload.facts(workload.train, workload.data("test"))


def test_facts_are_the_same_for_the_same(network, x):
    assert facts(Toy(network, x)) == facts(Toy(network, x.clone()))
    # They end up in JSON, whose hash they make.
    assert json.loads(json.dumps(facts(Toy(network, x)))) == facts(Toy(network, x))


@pytest.mark.parametrize(
    ("name", "value"),
    [("limit", 7), ("dtype", "float32"), ("batch_size", 3), ("truncate", "abs:1e-3")],
)
def test_facts_depend_on_options(network, x, name, value):
    options = ComputingOptions(**{name: value})
    assert facts(Toy(network, x), options) != facts(Toy(network, x))


def test_facts_depend_on_the_model_its_data_and_its_score(network, x):
    known = facts(Toy(network, x))
    assert facts(Toy(planted(1), x, Toy(network, x).targets)) != known
    assert facts(ToyLoss(network, x)) != known
    other = x.clone()
    other[-1, 0, 0] += 1
    targets = Toy(network, x).targets
    assert facts(Toy(network, other, targets)) != known
    assert facts(Toy(network, x, targets.roll(1))) != known
    # Data that are not used are no matter.
    few = ComputingOptions(limit=10)
    assert facts(Toy(network, other, targets), few) == facts(Toy(network, x), few)


def test_facts_depend_on_what_scores_run_through(network, x, monkeypatch):
    known = facts(Toy(network, x))
    # Unsaid, it shows in a score; said, it need not.
    with monkeypatch.context() as patch:
        patch.setattr(Toy, "score", lambda self, outputs, targets: outputs.sum((1, 2)))
        assert facts(Toy(network, x)) != known
    monkeypatch.setattr(Toy, "fingerprint", lambda self: "layers that follow")
    assert facts(Toy(network, x)) != known


def test_facts_depend_on_functions_of_the_same_name(x):
    known, other = (
        facts(Toy(unnamed(lambda z, function=function: function(z)), x))
        for function in (torch.relu, torch.tanh)
    )
    assert known["network"][0] == other["network"][0]
    assert known != other


def test_record_says_how_to_repeat_it(network, x):
    workload = Workload(Toy(network, x), ComputingOptions(batch_size=8))
    found = workload.record(workload.train)
    assert found["backend"] == "toy"
    assert found["batch_size"] == 8
    assert found["data"] == {"train": facts(Toy(network, x))["data"]["train"]}
    assert found["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("limit", "most", "samples"), [(None, None, 40), (7, None, 7), (None, 5, 5), (7, 5, 5)]
)
def test_limits(network, x, limit, most, samples):
    workload = Workload(Toy(network, x), ComputingOptions(limit=limit))
    assert sum(len(batch.inputs) for batch in workload.data("train", most=most)) == samples
    # The split for bases is as large as its backend makes it.
    assert workload.data("bases", most=most).limit == most


def test_precision_is_cast_from_what_is_stored(network, x):
    """Not from float32 to float64, which would keep what the first cast lost."""
    workload = Workload(Toy(network, x), ComputingOptions(dtype="float32"))
    assert next(iter(workload.network.state_dict().values())).dtype == torch.float32
    stored = network.state_dict()
    for name, tensor in workload.network_in("float64").state_dict().items():
        assert torch.equal(tensor, stored[name])


def test_batches_that_fit():
    network = random_network(["linear"], [30, 2])
    x = normal(seeded(1), 4, 1, 30)
    roomy = Workload(Toy(network, x), OPTIONS).batch_size
    tight = Workload(Toy(network, x), ComputingOptions(memory=2**20)).batch_size
    assert tight < roomy
    assert Workload(Toy(network, x), ComputingOptions(memory=2**20, batch_size=9)).batch_size == 9


def stages_of(measure):
    """The parts that were computed, and not taken from an earlier run."""
    told = []
    figures = measure(progress=lambda stage, done, total, note="": told.append(stage))
    return figures, set(told)


def test_degeneracy_is_measured_again_where_the_data_have_changed(network, x, tmp_path):
    targets = Toy(network, x).targets
    options = {"samples": 12, "draws": 2, "out": tmp_path / "run", "force": True}
    first, told = stages_of(partial(measure_degeneracy, Toy(network, x, targets), **options))
    assert first.behaviour.samples == 12
    assert "behavioural loss" in told
    again, told = stages_of(partial(measure_degeneracy, Toy(network, x, targets), **options))
    assert again.seconds == first.seconds
    assert "behavioural loss" not in told
    other = measure_degeneracy(Toy(network, 2 * x, targets), **options)
    assert other.behaviour.effective != first.behaviour.effective
    new = measure_degeneracy(Toy(network, 2 * x, targets), samples=12, draws=2)
    assert other.behaviour == new.behaviour


def test_significance_is_that_of_the_basis_asked_for(network, x, tmp_path):
    """Two bases in turn, each the graph's: the network is rotated for either."""
    kinds = {"ablate": False, "draws": 3}
    wide = random_network(["tanh", "tanh"], [5, 5, 4])
    backend = Toy(wide, normal(seeded(3), 60, 1, 5))
    lg.analyze(backend, out=tmp_path / "run", basis="lib", beside=("pca",), **kinds)
    reused = lg.analyze(
        backend, out=tmp_path / "run", force=True, basis="pca", beside=("lib",), **kinds
    )
    fresh = lg.analyze(backend, basis="pca", beside=("lib",), **kinds)
    found, wanted = (run.metrics.bases["pca"].modules.significance for run in (reused, fresh))
    assert found is not None
    assert found == wanted


def test_degeneracy_is_measured_again_where_the_file_of_a_basis_has_changed(tmp_path):
    network = random_network(["relu", "linear"], [5, 4, 3])
    backend, file = Toy(network, normal(seeded(1), 40, 1, 5)), tmp_path / "mine.safetensors"
    options = {"samples": 12, "draws": 2, "out": tmp_path / "run", "basis": str(file)}
    computed = []
    for seed in (1, 1, 2):
        save_file({"l0/decoder": normal(seeded(seed), 4, 5)}, file)
        _, told = stages_of(partial(measure_degeneracy, backend, **options, force=True))
        computed.append("interactions" in told and "degeneracy by module" in told)
        assert ("behavioural loss" in told) == (len(computed) == 1)
    assert computed == [True, False, True]


def said(caplog):
    return [r.getMessage() for r in caplog.records if "may not be kept to" in r.getMessage()]


@pytest.mark.parametrize("verb", [lg.analyze, measure_degeneracy])
def test_a_budget_that_cannot_be_kept_is_said_once(network, x, verb, caplog):
    options = {"ablate": False} if verb is lg.analyze else {"draws": 2, "steps": 2}
    verb(Toy(network, x), memory="1MiB", **options)
    (sentence,) = said(caplog)
    assert sentence.startswith("memory='1.0 MB' may not be kept to: beside the model up to 235 MB")
    caplog.clear()
    verb(Toy(network, x), memory="256MiB", **options)
    assert not said(caplog)


def test_what_is_needed_whole_grows_with_the_node_layers(network, x):
    wide = random_network(["relu", "linear"], [50, 1000, 3], seed=0, rotated=False)
    few, many = (
        least_memory(each, x.new_ones(1, 1, each.node_layers[0].size - 1))
        for each in (network, wide)
    )
    # At least the Gram of the widest layer, as pairs of numbers, and its eigenvectors.
    assert many - few > 3 * 8 * 1000**2
