"""Large matrices of few edges on disk."""

import torch
from helpers.numbers import normal, seeded
from safetensors.torch import load_file

from libgraph.edges.interactions import Interactions
from libgraph.runs.stored import load_interactions, save_interactions

PAIRS = [("a", "b"), ("b", "c")]


def test_edges_that_are_mostly_zero_take_little_and_come_back(tmp_path):
    generator = seeded(0)
    few = torch.zeros(1500, 1200).double()
    places = torch.randint(0, few.numel(), (5000,), generator=generator)
    few.view(-1)[places] = normal(generator, 5000).square()
    small = normal(generator, 4, 1500).square()
    edges = {"saes": dict(zip(PAIRS, (few, small), strict=True))}
    path = tmp_path / "edges.safetensors"
    save_interactions(path, Interactions(edges, {}, {"saes": {PAIRS[0]: 0.25}}))
    assert path.stat().st_size < few.numel()
    assert "saes/b->c" in load_file(path)
    found = load_interactions(path, ["saes"], PAIRS, "cpu")
    for pair, matrix in edges["saes"].items():
        assert torch.equal(found.edges["saes"][pair], matrix)
    assert found.errors == {}
    assert found.missed == {"saes": {PAIRS[0]: 0.25}}
