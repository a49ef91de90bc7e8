"""What the turn is, and that it is found by its name."""

import numpy as np
import pytest
import torch
from libgraph_varimax import rotation

import libgraph as lg
from libgraph.dictionaries.registry import read_dictionaries
from libgraph.errors import UsageError


def test_it_finds_what_was_turned_away():
    generator = torch.Generator().manual_seed(0)
    simple = torch.block_diag(*[torch.rand(5, 1, generator=generator) + 0.5 for _ in range(4)])
    hidden, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator))
    found = (simple.double() @ hidden.double()) @ rotation(simple.double() @ hidden.double())
    assert (found.abs() > 1e-4).sum(0).tolist() == [5] * 4


def test_a_run_has_it_beside_others():
    run = lg.analyze(lg.load_backend("mlp", samples=200), basis="varimax", ablate=False)
    assert run.basis_names == ("varimax", "pca")
    assert run.bases("varimax")["input"].encoder.shape[1] > 1


def test_dictionaries_are_found_in_archives(tmp_path):
    arrays = {"encoder": np.eye(3, 5), "bias": np.zeros(5), "decoder": np.eye(5, 3)}
    np.savez(tmp_path / "dictionary.npz", **arrays, shift=np.ones(3), hook="hidden1")
    (found,) = read_dictionaries(tmp_path)
    assert (found.hook, found.size, found.latents) == ("hidden1", 3, 5)
    np.savez(tmp_path / "dictionary.npz", **arrays)
    with pytest.raises(UsageError, match="has no shift, hook"):
        read_dictionaries(tmp_path)
