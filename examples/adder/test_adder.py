"""The contract, and the answer: it adds, and of all bits their sum is what matters."""

import libgraph_adder
import pytest
import torch

import libgraph as lg
from libgraph.testing import check_backend


@pytest.mark.parametrize("bits", [1, 3])
def test_it_keeps_the_contract(bits):
    check_backend(libgraph_adder.Adder(libgraph_adder.AdderOptions(bits=bits)))


@pytest.mark.parametrize("bits", [2, 6])
def test_it_is_found_by_its_name_and_adds(bits):
    backend = lg.load_backend("adder", bits=bits)
    (batch,) = backend.batches("test", 4**bits)
    assert backend.score(backend.network()(batch.inputs), batch.targets).mean() == 1


def test_lib_finds_that_the_bits_matter_by_their_sum():
    run = lg.analyze(lg.load_backend("adder", bits=3))
    assert run.metrics.score.test == 1
    basis = run.bases("lib")["bits"]
    assert len(basis) == 2  # the constant, and one direction
    reads = basis.encoder[:-1, 1] / basis.encoder[0, 1]
    assert reads.tolist() == pytest.approx([1, 2, 4, 1, 2, 4])
    assert len(run.bases("pca")["bits"]) == 7
    # All interactions are of the sum with what is at least so large.
    assert torch.count_nonzero(run.edges("lib")["bits", "at least"][:, 1]) > 1
