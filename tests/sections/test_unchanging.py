"""Sections leave what they are given as it is, whatever their functions do to their input."""

import pytest
import torch
from helpers.mlps import mlp, random_mlp
from helpers.numbers import assert_close, normal, seeded
from torch import nn

from libgraph.sections import Convolution, Function, GatedMLP, SkipMLP, conv_factors, windows
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.unchanging import Unchanging, unchanging
from libgraph.testing import check_section

SLOPES = torch.linspace(1, 2, 7).double()
IN_PLACE = {
    "module": (nn.SiLU(inplace=True), nn.SiLU()),
    "function": (torch.relu_, torch.relu),
    "far out": (lambda z: z.clamp_(-100, 100), lambda z: z.clamp(-100, 100)),
    "two": (nn.Sequential(nn.LeakyReLU(0.2, inplace=True), nn.Tanh()),
            nn.Sequential(nn.LeakyReLU(0.2), nn.Tanh())),
    "of its own size": (lambda z: z.mul_(SLOPES), lambda z: z * SLOPES),
}  # fmt: skip


def sections(activation):
    generator = seeded(0)
    skip, inner, gate = (normal(generator, 4, d) for d in (3, 7, 7))
    outer = normal(generator, 7, 3)
    return {
        "SkipMLP": SkipMLP(skip, inner, outer, activation),
        "GatedMLP": GatedMLP(skip, inner, gate, outer, activation),
    }


@pytest.mark.parametrize("kind", ["SkipMLP", "GatedMLP"])
@pytest.mark.parametrize("name", IN_PLACE)
def test_functions_that_work_in_place_give_what_others_give(name, kind):
    in_place, plain = (sections(activation)[kind] for activation in IN_PLACE[name])
    x = normal(seeded(1), 5, 1, 4)
    before = x.clone()
    assert_close(in_place(x), plain(x))
    assert_close(in_place.jacobian_gram(x), plain.jacobian_gram(x))
    for rule in (Quadrature.gradient(), Quadrature.trapezoid(4), Quadrature.gauss_legendre(3)):
        edges = [section.interactions(x, x, torch.eye(4).double(), rule)
                 for section in (in_place, plain)]  # fmt: skip
        assert_close(*edges)
    assert torch.equal(x, before)
    check_section(in_place, x)


def test_what_a_watcher_has_noted_stays_as_it_was():
    notes = []

    def watch(section, name, x, z):
        notes.append((x, x.clone(), z, z.clone()))
        return z

    section = mlp(random_mlp(3, 5, 2), nn.ReLU(inplace=True)).sections[0]
    section.watcher = watch
    section(normal(seeded(0), 6, 1, 4))
    assert len(notes) == 2
    for x, old_x, z, old_z in notes:
        assert torch.equal(x, old_x)
        assert torch.equal(z, old_z)


def test_convolutions_with_a_function_in_place():
    reads = windows((3, 3), 3, 1, 1)
    weight, bias = normal(seeded(0), 2, 2, 3, 3), normal(seeded(1), 2)
    skip = conv_factors(torch.zeros(3, 2, 3, 3).double(), torch.tensor([0, 0, 1.0]).double(), reads)
    factors = skip, conv_factors(weight, bias, reads), torch.eye(2, 3).double(), reads
    x = torch.cat([normal(seeded(2), 4, 9, 2), torch.ones(4, 9, 1).double()], dim=-1)
    in_place, plain = (Convolution(*factors, f) for f in (nn.ELU(inplace=True), nn.ELU()))
    rule, eye = Quadrature.trapezoid(3), torch.eye(3).double()
    assert_close(in_place.interactions(x, x, eye, rule), plain.interactions(x, x, eye, rule))
    check_section(in_place, x)


def test_any_function_gets_a_copy():
    x = normal(seeded(0), 5, 2, 3)
    before = x.clone()
    in_place = Function(lambda y: y.mul_(2).tanh_(), 3, 3, positionwise=True)
    plain = Function(lambda y: (2 * y).tanh(), 3, 3, positionwise=True)
    eye, rule = torch.eye(3).double(), Quadrature.trapezoid(3)
    assert_close(in_place.interactions(x, x, eye, rule), plain.interactions(x, x, eye, rule))
    assert_close(in_place.jacobian_gram(x), plain.jacobian_gram(x))
    assert torch.equal(x, before)


def test_functions_that_change_nothing_stay_as_they_are():
    for function in (torch.relu, nn.GELU(), nn.Hardtanh()):
        assert unchanging(function) is function
    changed = unchanging(torch.relu_)
    assert isinstance(changed, Unchanging)
    assert unchanging(changed) is changed
    assert "relu_" in repr(changed)
    assert (
        "ReLU(inplace=True)"
        in SkipMLP(torch.eye(2), torch.eye(2), torch.eye(2), nn.ReLU(inplace=True)).extra_repr()
    )


def test_a_section_that_changes_what_it_is_given_is_found():
    class Bad(Function):
        def forward(self, x):
            return x.mul_(2)

    with pytest.raises(AssertionError, match="changes the activations that it is given"):
        check_section(Bad(lambda x: x, 3, 3, positionwise=True), normal(seeded(0), 4, 1, 3))
