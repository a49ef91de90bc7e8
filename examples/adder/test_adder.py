"""The contract, and the answer: it adds."""

import libgraph_adder
import pytest

import libgraph as lg
from libgraph.testing import check_backend


@pytest.mark.parametrize("bits", [1, 3])
def test_it_keeps_the_contract(bits):
    check_backend(libgraph_adder.Adder(libgraph_adder.AdderOptions(bits=bits)))


def test_it_is_found_by_its_name_and_adds():
    run = lg.analyze(lg.load_backend("adder", bits=2))
    assert run.metrics.score.test == 1
