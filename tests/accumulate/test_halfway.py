"""Sums whose order does not matter, and stages that go on where they were interrupted."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch
from helpers.graphs import planted

from libgraph.accumulate import halfway as module
from libgraph.accumulate.exact import ExactSums
from libgraph.accumulate.halfway import Halfway, halfway, remembered
from libgraph.accumulate.sums import Numbered, accumulate
from libgraph.modules.null_models import NULL_MODELS
from libgraph.modules.significance import significance


def hostile(count: int) -> list[torch.Tensor]:
    """Numbers of all sizes that nearly cancel."""
    generator = torch.Generator().manual_seed(0)
    size = 10.0 ** torch.randint(-12, 13, (count, 50), generator=generator).double()
    values = torch.randn(count, 50, generator=generator, dtype=torch.float64) * size
    return [*values, *(-values * (1 + 1e-13))]


def test_sums_are_right_to_the_last_bit_in_any_order():
    values = hostile(40)
    exact = [float(sum(Fraction(float(v[i])) for v in values)) for i in range(50)]
    for order in (range(80), range(79, -1, -1), torch.randperm(80).tolist()):
        sums = ExactSums()
        for place in order:
            sums.add({"x": values[place]})
        assert sums.total()["x"].tolist() == exact
    plain = sum(values)
    assert plain.tolist() != exact


@pytest.mark.parametrize("cut", [1, 17, 40, 79])
def test_sums_of_parts_are_those_of_all(cut):
    values, parts = hostile(40), []
    for part in (values[:cut], values[cut:]):
        sums = ExactSums()
        for value in part:
            sums.add({"x": value})
        parts.append(sums)
    whole = ExactSums()
    for part in parts:
        whole.include(part)
    single = ExactSums()
    for value in values:
        single.add({"x": value})
    assert torch.equal(whole.total()["x"], single.total()["x"])


def test_what_is_not_finite_stays_so():
    sums = ExactSums()
    for value in (1.0, float("inf"), 2.0):
        sums.add({"x": torch.tensor([value, 1.0])})
    assert sums.total()["x"].tolist() == [float("inf"), 3.0]


def test_of_some_numbers_the_largest_is_kept_in_any_order_and_in_parts():
    values = {"largest x": torch.tensor([3.0, 7.0, 2.0]), "sum": torch.tensor([3.0, 7.0, 2.0])}
    parts = []
    for places in ([0], [2, 1]):
        sums = ExactSums()
        for place in places:
            sums.add({name: value[place] for name, value in values.items()})
        parts.append(sums)
    parts[1].include(parts[0])
    assert parts[1].total() == {"largest x": torch.tensor(7.0), "sum": torch.tensor(12.0)}
    # Ranks without a batch take part with zeros.
    parts[0].include(ExactSums({"largest x": torch.zeros(())}, {"largest x": torch.zeros(())}))
    assert parts[0].total()["largest x"] == 3


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Everything is written at every batch."""
    monkeypatch.setattr(module, "EVERY", 0.0)
    monkeypatch.setattr(module, "WORTH", 0.0)


def passes(seen: list, stop: int | None = None) -> list[dict[str, torch.Tensor]]:
    """Two passes over data, as a stage makes them; stopped before a batch is measured."""
    data = hostile(5)

    def measure(numbered):
        number, _, value = numbered
        if stop is not None and len(seen) == stop:
            raise KeyboardInterrupt
        seen.append(number)
        return {"sum": value.float(), "count": torch.tensor(1)}

    return [accumulate(Numbered(data), measure, stage=name) for name in ("first", "second")]


def place(tmp_path, digest="abc") -> Halfway:
    return Halfway(tmp_path, "bases", digest)


@pytest.mark.parametrize("stop", range(20))
def test_a_pass_goes_on_where_it_was_to_the_same_bits(tmp_path, stop):
    expected = passes([])
    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt), halfway(place(tmp_path)):
        passes(seen, stop)
    again: list[int] = []
    with halfway(place(tmp_path)):
        found = passes(again)
    assert seen + again == [*range(10), *range(10)]
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in ("sum", "count"))


@pytest.mark.parametrize("damage", ["other hash", "flip", "cut"])
def test_what_is_of_something_else_or_damaged_is_not_taken_up(tmp_path, damage):
    with pytest.raises(KeyboardInterrupt), halfway(place(tmp_path)):
        passes([], 13)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    for file in files if damage != "other hash" else []:
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(content[:-9] if damage == "cut" else content)
    seen: list[int] = []
    with halfway(place(tmp_path, "abd" if damage == "other hash" else "abc")):
        passes(seen)
    assert seen == [*range(10), *range(10)]


def test_it_is_removed_when_the_stage_is_finished(tmp_path):
    where = place(tmp_path)
    with halfway(where):
        passes([])
    assert where.wrote
    where.clear()
    assert not list(tmp_path.iterdir())


def test_values_are_remembered_and_damaged_ones_computed_again(tmp_path):
    def values(counter, stop=None):
        def one(name):
            def compute():
                if name == stop:
                    raise KeyboardInterrupt
                counter.append(name)
                # Passes within are not kept by themselves.
                passes([])
                return {"name": name, "third": 1 / 3}

            return remembered(name, compute)

        return [one(name) for name in "abc"]

    first, second, third = [], [], []
    with pytest.raises(KeyboardInterrupt), halfway(place(tmp_path)):
        values(first, "c")
    (file,) = tmp_path.iterdir()
    with halfway(place(tmp_path)):
        found = values(second)
    assert (first, second) == (["a", "b"], ["c"])
    assert found == values([])
    file.write_text(file.read_text().replace("0.3", "0.4"))
    with halfway(place(tmp_path)):
        assert values(third) == found
    assert third == ["a", "b", "c"]


def test_draws_of_a_null_model_go_on_one_by_one(tmp_path):
    graph, _ = planted()
    name = next(iter(NULL_MODELS))
    expected = significance(graph, name, draws=6)
    count = itertools.count()

    def interrupted(graph, rng):
        if next(count) == 4:
            raise KeyboardInterrupt
        return NULL_MODELS[name](graph, rng)

    with pytest.raises(KeyboardInterrupt), halfway(place(tmp_path)):
        significance(graph, interrupted, draws=6, remember=remembered)
    drawn = []

    def again(graph, rng):
        drawn.append(1)
        return NULL_MODELS[name](graph, rng)

    with halfway(place(tmp_path)):
        found = significance(graph, again, draws=6, remember=remembered)
    assert len(drawn) == 2
    assert (found.mean, found.deviation, found.p) == (
        expected.mean, expected.deviation, expected.p
    )  # fmt: skip
