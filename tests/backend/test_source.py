"""The digest of what a backend does: what changes it, and what does not."""

from __future__ import annotations

import subprocess
import sys
from functools import cached_property, partial

import pytest

from libgraph.backend.source import backend_source, source_of
from libgraph_backends.modular_addition.backend import ModularAddition

TEMPLATE = """
import torch
LIMIT = {limit}
def helper(x):
    return x * {factor}
def score(outputs, targets, weight={weight}):
    {doc}
    kinds = {{"a", "b", "c", "d"}}
    if "a" in kinds:
        return helper(outputs) + LIMIT + weight + {constant}
    return [x - {inner} for x in outputs]
"""
USUAL = {"limit": 1, "factor": 2, "weight": 3, "doc": "'says'", "constant": 4, "inner": 5}


def made(**changes):
    names = {"__name__": "somewhere"}
    exec(TEMPLATE.format(**USUAL | changes), names)  # noqa: S102
    return names["score"]


@pytest.mark.parametrize("name", ["limit", "factor", "weight", "constant", "inner"])
def test_whatever_decides_the_score_changes_the_digest(name):
    assert source_of(made(**{name: 77})) != source_of(made())


def test_what_does_not_decide_it_does_not():
    assert source_of(made(doc="'says something else'")) == source_of(made())


def test_closures_and_partials_count():
    def scaled(by):
        return lambda x: x * by

    assert source_of(scaled(2)) != source_of(scaled(3))
    assert source_of(scaled(2)) == source_of(scaled(2))
    assert source_of(partial(made(), weight=2)) != source_of(partial(made(), weight=1))


class Own(ModularAddition):
    scale = 1.0

    def __init__(self, weights, factor):
        super().__init__(weights=weights)
        self.factor, self.unused = factor, factor

    @cached_property
    def kept(self):
        return 3.0

    def score(self, outputs, targets):
        return super().score(outputs, targets) * self.factor + self.kept - self.kept


def test_values_of_the_backend_that_its_score_uses(weights):
    first = Own(weights, 2.0)
    before = backend_source(first)
    assert first.kept == 3.0
    assert backend_source(first) == before
    assert backend_source(Own(weights, 3.0)) != before
    assert backend_source(ModularAddition(weights=weights)) != before


def test_it_is_the_same_in_every_process():
    """Sets have another order in each."""
    code = "from libgraph.backend.source import source_of\nn = {'__name__': 's'}\n" + (
        f"exec({TEMPLATE.format(**USUAL)!r}, n)\nprint(source_of(n['score']))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": str(seed)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in (1, 2)
    }  # fmt: skip
    assert len(found) == 1
