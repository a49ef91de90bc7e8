"""A stage that turns out to take long is told about once, with what makes it smaller."""

import pytest

from libgraph import progress as told
from libgraph.progress import Foretold, expect


class Clock:
    """Time that passes when it is told to."""

    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(told, "time", clock)
    return clock


def said(caplog):
    return [record.getMessage() for record in caplog.records]


def test_a_long_stage_is_told_about_once_and_early(clock, caplog):
    heard = []
    progress = Foretold(lambda *what: heard.append(what), "fewer seeds=… cost less")
    progress("short", 0, 2)
    clock.now += 300
    progress("short", 1, 2)
    # Exactly ten minutes are not more than that.
    assert not said(caplog)
    progress("long", 5, 105, "a note")
    clock.now += 9
    progress("long", 6, 105)
    assert not said(caplog), "too early to tell"
    clock.now += 11
    progress("long", 7, 105)
    sentence = (
        "Long is going to take about 17 minutes. To make it smaller: fewer seeds=… cost less."
    )
    assert said(caplog) == [sentence]
    clock.now += 1000
    progress("longer still", 0, 9)
    clock.now += 1000
    progress("longer still", 1, 9)
    assert said(caplog) == [sentence]
    assert heard[2] == ("long", 5, 105, "a note")
    assert len(heard) == 7


def test_nothing_is_said_where_nobody_knows_how_much_there_is(clock, caplog):
    progress = Foretold(told.silent, "")
    progress("search", 0, None)
    clock.now += 5000
    progress("search", 1, None)
    progress("stuck", 0, 5)
    clock.now += 5000
    progress("stuck", 0, 5)
    assert not said(caplog)


def test_whoever_wants_to_know_how_long_all_of_it_takes_is_told():
    class Listener:
        seconds = None

        def __call__(self, *what):
            pass

        def expect(self, seconds):
            self.seconds = seconds

    listener = Listener()
    expect(Foretold(listener, ""), 40.0)
    assert listener.seconds == 40.0
    expect(Foretold(told.silent, ""), 40.0)
