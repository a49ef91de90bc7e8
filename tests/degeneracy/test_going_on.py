"""What goes step by step is taken up where it was interrupted, to the same bits."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.numbers import normal, seeded

from libgraph.accumulate import halfway as module
from libgraph.accumulate.halfway import Halfway, halfway
from libgraph.backend.registry import load_backend
from libgraph.degeneracy.behaviour import behaviour
from libgraph.degeneracy.behaviour.chains import Sampling
from libgraph.degeneracy.behaviour.lanczos import lanczos
from libgraph.degeneracy.behaviour.volume import local_volume
from libgraph.degeneracy.measure import measure_degeneracy
from libgraph.degeneracy.modules import block_curvature, by_module
from libgraph.degeneracy.weights import jacobians
from libgraph.progress import silent


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Everything is written at every step."""
    monkeypatch.setattr(module, "EVERY", 0.0)
    monkeypatch.setattr(module, "WORTH", 0.0)


def until(stop):
    """Progress that is interrupted before a step, and what it was told."""
    told = []

    def progress(stage, done, total, note=""):
        if done == stop and told:
            raise KeyboardInterrupt
        told.append(done)

    return progress, told


def of_probes(progress):
    root = normal(seeded(0), 12, 12)
    return lanczos(lambda x: x @ (root @ root.T), normal(seeded(1), 3, 12), 9, progress)


def of_volume(progress, **hessian):
    stretch = torch.logspace(0, 3, 4).double()
    curve = local_volume(
        lambda w: (w.square() * stretch).sum(),
        torch.zeros(4).double(),
        [0.3, 0.1, 0.01],
        Sampling(1.0, chains=4, steps=60),
        progress=progress,
        **hessian,
    )
    return curve.effective, curve.errors, curve.drift, curve.half_widths, curve.acceptance


def with_hessian(progress):
    return of_volume(progress, hessian=2 * torch.logspace(0, 3, 4).double().diag())


@pytest.mark.parametrize(
    ("compute", "stop"),
    [
        *((of_probes, stop) for stop in (1, 5, 8)),
        *((of_volume, stop) for stop in (1, 11, 19, 20, 21, 47)),
        *((with_hessian, stop) for stop in (3, 20, 59)),
    ],
)
def test_steps_go_on_where_they_were(compute, stop, tmp_path):
    expected = compute(silent)
    progress, before = until(stop)
    with pytest.raises(KeyboardInterrupt), halfway(Halfway(tmp_path, "behaviour", "abc")):
        compute(progress)
    assert before[-1] == stop - 1
    progress, after = until(None)
    with halfway(Halfway(tmp_path, "behaviour", "abc")):
        found = compute(progress)
    assert after[0] == stop
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))


def test_what_is_finished_is_not_done_again(tmp_path):
    expected = of_probes(silent)
    place = Halfway(tmp_path, "behaviour", "abc")
    with halfway(place):
        of_probes(silent)
    # The vectors, which take most, are no longer kept.
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < 8000
    progress, told = until(None)
    with halfway(Halfway(tmp_path, "behaviour", "abc")):
        found = of_probes(progress)
    assert told == [9]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_partitions_at_random_go_on_one_by_one(tmp_path, monkeypatch):
    few = {"blocks": 2, "width": 3, "layers": 2, "samples": 40}
    drawn = []
    shuffled = by_module.FeatureWeight.modules_under

    def counting(self, membership):
        drawn.append(1)
        return shuffled(self, membership)

    monkeypatch.setattr(by_module.FeatureWeight, "modules_under", counting)

    def measured(name, stop=None):
        drawn.clear()

        def progress(stage, done, total, note=""):
            if stage.endswith("random partitions") and done == stop:
                raise KeyboardInterrupt

        backend = load_backend("mlp", **few)
        measure_degeneracy(backend, out=tmp_path / name, progress=progress, draws=5, samples=20)
        return json.loads((tmp_path / name / "degeneracy.json").read_text())["modules"]

    expected, whole = measured("undisturbed"), len(drawn)
    with pytest.raises(KeyboardInterrupt):
        measured("stopped", 3)
    assert measured("stopped") == expected
    # Once for the modules themselves, and for each of five partitions, of which three were known.
    assert 6 * len(drawn) == 3 * whole


DERIVATIVES = ("moving weights", "behavioural loss", "degeneracy by module")


@pytest.mark.parametrize("stage", DERIVATIVES)
def test_rows_of_derivatives_are_not_computed_twice(stage, tmp_path, monkeypatch):
    few = {"blocks": 2, "width": 4, "layers": 2, "samples": 60}
    monkeypatch.setattr(by_module.Counting, "__init__", counting_of(50))
    # A few parts of everything: single samples, and single weights.
    monkeypatch.setattr(jacobians, "CHUNK_BYTES", 1)
    monkeypatch.setattr(block_curvature, "CHUNK_BYTES", 1)
    monkeypatch.setattr(behaviour, "KERNEL_BYTES", 8 * 40 * 120)
    computed = []
    original = jacobians.output_jacobians

    def counting(*args):
        computed.append(1)
        return original(*args)

    for place in (jacobians, block_curvature):
        monkeypatch.setattr(place, "output_jacobians", counting)

    def measured(name, stop=None):
        computed.clear()
        seen = []

        def progress(told, done, total, note=""):
            seen.append((told, done))
            if stop is not None and told == stage and done == stop:
                raise KeyboardInterrupt

        backend = load_backend("mlp", **few)
        options = {"draws": 2, "samples": 6, "batch_size": 20}
        measure_degeneracy(backend, out=tmp_path / name, progress=progress, **options)
        found = json.loads((tmp_path / name / "degeneracy.json").read_text())
        return {key: value for key, value in found.items() if key != "seconds"}, seen

    expected, seen = measured("whole")
    whole = len(computed)
    steps = sorted({done for told, done in seen if told == stage})
    assert len(steps) > 2
    stop = steps[len(steps) // 2]
    with pytest.raises(KeyboardInterrupt):
        measured("run", stop=stop)
    before = len(computed)
    found, seen = measured("run")
    assert found == expected
    # Of a batch it is told before it is kept.
    assert stop - 1 <= min(done for told, done in seen if told == stage) <= stop
    if stage != "moving weights":
        assert before + len(computed) == whole


def counting_of(rows):
    """Of so many rows at most."""
    begin = by_module.Counting.__init__
    return lambda self, *args, **named: begin(self, *args, **{"rows": rows, **named})
