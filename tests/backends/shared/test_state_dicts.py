"""State dicts are read in order, a user's or the bundled one."""

import torch
from safetensors.torch import save_file

from libgraph_backends.shared.state_dicts import read_own_or_bundled


def test_names_are_in_order_of_their_numbers(tmp_path):
    names = ["2.weight", "10.weight", "0.weight", "net.b1.weight", "net.a.weight"]
    path = tmp_path / "x.safetensors"
    save_file({name: torch.zeros(1) for name in names}, path)
    expected = ["0.weight", "2.weight", "10.weight", "net.a.weight", "net.b1.weight"]
    state = read_own_or_bundled(path, tmp_path / "nothing")
    assert (list(state.tensors), state.where) == (expected, str(path))


def test_the_bundled_ones_are_read_where_there_are_none(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(2)}, path)
    state = read_own_or_bundled(None, path)
    assert state.tensors["a"].tolist() == [1, 1]
    assert state.where == "the bundled weights"
