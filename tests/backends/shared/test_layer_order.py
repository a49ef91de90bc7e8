"""The order of layers in a safetensors file is known or asked for, never the alphabet's."""

from itertools import pairwise

import pytest
import torch
from helpers.numbers import assert_close, normal, seeded
from safetensors.torch import save_file
from torch import nn

import libgraph as lg
from libgraph.errors import BackendError, UsageError
from libgraph_backends.shared.layer_order import in_order

KNOWN = {
    "sizes": {"out": (3, 5), "fc_in": (7, 4), "fc_hidden": (5, 7)},
    "numbers": {f"net.{i}.linear": (4, 4) for i in (0, 2, 10)},
    "numbers and a head": {"head": (4, 4), "layers.0": (4, 6), "layers.1": (4, 4)},
    "numbers before sizes": {"fc1": (4, 4), "fc2": (4, 4), "out": (2, 4)},
    "convolutions": {"classifier": (10, 4), "features.0": (4, 3, 3, 3), "features.3": (4, 4, 3, 3)},
}
ORDERS = {
    "sizes": ["fc_in", "fc_hidden", "out"],
    "numbers": ["net.0.linear", "net.2.linear", "net.10.linear"],
    "numbers before sizes": ["fc1", "fc2", "out"],
    "convolutions": ["features.0", "features.3", "classifier"],
}


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_is_found_by_numbers_and_sizes(name):
    shapes = dict(sorted(KNOWN[name].items()))
    assert in_order(shapes, "here", keeps_order=False) == ORDERS[name]


@pytest.mark.parametrize("name", KNOWN)
def test_a_checkpoint_keeps_its_own_order(name):
    assert in_order(KNOWN[name], "here", keeps_order=True) == list(KNOWN[name])


SEVERAL = {
    "a head of the same size": KNOWN["numbers and a head"],
    "all of the same size": {"fc_in": (4, 4), "fc_hidden": (4, 4), "fc_out": (2, 4)},
    "there and back": {"down": (2, 4), "up": (4, 2)},
    "very many": {chr(97 + i) * (i + 1): (4, 4) for i in range(20)},
}


@pytest.mark.parametrize("name", SEVERAL)
def test_where_several_orders_fit_it_is_asked_for(name):
    with pytest.raises(BackendError, match=r"does not keep the order.*order="):
        in_order(SEVERAL[name], "here", keeps_order=False)
    order = list(SEVERAL[name])[::-1]
    assert in_order(SEVERAL[name], "here", keeps_order=False, order=order) == order


def test_no_end_of_trying():
    shapes = {f"{chr(97 + i)}_x": (4, 4) for i in range(24)} | {"bridge": (9, 9)}
    with pytest.raises(BackendError, match="order"):
        in_order(shapes, "here", keeps_order=False)


def test_sizes_tell_the_order():
    shapes = {"down": (2, 4), "up": (4, 2)}
    assert in_order(shapes, "here", keeps_order=False, sizes=(2, 4, 2)) == ["up", "down"]


def test_layers_that_fit_in_no_order():
    with pytest.raises(BackendError, match="the layers a, bb follow each other in no order"):
        in_order({"a": (2, 4), "bb": (3, 5)}, "here", keeps_order=False)


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (("fc1",), "leaves out the layer 'fc2'"),
        (("fc1", "fc3", "fc2"), "names 'fc3' which is none; the layers are fc1, fc2"),
        (("fc1", "fc1", "fc2"), "names 'fc1' twice"),
    ],
)
def test_a_wrong_order_is_told(order, said):
    with pytest.raises(UsageError, match=said):
        in_order({"fc1": (2, 2), "fc2": (2, 2)}, "here", keeps_order=True, order=order)


def test_a_safetensors_file_is_the_network_of_its_checkpoint(tmp_path):
    layers = {"fc_in": nn.Linear(4, 4), "fc_hidden": nn.Linear(4, 4), "fc_out": nn.Linear(4, 2)}
    state = nn.ModuleDict(layers).state_dict()
    torch.save(state, tmp_path / "x.pt")
    save_file(state, tmp_path / "x.safetensors")
    x = normal(seeded(0), 5, 4)

    def outputs(file, **options):
        backend = lg.load_backend("mlp", task="own", model=str(tmp_path / file), **options)
        return backend.network().double()(x)

    expected = outputs("x.pt")
    with pytest.raises(BackendError, match="order=FIRST"):
        outputs("x.safetensors")
    assert_close(outputs("x.safetensors", order="fc_in,fc_hidden,fc_out"), expected)
    with pytest.raises(UsageError, match="give it too"):
        lg.load_backend("mlp", task="digits", order="fc_in")
    with pytest.raises(UsageError, match="give it too"):
        lg.load_backend("cifar", data=str(tmp_path), order="fc_in")


def test_a_checkpoint_sorted_by_name_is_in_the_order_of_its_numbers(tmp_path):
    sizes = [3, *[4] * 10, 5]
    layers = [nn.Linear(a, b).double() for a, b in pairwise(sizes)]
    module = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))[:-1]
    x = normal(seeded(0), 20, 3)
    state = module.state_dict()
    path = tmp_path / "sorted.pt"
    torch.save(dict(sorted(state.items())), path)
    backend = lg.load_backend("mlp", task="own", model=str(path))
    assert_close(backend.network().double()(torch.as_tensor(x))[:, 0], module(x).detach())


def test_an_order_that_numbers_contradict_is_not_known():
    shapes = {"0": (4, 4), "10": (4, 4), "2": (4, 4)}
    with pytest.raises(BackendError, match=r"0, 10, 2, which is not that of their numbers"):
        in_order(shapes, "x.pt", keeps_order=True)
    assert in_order(shapes, "x.pt", keeps_order=True, order=["0", "2", "10"]) == ["0", "2", "10"]
    # Names that say no order, and numbers in theirs, are as the file has them.
    named = {"out": (4, 4), "fc": (4, 4)}
    assert in_order(named, "x.pt", keeps_order=True) == ["out", "fc"]
    assert in_order({"2": (4, 3), "1": (3, 5)}, "x.pt", keeps_order=True) == ["1", "2"]
