import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.networks import Toy, random_network, toy_data
from helpers.numbers import normal, seeded
from helpers.sections import AppendOne
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed as dist
from torch import multiprocessing

from libgraph.accumulate.ranks import ranks, shared_out
from libgraph.accumulate.sums import accumulate
from libgraph.backend.contract import Batch
from libgraph.backend.data import Data
from libgraph.bases.method import Truncation
from libgraph.bases.methods import METHODS
from libgraph.bases.statistics import node_statistics
from libgraph.edges.score import base_score
from libgraph.errors import DataError, NumericalError
from libgraph.network.network import Network, NodeLayer
from libgraph.progress import silent
from libgraph.sections import Linear
from libgraph.sections.quadrature import Quadrature


def whole_numbers(samples, dtype=torch.float64):
    """A backend whose inputs are whole numbers, so that sums are exact in any order."""
    network = Network(
        AppendOne(), [Linear(torch.eye(3).to(dtype))], [NodeLayer("a", 3), NodeLayer("b", 3)]
    )
    inputs = torch.arange(2.0 * samples).reshape(samples, 1, 2).to(dtype)
    return Toy(network, inputs, torch.arange(samples))


def sums_of(data, **options):
    def measure(batch):
        rows = batch.inputs.flatten(0, 1)
        return {
            "count": torch.tensor(len(batch.inputs)),
            "first": rows.sum(0),
            "second": rows.T @ rows,
            "targets": batch.targets.sum(),
        }

    return accumulate(data, measure, **options)


