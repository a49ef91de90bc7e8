"""Questions that take long go on where they were interrupted, to the same bits."""

from __future__ import annotations

import json
import shutil

import pytest
from filelock import FileLock

import libgraph as lg
from libgraph.accumulate import halfway
from libgraph.files.run_directory import ASKED
from libgraph.interventions import circuits, edge_orders
from libgraph.progress import silent
from libgraph.runs.condition import run_condition
from libgraph.runs.saved_run import open_run

SMALL = {"blocks": 2, "width": 3, "layers": 2, "samples": 60, "seed": 1}

WHOLE = {"shares": (0.1, 0.5), "draws": 1, "restored": 1, "apart": True}
EFFECTS = {"shares": (0.3,), "draws": 0, "order": "both", "baseline": "resample"}


class Killed(BaseException):
    """Nothing is done about it."""


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Everything is written at every step."""
    monkeypatch.setattr(halfway, "EVERY", 0.0)
    monkeypatch.setattr(halfway, "WORTH", 0.0)


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    path = tmp_path_factory.mktemp("asked") / "run"
    backend = lg.load_backend("mlp", **SMALL)
    lg.analyze(backend, out=path, ablate=False, beside=("pca",), batch_size=25, progress=silent)
    return path


@pytest.fixture
def run(analysed, tmp_path):
    return shutil.copytree(analysed, tmp_path / "run")


@pytest.fixture
def passes(monkeypatch):
    """Batches that circuits have gone through, and layer pairs whose edges were cut alone."""
    count = []
    through, cut = circuits.Circuits.run, edge_orders._Cuts.effects
    monkeypatch.setattr(
        circuits.Circuits, "run", lambda *args: (count.append(1), through(*args))[1]
    )
    monkeypatch.setattr(
        edge_orders._Cuts, "effects", lambda *args: (count.append(1), cut(*args))[1]
    )
    return count


def answer(run, options, until=None, how=KeyboardInterrupt):
    """What is found, or until so many batches have gone through."""
    told = []

    def progress(stage, done, total, note=""):
        told.append(stage)
        if len(told) == until:
            raise how

    return json.dumps(open_run(run).faithfulness(progress=progress, **options).as_dict())


def left(run):
    return list(run.glob(f"{ASKED}*"))


@pytest.mark.parametrize("how", [KeyboardInterrupt, Killed])
@pytest.mark.parametrize("options", [WHOLE, EFFECTS], ids=["whole", "effects"])
def test_faithfulness_goes_on_to_the_same_bits(options, how, run, passes):
    expected = answer(run, options)
    whole = len(passes)
    assert not left(run)
    for until in (3, 9):
        with pytest.raises(how):
            answer(run, options, until, how)
        (folder,) = left(run)
        assert "goes on there" in run_condition(run).left[folder]
        before = len(passes)
        assert answer(run, options) == expected
        # Nothing is computed twice, whatever was done before.
        assert len(passes) - before < whole
        assert not left(run)
    assert run_condition(run).well


def test_within_a_circuit_batches_that_are_done_are_not_done_again(run, passes, monkeypatch):
    expected = answer(run, WHOLE)
    whole = len(passes)
    through, done = circuits.Circuits.run, len(passes)

    def stopping(*args):
        if len(passes) == done + 8:
            raise Killed
        return through(*args)

    with monkeypatch.context() as patch:
        patch.setattr(circuits.Circuits, "run", stopping)
        with pytest.raises(Killed):
            answer(run, WHOLE)
    assert len(passes) == done + 8
    assert answer(run, WHOLE) == expected
    assert len(passes) == done + whole


def test_what_is_damaged_or_of_another_question_is_not_taken_up(run):
    expected = answer(run, WHOLE)
    with pytest.raises(KeyboardInterrupt):
        answer(run, WHOLE, 20)
    (folder,) = left(run)
    for file in folder.glob("*.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    (folder / ".x.tmp").write_text("half")
    assert answer(run, {**WHOLE, "seed": 3}) != expected
    assert left(run) == [folder]
    assert answer(run, WHOLE) == expected
    assert not left(run)


def test_where_nothing_can_be_kept_the_answer_is_the_same(run, caplog):
    expected = answer(run, WHOLE)
    with pytest.raises(KeyboardInterrupt):
        answer(run, WHOLE, 20)
    (folder,) = left(run)
    caplog.clear()
    # Another process asks the same.
    lock = FileLock(folder / ".lock", timeout=0)
    with lock:
        assert answer(run, WHOLE) == expected
    assert left(run) == [folder]
    shutil.rmtree(folder)
    # As where a run may only be read.
    folder.write_text("a file")
    assert answer(run, WHOLE) == expected
    assert folder.read_text() == "a file"
    assert not caplog.records


def test_nothing_is_kept_of_short_questions_and_runs_in_memory(run, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        answer(run, {**WHOLE, "draws": 1, "baseline": "zero"}, 20)
    assert left(run)
    shutil.rmtree(left(run)[0])
    monkeypatch.setattr(halfway, "EVERY", 60.0)
    monkeypatch.setattr(halfway, "WORTH", 60.0)
    with pytest.raises(KeyboardInterrupt):
        answer(run, WHOLE, 20)
    assert not left(run)
