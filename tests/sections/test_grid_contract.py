"""Convolutions and poolings over any grid: their formulas, and all that they say of Jacobians."""

import math
from copy import deepcopy

import pytest
import torch
from helpers.grids import SMALL, SPECIAL, build_convolution, build_pooling, cases
from helpers.jacobians import RULES, check_all, views
from helpers.numbers import normal, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from libgraph.sections.quadrature import Quadrature
from libgraph.testing import Jacobians, check_section

quick = settings(deadline=None, max_examples=20)
each_structure = pytest.mark.parametrize("make", [build_convolution, build_pooling])


@each_structure
@given(data=st.data())
@quick
def test_closed_forms_agree_with_jacobians_in_all_coordinates(make, data):
    view = data.draw(views(make, cases()))
    assert not view.section.positionwise
    assert type(view.section.rebase(encoder=view.encoder)) is type(view.section)
    check_all(view)


@each_structure
@pytest.mark.parametrize("case", SPECIAL)
def test_windows_of_special_shapes(make, case):
    section, x = make(case)
    assert not section.positionwise
    check_section(section, x)


@each_structure
def test_single_precision_sums_up_in_double(make):
    section, x = make(SMALL)
    section, x = section.float(), x.float()
    assert section(x).dtype == torch.float32
    check_section(
        section, x, quadratures=RULES, jacobians=Jacobians(deepcopy(section).double(), x.double())
    )


@each_structure
def test_sums_can_be_differentiated_through_the_bases(make):
    section, x = make(SMALL._replace(samples=1))
    generator = seeded(7)
    encoder, decoder = normal(generator, 2, 3), normal(generator, 2, 3)
    features = normal(generator, 1, math.prod(SMALL.size), 2)

    def sums(encoder, decoder, features):
        rebased = section.rebase(encoder=encoder)
        edges = rebased.interactions(x, features, decoder, Quadrature.gradient())
        return edges, rebased.jacobian_gram(x)

    variables = [variable.requires_grad_() for variable in (encoder, decoder, features)]
    assert torch.autograd.gradcheck(sums, variables)
