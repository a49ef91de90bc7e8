import torch
from helpers.numbers import assert_close, normal, seeded

from libgraph.sections.quadrature import Quadrature
from libgraph.sections.skip_mlp import average_slopes


def test_slopes_are_averaged_along_the_path():
    hidden = normal(seeded(0), 4, 3)
    rule = Quadrature.gauss_legendre(8)
    # φ' averaged over [0, h] is the difference quotient.
    expected = torch.tanh(hidden) / hidden
    assert_close(average_slopes(torch.tanh, hidden, rule), expected, 1e-6)
