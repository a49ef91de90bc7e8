"""Stages: what they depend on, when an earlier run's are taken, and what an early end leaves."""

import json
import logging
from dataclasses import replace

import pytest
from pydantic import BaseModel

from libgraph.errors import DataError, MissingExtra, NumericalError, TooLarge, UsageError
from libgraph.files.atomic import read_json, write_json
from libgraph.files.manifest import signed
from libgraph.pipeline.stages import Stage, Stages, may_be_left_out, open_directory


class Options(BaseModel):
    power: int = 2
    seed: int = 0


FACTS = {"network": "abc"}
FIRST = Stage("first", "significance.json", write_json, read_json, reads=("power",))
SECOND = Stage("second", "ablation.json", write_json, read_json, after=(FIRST,))


def add(path, value, name):
    write_json(path, {**(read_json(path) if path.is_file() else {}), name: value})


def shared(name):
    """A stage that is kept in one file with others."""
    return Stage(
        name,
        "degeneracy.json",
        lambda path, value: add(path, value, name),
        lambda path: read_json(path)[name],
        part=name,
    )


@pytest.mark.parametrize(
    ("stage", "options", "facts"),
    [
        (replace(FIRST, name="third"), Options(), FACTS),
        (FIRST, Options(power=3), FACTS),
        (FIRST, Options(), {"network": "abd"}),
        (replace(FIRST, besides={"file": "digest"}), Options(), FACTS),
        (replace(FIRST, after=(SECOND,)), Options(), FACTS),
    ],
)
def test_hashes_depend_on_all_that_the_result_does(stage, options, facts):
    assert stage.hash(options, facts) != FIRST.hash(Options(), FACTS)


def test_hashes_do_not_depend_on_other_options():
    assert FIRST.hash(Options(seed=1), FACTS) == FIRST.hash(Options(), FACTS)


def test_a_stage_depends_on_what_those_before_it_read():
    assert SECOND.hash(Options(power=3), FACTS) != SECOND.hash(Options(), FACTS)
    assert SECOND.hash(Options(seed=1), FACTS) == SECOND.hash(Options(), FACTS)


def run(path, *, options=None, facts=FACTS, chosen=(FIRST, SECOND), stop=None):
    """Run stages into a directory, as far as `stop`; what came out and what was computed for it."""
    computed = []

    def compute(name):
        if name == stop:
            raise KeyboardInterrupt
        computed.append(name)
        return {"from": name}

    with open_directory(path, force=True) as directory:
        stages = Stages(directory, options or Options(), lambda: facts)
        results = [stages.run(stage, lambda stage=stage: compute(stage.name)) for stage in chosen]
        stages.complete({})
    assert results == [{"from": stage.name} for stage in chosen]
    return computed, stages.seconds


def test_what_has_not_changed_is_not_computed_again(tmp_path):
    computed, seconds = run(tmp_path / "run")
    assert computed == ["first", "second"]
    # The seconds are those of the run that computed it.
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["stages"]["first"]["seconds"] = 123.0
    write_json(tmp_path / "run" / "run.json", signed(record))
    assert run(tmp_path / "run", options=Options(seed=5)) == ([], {**seconds, "first": 123.0})
    assert run(tmp_path / "run", options=Options(power=3))[0] == ["first", "second"]
    other = {"network": "abd"}
    assert run(tmp_path / "run", options=Options(power=3), facts=other)[0] == ["first", "second"]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", stop="second")
    assert not (tmp_path / "run").exists()
    assert run(tmp_path / "run")[0] == ["second"]


def test_a_stage_whose_file_is_gone_is_computed_again(tmp_path):
    run(tmp_path / "run")
    (tmp_path / "run" / SECOND.file).unlink()
    assert run(tmp_path / "run")[0] == ["second"]


def test_a_stage_that_its_file_has_not_is_computed_again(tmp_path):
    chosen = (shared("first"), shared("second"))
    run(tmp_path / "run", chosen=chosen)
    assert run(tmp_path / "run", chosen=chosen)[0] == []
    write_json(tmp_path / "run" / "degeneracy.json", {"second": {"from": "second"}})
    assert run(tmp_path / "run", chosen=chosen)[0] == ["first"]


def test_facts_are_not_asked_for_where_nothing_is_kept():
    stages = Stages(None, Options(), lambda: pytest.fail("asked for facts"))
    assert stages.run(FIRST, lambda: 3) == 3
    assert list(stages.seconds) == ["first"]
    stages.complete({})


def ended(path, error, *, finished):
    """A run that ends with an error, after a stage or before it."""

    def run():
        with open_directory(path, force=False) as directory:
            if finished:
                Stages(directory, Options(), dict).run(FIRST, dict)
            raise error

    with pytest.raises(type(error)):
        run()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), UsageError("full")])
def test_what_is_finished_stays_and_is_told(tmp_path, caplog, error):
    with caplog.at_level(logging.WARNING, "libgraph"):
        ended(tmp_path / "run", error, finished=True)
    assert f"the same with out='{tmp_path / 'run'}' goes on there" in caplog.text
    assert (tmp_path / "run.partial" / FIRST.file).is_file()


@pytest.mark.parametrize("error", [NumericalError("NaN"), DataError("none")])
def test_no_advice_to_go_on_where_the_same_would_come_of_it(tmp_path, caplog, error):
    with caplog.at_level(logging.WARNING, "libgraph"):
        ended(tmp_path / "run", error, finished=True)
    assert not caplog.text


def test_where_nothing_is_finished_nothing_stays(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "libgraph"):
        ended(tmp_path / "run", KeyboardInterrupt(), finished=False)
    assert not caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [MissingExtra, TooLarge])
def test_pictures_that_may_be_left_out(caplog, kind):
    with caplog.at_level(logging.WARNING, "libgraph"), may_be_left_out("a.png was"):
        raise kind("No room.")
    assert "a.png was not drawn: No room." in caplog.text


def test_a_broken_write_is_no_picture_left_out():
    with pytest.raises(UsageError, match="full"), may_be_left_out("a.png was"):
        raise UsageError("The disk is full.")
