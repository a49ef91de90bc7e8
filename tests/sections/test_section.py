"""What every section has, whatever it maps."""

import pytest
import torch
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import random_section

from libgraph.sections import Function, Section
from libgraph.sections.closed_form import ClosedForm
from libgraph.sections.section import Rebased


class Doubling(Section):
    """All that a section has to say."""

    def forward(self, x):
        return 2 * x


def test_a_section_must_say_how_it_maps_forward():
    for cls in (Section, ClosedForm):
        with pytest.raises(TypeError, match=r"abstract.*forward"):
            cls(2, 2)
    x = normal(seeded(0), 2, 3, 2)
    assert_close(Doubling(2, 2).double().jacobian_gram(x), 4 * 6 * torch.eye(2).double())


def test_a_section_is_rebased_by_matrices_at_its_ends_unless_it_knows_better():
    decoder, encoder = normal(seeded(0), 3, 2), normal(seeded(1), 2, 4)
    section = Doubling(2, 2).double().rebase(decoder, encoder)
    assert isinstance(section, Rebased)
    assert isinstance(section.rebase(decoder[:2, :2] @ decoder.T).inner, Doubling)


def test_a_positionwise_function_stays_so_in_other_coordinates():
    section = random_section("positionwise", 3, 3)
    assert section.rebase(torch.eye(3).double()).positionwise


def test_a_watcher_sees_products_and_changes_them():
    section, x = random_section("gelu", 3, 2), normal(seeded(0), 2, 3, 3)
    names = []

    def watcher(watched, name, rows, product):
        names.append((watched, name))
        assert_close(product, rows @ section.factor(name))
        return 0 * product

    section.watcher = watcher
    assert_close(section(x), x @ section.skip)
    assert names == [(section, "inner"), (section, "outer")]


def test_a_function_is_known_by_its_name():
    named, module = Function(Doubling.forward, 2, 2), Function(torch.nn.Tanh(), 2, 2)
    assert (named.extra_repr(), module.extra_repr()) == ("Doubling.forward", "Tanh")
