"""Every kind of section: its formula, and all that it says of its Jacobians."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from helpers.jacobians import (
    AUTOMATIC,
    RULES,
    Automatic,
    Shape,
    build,
    check_all,
    quick,
    shapes,
    views,
)
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import ACTIVATIONS, ATTENTIONS, KINDS, NORMS, random_section
from hypothesis import given
from hypothesis import strategies as st

from libgraph.sections.quadrature import Quadrature
from libgraph.testing import Jacobians, check_section

GRADIENT = Quadrature.gradient()
PLAIN = ["chain", "parallel-positionwise"]
STRUCTURED = [
    "linear",
    *ACTIVATIONS,
    "gated",
    *NORMS,
    "group-square",
    *ATTENTIONS,
    *PLAIN,
    "parallel",
]
POSITIONWISE = ["linear", *ACTIVATIONS, "gated", *NORMS, "positionwise", *PLAIN]

each_kind = pytest.mark.parametrize("kind", KINDS)
each_smooth_kind = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "relu"])


@each_kind
@given(data=st.data())
@quick
def test_closed_forms_agree_with_jacobians_in_all_coordinates(kind, data):
    check_all(data.draw(views(partial(build, kind), shapes)))


@each_kind
def test_single_precision_sums_up_in_double(kind):
    """As far off as single precision explains, from Jacobians in double of the same numbers."""
    section, x = build(kind, Shape(3, 3, 4, 3, 3, 2, 2, 2))
    section, x = section.float(), x.float()
    jacobians = Jacobians(deepcopy(section).double(), x.double())
    check_section(section, x, quadratures=RULES, jacobians=jacobians)
    automatic = Automatic(section).float()
    check_section(automatic, x, checks=AUTOMATIC, quadratures=RULES, jacobians=jacobians)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_say_whether_they_are_positionwise(kind):
    assert random_section(kind, 3, 3).positionwise == (kind in POSITIONWISE)


@each_kind
def test_rebase_twice_is_rebase_by_the_products(kind):
    section, _ = build(kind, Shape(5, 2, 3, 3, 4, 2, 2, 2))
    generator = seeded(6)
    first, second = normal(generator, 5, 3), normal(generator, 2, 5)
    third, fourth = normal(generator, 4, 3), normal(generator, 3, 2)
    f = normal(generator, 2, 3, 2)
    twice = section.rebase(first, third).rebase(second, fourth)
    assert_close(twice(f), section.rebase(second @ first, third @ fourth)(f))


@each_kind
def test_outputs_with_the_same_inputs_share_a_pass(kind, monkeypatch):
    section, x = build(kind, Shape(0, 2, 3, 3, 4, 2, 2, 2))
    passes = []
    cls = type(section)
    forward = cls.forward
    monkeypatch.setattr(cls, "forward", lambda self, x: passes.append(1) or forward(self, x))
    section.masked(x, torch.tensor([[True, False, True, False]] * 3))
    assert len(passes) <= 2


@each_smooth_kind
def test_interactions_can_be_differentiated_through_the_bases(kind):
    section, x = build(kind, Shape(1, 2, 2, 3, 2, 2, 2, 2))
    generator = seeded(7)
    encoder, decoder = normal(generator, 2, 3), normal(generator, 2, 3)
    features = normal(generator, 2, 2, 2)

    def edges(encoder, decoder, features):
        return section.rebase(encoder=encoder).interactions(x, features, decoder, GRADIENT)

    variables = [variable.requires_grad_() for variable in (encoder, decoder, features)]
    assert torch.autograd.gradcheck(edges, variables)


@each_smooth_kind
def test_the_gram_can_be_differentiated_through_the_next_basis(kind):
    section, x = build(kind, Shape(1, 2, 2, 3, 2, 2, 2, 2))
    encoder = normal(seeded(7), 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda encoder: section.rebase(encoder=encoder).jacobian_gram(x), encoder
    )


@pytest.mark.parametrize("kind", STRUCTURED)
def test_factors_follow_the_dtype_and_are_saved(kind):
    section = random_section(kind, 3, 3).float()
    assert all(tensor.dtype == torch.float32 for tensor in section.state_dict().values())
    assert section.state_dict()
    x = torch.ones(1, 2, 3)
    again = random_section(kind, 3, 3, seed=9).float()
    again.load_state_dict(section.state_dict())
    assert torch.equal(again(x), section(x))