def assert_same_sums(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@given(samples=st.integers(1, 40), batch_size=st.integers(1, 50))
@settings(deadline=None, max_examples=25)
def test_sums_do_not_depend_on_batches(samples, batch_size):
    backend = whole_numbers(samples)
    data = Data(backend, "train", batch_size)
    found = sums_of(data)
    assert len(data) == len(list(data))
    rows = backend.inputs[:, 0]
    assert torch.equal(found["second"], rows.T @ rows)
    assert found["count"] == samples
    assert found["targets"] == samples * (samples - 1) // 2


@given(samples=st.integers(1, 30), batch_size=st.integers(1, 12), limit=st.integers(1, 40))
@settings(deadline=None, max_examples=25)
def test_a_limit_takes_the_first_samples(samples, batch_size, limit):
    data = Data(whole_numbers(samples), "train", batch_size, limit)
    batches = list(data)
    taken = torch.cat([batch.targets for batch in batches])
    assert taken.tolist() == list(range(min(limit, samples)))
    assert all(len(batch.inputs) == len(batch.targets) > 0 for batch in batches)
    assert len(data) == len(batches)
    assert sums_of(data)["count"] == min(limit, samples)


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split_is_an_error(split):
    with pytest.raises(DataError, match=f"The {split} split of 'toy' has no samples"):
        sums_of(Data(whole_numbers(0), split))


def test_single_precision_is_added_up_in_double():
    value = 2.0**24
    batches = [Batch(torch.full((1,), x), torch.zeros(1)) for x in (value, 1.0, 1.0)]
    sums = accumulate(batches, lambda batch: {"total": batch.inputs.sum()})
    assert sums["total"].dtype == torch.float64
    assert sums["total"] == value + 2


def test_sums_do_not_alias_what_was_measured():
    constant = torch.ones(2, dtype=torch.float64)
    sums = accumulate([Batch(constant, constant)] * 3, lambda batch: {"it": constant})
    assert sums["it"].tolist() == [3, 3]
    assert constant.tolist() == [1, 1]


def test_nothing_is_recorded_for_differentiation():
    weight = torch.ones(2, requires_grad=True)
    sums = accumulate([Batch(torch.ones(2), torch.ones(2))], lambda b: {"it": weight * b.inputs})
    assert not sums["it"].requires_grad


@given(samples=st.integers(1, 30), batch_size=st.integers(1, 12))
@settings(deadline=None, max_examples=15)
def test_progress_reaches_the_total(samples, batch_size):
    told = []
    data = Data(whole_numbers(samples), "train", batch_size)
    sums_of(data, stage="counting", progress=lambda *event: told.append(event))
    assert told == [("counting", done, len(data)) for done in range(len(data) + 1)]


def test_progress_without_a_known_total():
    told = []
    batches = iter(Data(whole_numbers(5), "train", 2))
    sums_of(batches, progress=lambda *event: told.append(event))
    assert told == [("", done, None) for done in range(4)]


def test_data_place_floats_only_in_their_precision():
    data = Data(whole_numbers(3, torch.float32), "train", dtype=torch.float64)
    (batch,) = data
    assert batch.inputs.dtype == torch.float64
    assert batch.targets.dtype == torch.int64
    (single,) = Data(whole_numbers(3), "train", dtype=torch.float32)
    assert single.inputs.dtype == torch.float32


def test_data_can_be_gone_through_again():
    data = Data(whole_numbers(7), "train", 3, limit=5)
    assert_same_sums(sums_of(data), sums_of(data))


SIZES = {"many batches": (11, 2, None), "fewer than ranks": (3, 5, None), "limited": (11, 2, 5)}
"""Samples, batch size and limit of each comparison."""


def results(case):
    samples, batch_size, limit = SIZES[case]
    told = []
    sums = sums_of(
        Data(whole_numbers(samples), "train", batch_size, limit),
        progress=lambda *event: told.append(event),
    )
    return {name: value.tolist() for name, value in sums.items()}, told


def analysis():
    """Importances and edges of a small network: everything that adds up over ranks."""
    from libgraph.edges.interactions import interactions

    network = random_network(["attention", "relu"], [3, 4, 3], rotated=False)
    data = toy_data(network, normal(seeded(0), 14, 3, 3), batch_size=3)
    statistics = node_statistics(network, data)
    bases = METHODS["lib"](network, statistics, data, Truncation(True, 1e-9), silent)
    edges = interactions(network, {"lib": bases}, data, Quadrature.gradient())["lib"]
    return [*(basis.importance for basis in bases.values()), *edges.values()]


def empty():
    try:
        sums_of(Data(whole_numbers(0), "train"))
    except DataError as error:
        return str(error)
    return None


def tasks():
    """Squares, and the sums over all data that whoever does a task comes to alone."""
    data = Data(whole_numbers(11), "train", 2)

    def task(number):
        return [number**2, ranks(), sums_of(data)["first"].tolist()]

    return shared_out([partial(task, number) for number in range(5)])


def not_finite_for_one():
    """The second of two batches is NaN: all ranks have to say so."""
    inputs = normal(seeded(0), 2, 1, 3)
    inputs[1] = torch.nan
    network = random_network(["relu"], [3, 4])
    try:
        base_score(network, Toy(network, inputs), Data(Toy(network, inputs), "test", 1))
    except NumericalError as error:
        return str(error)
    return None


def one_rank(rank, world, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    found = {case: results(case) for case in SIZES}
    found["empty"] = empty()
    found["broken"] = not_finite_for_one()
    found["tasks"] = tasks()
    tensors = [tensor.tolist() for tensor in analysis()]
    (Path(folder) / f"{rank}.json").write_text(json.dumps([found, tensors]))
    dist.destroy_process_group()


def test_two_processes_find_what_one_does(tmp_path):
    multiprocessing.spawn(one_rank, (2, str(tmp_path)), nprocs=2)
    expected = analysis()
    for rank in range(2):
        found, tensors = json.loads((tmp_path / f"{rank}.json").read_text())
        for case in SIZES:
            sums, told = found[case]
            assert sums == results(case)[0]
            done, total = told[-1][1:]
            assert done == total or rank == 1
        assert found["empty"] == empty()
        assert found["broken"] == not_finite_for_one()
        assert "NaN" in found["broken"]
        assert found["tasks"] == json.loads(json.dumps(tasks()))
        for one, other in zip(tensors, expected, strict=True):
            assert torch.equal(torch.tensor(one, dtype=torch.float64), other)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
@pytest.mark.parametrize("limit", [None, 5])
def test_parts_of_the_samples(batch_size, limit):
    inputs = torch.arange(7.0, dtype=torch.float64)[:, None, None]
    network = random_network(["linear"], [1, 2])
    whole = toy_data(network, inputs, batch_size=batch_size, limit=limit)
    seen = [
        [float(x) for batch in replace(whole, part=(part, 2)) for x in batch.inputs.flatten()]
        for part in range(2)
    ]
    numbers = [float(i) for i in range(limit or 7)]
    assert seen == [numbers[::2], numbers[1::2]]


def test_a_part_without_samples():
    data = toy_data(random_network(["linear"], [1, 2]), torch.ones(1, 1, 1).double(), part=(1, 2))
    with pytest.raises(DataError, match="no samples"):
        list(data)
