"""Bars: what runs now is in sight however many stages are finished, and how long the rest takes."""

import io

import pytest

from libgraph import bars as bars_module
from libgraph.bars import IN_SIGHT, Bars, moves, shown
from libgraph.progress import expect, in_words, silent
from libgraph.screen import Screen


def terminal(height=24):
    screen = Screen(file=io.StringIO(), width=80, force_terminal=True)
    screen.height = height
    return screen


def picture(bars):
    """What bars look like now, line by line."""
    screen = Screen(file=io.StringIO(), width=80)
    screen.print(bars._picture())
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]


def test_what_runs_now_is_in_sight():
    with Bars(terminal()) as bars:
        for index in range(50):
            bars(f"stage {index}", 1, 1)
        bars("the one that runs", 3, 10)
        expect(bars, 7200)
        lines = picture(bars)
    assert len(lines) == IN_SIGHT + 3 <= 12
    assert lines[0] == f"✓ {50 - IN_SIGHT} finished before"
    assert "stage 49" in lines[-3]
    assert "the one that runs" in lines[-2]
    assert " 3/10 " in lines[-2]
    assert lines[-1] == "  all stages: about 2 hours left"


def test_time_left_is_that_of_the_stage_where_more_was_expected_of_it(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(bars_module.time, "monotonic", lambda: now[0])
    with Bars(terminal()) as bars:
        bars.expect(60)
        bars("a stage", 1, 10)
        assert picture(bars)[-1] == "  all stages: about 60 s left"
        now[0] += 45
        assert picture(bars)[-1] == "  all stages: about 15 s left"
        now[0] += 45
        assert picture(bars)[-1] == "  all stages: about 0 s left"
        monkeypatch.setattr(Bars, "_left_of_stage", lambda self: [33.0])
        assert picture(bars)[-1] == "  all stages: about 33 s left"


def test_times_say_which_of_them_is_left(monkeypatch):
    now = [0.0]
    with Bars(terminal()) as bars:
        bars._stages.get_time = lambda: now[0]
        bars("first", 0, 4)
        now[0] = 4000.0
        bars("first", 4, 4)
        bars("second", 0, 10)
        for done in (1, 2, 3):
            now[0] += 20
            bars("second", done, 10)
        lines = picture(bars)
    assert lines[0].endswith(" 4/4   1:06:40")
    assert lines[1].endswith(" 3/10 1:00, 2:20 left")


def test_plain_lines_elsewhere():
    screen = Screen(file=io.StringIO(), width=80)
    with Bars(screen) as bars:
        bars("a", 1, 2)
        bars("a", 2, 2)
        bars.expect(1000)
        bars("b", 1, 1)
    assert [line.split(":")[0] for line in screen.file.getvalue().splitlines()] == ["a", "b"]


def test_quiet_shows_nothing():
    for screen in (terminal(), Screen(file=io.StringIO(), width=80)):
        with Bars(screen, quiet=True) as bars:
            bars("a", 1, 2)
        assert not screen.file.getvalue()


def test_bars_where_somebody_looks(monkeypatch):
    def mine(stage, done, total, note=""):
        pass

    with shown(mine) as progress:
        assert progress is mine
    monkeypatch.setattr(bars_module, "Screen", lambda stderr: Screen(file=io.StringIO(), width=80))
    with shown(None) as progress:
        assert progress is silent
    monkeypatch.setattr(bars_module, "Screen", lambda stderr: terminal())
    with shown(None) as progress:
        assert isinstance(progress, Bars)
    monkeypatch.setenv("RANK", "1")
    with shown(None) as progress:
        assert progress is silent


def test_notebooks_redraw_where_they_can(monkeypatch):
    screen = Screen(file=io.StringIO(), width=80)
    monkeypatch.setattr(type(screen), "is_jupyter", True, raising=False)
    screen.is_jupyter = True
    monkeypatch.setattr(bars_module, "find_spec", lambda name: None)
    assert not moves(screen)
    monkeypatch.setattr(bars_module, "find_spec", lambda name: name)
    assert moves(screen)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (99, "99 s"),
        (100, "2 minutes"),
        (5999, "100 minutes"),
        (7200, "2 hours"),
        (39.4 * 3600, "39 hours"),
        (5 * 86400, "5 days"),
    ],
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words
