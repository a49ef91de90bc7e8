"""Steps within a batch, at node layers and pairs of them: kept, halved and shared out."""

import pytest
import torch

from libgraph.accumulate import halfway as halfway_module
from libgraph.accumulate.halfway import Halfway, halfway
from libgraph.accumulate.reached import AtLayers, AtPairs, Reached
from libgraph.accumulate.sums import accumulate
from libgraph.backend.contract import Batch
from tests.helpers.networks import random_network, toy_data
from tests.helpers.numbers import normal, seeded

SAMPLES, POSITIONS = 5, 2


@pytest.fixture
def network():
    return random_network(["relu", "linear"], [3, 4, 2])


@pytest.fixture
def data(network):
    return toy_data(network, normal(seeded(0), SAMPLES, POSITIONS, 3), batch_size=2)


def test_every_batch_at_every_pair(network, data):
    steps = list(AtPairs(data, [network, network]))
    assert len(steps) == len(AtPairs(data, [network, network])) == 3 * 2
    for (number, first, reached), batch_number in zip(steps, (0, 0, 1, 1, 2, 2), strict=True):
        assert (number, first) == (batch_number, 0)
        x, y, *again = reached.activations
        torch.testing.assert_close(network.sections[reached.index](x), y)
        assert all(torch.equal(a, b) for a, b in zip((x, y), again, strict=True))


def test_what_is_asked_at_node_layers_in_steps(network, data):
    asked = [[(1, 2), (3,)], [], [(5,)]]
    steps = list(AtLayers(data, network, asked))
    assert len(steps) == len(AtLayers(data, network, asked)) == 3 * 3
    assert [(r.index, r.asked) for _, _, r in steps[:3]] == [(0, (1, 2)), (0, (3,)), (2, (5,))]


def test_halves_are_of_everything():
    batch = Batch(torch.arange(5), torch.arange(5) + 10)
    one, other = Reached(batch, 1, (torch.arange(10).view(5, 2),), (7,)).halves(3)
    assert (one.samples, other.samples) == (3, 2)
    assert (one.index, other.asked) == (1, (7,))
    assert other.batch.targets.tolist() == [13, 14]
    assert other.activations[0].tolist() == [[6, 7], [8, 9]]


@pytest.mark.parametrize("fails", [0, 1])
@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_the_way_there_is_halved_too(network, fails, error, monkeypatch):
    """Whatever section has no room for a batch, each node layer is reached once by all samples."""
    data = toy_data(network, normal(seeded(0), 7, POSITIONS, 3), batch_size=7)
    expected = [step.batch.activations for step in AtPairs(data, [network])]
    kind, seen = type(network.sections[fails]), []
    forward = kind.forward

    def limited(section, x):
        if section is network.sections[fails]:
            seen.append(len(x))
            if len(x) > 2:
                raise error
        return forward(section, x)

    monkeypatch.setattr(kind, "forward", limited)
    found = [step.batch.activations for step in AtPairs(data, [network])]
    assert seen == [7, 4, 2, 2, 2, 1]
    for one, other in zip(found, expected, strict=True):
        for x, y in zip(one, other, strict=True):
            torch.testing.assert_close(x, y)
    asked = [[(0,)], [(1,)], [(2,)]]
    steps = [step.batch for step in AtLayers(data, network, asked)]
    assert [len(step.activations[0]) for step in steps] == [7, 7, 7]


def test_samples_that_do_not_fit_one_by_one_are_an_error(network, data, monkeypatch):
    def limited(*_):
        raise MemoryError

    monkeypatch.setattr(type(network.sections[1]), "forward", limited)
    with pytest.raises(MemoryError):
        list(AtPairs(data, [network]))


def test_goes_on_within_a_batch(network, data, tmp_path, monkeypatch):
    """Whatever step is the last before a kill, no step is measured twice, and sums are the same."""
    monkeypatch.setattr(halfway_module, "EVERY", 0.0)
    measured = []

    def total(piece):
        measured.append((piece.number, piece.batch.index))
        x, y = piece.batch.activations
        return {f"pair {piece.batch.index}": x.sum() * y.square().sum()}

    steps = AtPairs(data, [network])
    whole = accumulate(steps, total)
    order = measured.copy()
    for last in range(len(order)):
        measured.clear()

        def dies(piece, last=last):
            if len(measured) == last:
                raise RuntimeError
            return total(piece)

        with halfway(Halfway(tmp_path, "stage", "hash")), pytest.raises(RuntimeError):
            accumulate(steps, dies, stage="pass")
        with halfway(Halfway(tmp_path, "stage", "hash")):
            found = accumulate(steps, total, stage="pass")
        assert measured == order
        assert {name: value.item() for name, value in found.items()} == {
            name: value.item() for name, value in whole.items()
        }
        Halfway(tmp_path, "stage", "hash").clear()
