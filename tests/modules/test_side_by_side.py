"""Runs in several processes: what they find, and what they leave behind."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers.graphs import planted

from libgraph.modules import problem, side_by_side
from libgraph.modules.leiden import Leiden
from libgraph.modules.objectives import OBJECTIVES, WITHOUT_RESOLUTION
from libgraph.modules.shares import MOST, pipe_of, shares, taken

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def graph():
    # Seeds disagree on it, so each has its own answer.
    return planted(sizes=(40, 30, 50), noise=1.0, seed=2)[0]


@pytest.fixture
def started(monkeypatch):
    """Processes that have been started."""
    found = []

    class Noted(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            found.append(self)

    monkeypatch.setattr(side_by_side.subprocess, "Popen", Noted)
    return found


@pytest.fixture
def forced(monkeypatch):
    monkeypatch.setattr(side_by_side, "processes", lambda *_: 3)


def shared_of(leiden, search, seeds=range(3, 9), workers=2):
    """What `shared` finds with a run here, and a run that finds the truth."""
    posed = leiden._problem
    data = problem.packed(posed, 1.0, -1)
    found = side_by_side.shared(search, seeds, workers, data, posed.vertices, 0.1)
    return found, posed.search(1.0, -1)


def gone(started):
    return bool(started) and all(process.returncode is not None for process in started)


@pytest.mark.parametrize("engine", ["igraph", "leidenalg"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_workers_find_what_runs_here_find(graph, started, objective, engine):
    if engine == "igraph" and objective in WITHOUT_RESOLUTION:
        pytest.skip("igraph does not know it")

    def one_here(seed):
        for process in started:
            process.wait(timeout=60)
        return

    found, search = shared_of(Leiden(graph, objective, engine), one_here)
    from_workers = {place: members for place, members in found.items() if members is not None}
    assert (len(found), len(from_workers)) == (6, 5)
    for place, members in from_workers.items():
        np.testing.assert_array_equal(members, search(3 + place))
    assert gone(started)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_partitions_are_those_of_one_process(graph, forced, started, monkeypatch, objective):
    leiden = Leiden(graph, objective)
    together = leiden.runs(1.0, 5, 7)
    assert gone(started)
    monkeypatch.setattr(side_by_side, "processes", lambda *_: 1)
    for one, other in zip(together, leiden.runs(1.0, 5, 7), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(started) == 2


@pytest.mark.parametrize("resolution", [np.float32(1.1), np.int64(1)])
def test_a_resolution_may_be_a_number_of_numpy(graph, forced, monkeypatch, resolution):
    together = Leiden(graph).runs(resolution, 5, 4)
    monkeypatch.setattr(side_by_side, "processes", lambda *_: 1)
    np.testing.assert_array_equal(together, Leiden(graph).runs(resolution, 5, 4))


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(3)",
        "import os; os.kill(os.getpid(), 9)",
        "import sys; sys.stdin.buffer.read(100); sys.stdout.write('A word. ' * 9000)",
        side_by_side.WORKER.replace("; from", "; print('hello', flush=True); from"),
        "import time; time.sleep(60)",
        # As one that runs out of memory after it has taken seeds.
        "import os, sys; os.read(int(sys.argv[1]), 1); sys.exit(1)",
        "import os, sys, time; os.read(int(sys.argv[1]), 1); time.sleep(60)",
    ],
)
def test_seeds_of_a_worker_that_fails_are_run_here(graph, forced, started, monkeypatch, code):
    leiden = Leiden(graph)
    search = leiden._problem.search(1.0, -1)
    monkeypatch.setattr(side_by_side, "WORKER", code)
    monkeypatch.setattr(side_by_side, "PATIENCE", 0.5)
    monkeypatch.setattr(side_by_side, "LONGEST", 1)
    real = side_by_side.shared

    def later(run, *others):
        # So that workers take seeds before all are run here.
        return real(lambda seed: (time.sleep(0.1), run(seed))[1], *others)

    monkeypatch.setattr(side_by_side, "shared", later)
    found = side_by_side.side_by_side(leiden._problem, 1.0, -1, range(6), 0)
    for seed, members in enumerate(found):
        np.testing.assert_array_equal(members, search(seed))
    assert gone(started)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_error_here_ends_workers(graph, started, capfd, monkeypatch, error):
    monkeypatch.setattr(side_by_side, "WORKER", "import time; time.sleep(60)")

    def search(seed):
        time.sleep(0.3)
        raise error

    with pytest.raises(error):
        shared_of(Leiden(graph), search)
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 2
    assert capfd.readouterr() == ("", "")


def test_no_process_can_be_started(graph, forced, monkeypatch):
    def refuse(*arguments, **options):
        raise BlockingIOError("Resource temporarily unavailable")

    expected = Leiden(graph).runs(1.0, 0, 4)
    for place, name in ((side_by_side.subprocess, "Popen"), (side_by_side, "pipe_of")):
        monkeypatch.setattr(place, name, refuse)
        np.testing.assert_array_equal(Leiden(graph).runs(1.0, 0, 4), expected)


def test_the_caller_finds_everything_as_it_was(graph, forced, started):
    def state():
        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        return handlers, dict(os.environ), random.getstate(), signal.pthread_sigmask(0, [])

    before, descriptors = state(), psutil.Process().num_fds()
    Leiden(graph).runs(1.0, 0, 5)
    assert gone(started)
    assert state() == before
    assert psutil.Process().num_fds() == descriptors


SCRIPT = """
import os, psutil, sys, time, signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
# In the background of a shell tests inherit that interrupts are ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
print("begin", flush=True)
sys.path.insert(0, {tests!r})
from helpers.graphs import planted
from libgraph.modules import side_by_side
from libgraph.modules.leiden import Leiden
side_by_side.processes = lambda *_: 3
real = side_by_side.shared
def counted(search, *others):
    def here(seed):
        ran.append(seed)
        {wait}
        return search(seed)
    return real(here, *others)
side_by_side.shared, ran = counted, []
Leiden(planted(noise=1.0)[0]).runs(1.0, 0, 6)
print(len(ran), flush=True)
"""

UNTIL_WORKERS_END = (
    "while any(c.status() != 'zombie' for c in psutil.Process().children()): time.sleep(0.02)"
)


@pytest.mark.parametrize("how", ["script", "input", "-c"])
def test_no_script_runs_twice(tmp_path, how):
    text = SCRIPT.format(tests=str(TESTS), wait=UNTIL_WORKERS_END)
    (tmp_path / "script.py").write_text(text)
    # A file that a script's folder holds by chance.
    (tmp_path / "worker.py").write_text("raise SystemExit('not this one')")
    arguments = {"script": ["script.py"], "input": ["-"], "-c": ["-c", text]}[how]
    found = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, input=text, text=True, capture_output=True
    )
    assert (found.stdout, found.stderr) == ("begin\n1\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.py", "worker.py"]


def test_a_worker_that_is_gone_ends_no_caller_who_ends_at_broken_pipes():
    text = SCRIPT.format(tests=str(TESTS), wait="pass").replace(
        "planted(", "planted(sizes=(300, 300), "
    )
    # More than a pipe holds, so that it is still being sent when nobody is there any more.
    text = "import libgraph.modules.side_by_side as s\ns.WORKER = ''\n" + text
    found = subprocess.run([sys.executable, "-c", text], text=True, capture_output=True)
    assert (found.stdout, found.returncode) == ("begin\n5\n", 0)


def test_an_interrupt_from_the_terminal_is_told_once(tmp_path):
    # The system may give the interrupt to a library's thread while this one starts a process; then
    # no sleep ends early. igraph looks again and again whether there was one, and so does this.
    wait = "[time.sleep(0.05) for _ in range(1200)]"
    text = SCRIPT.format(tests=str(TESTS), wait=wait)
    with subprocess.Popen(
        [sys.executable, "-c", text + "\n"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
    ) as process:  # fmt: skip
        children = _children(process)
        os.killpg(process.pid, signal.SIGINT)
        errors = process.communicate(timeout=20)[1]
    assert errors.count("Traceback") == 1
    assert process.returncode != 0
    assert not psutil.wait_procs(children, timeout=5)[1]


def test_workers_end_when_the_caller_is_killed():
    """Even in the midst of a run, where the system tells them, and else after it."""
    text = SCRIPT.format(tests=str(TESTS), wait="time.sleep(60)")
    # Workers hang in their first run.
    text = "import libgraph.modules.side_by_side as s\ns.WORKER = s.WORKER.replace('main(*', " + (
        "'import libgraph.modules.problem as p, time; "
        "p.Problem.search = lambda *_: time.sleep(60); main(*')\n"
    ) + text  # fmt: skip
    if sys.platform != "linux":
        pytest.skip("the system does not tell")
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.DEVNULL) as process:
        children = _children(process)
        time.sleep(0.5)
        assert all(child.is_running() for child in children)
        process.kill()
    assert not psutil.wait_procs(children, timeout=5)[1]


def _children(process):
    """Both workers of a script, as soon as they are there."""
    for _ in range(200):
        children = psutil.Process(process.pid).children()
        if len(children) == 2:
            return children
        time.sleep(0.05)
    raise AssertionError("no workers")


def test_a_worker_imports_little():
    heavy = {"torch", "pydantic", "scipy", "rich", "matplotlib"}
    code = "import sys, libgraph.modules.worker; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "numpy" in loaded
    assert not heavy & set(loaded.replace("'", " ").split())


@pytest.mark.parametrize("seeds", [1, 5, MOST, MOST + 1, 1000])
def test_every_seed_is_taken_once(seeds):
    assert [place for part in shares(seeds) for place in part] == list(range(seeds))
    pipe = pipe_of(seeds)
    one, other = taken(pipe, seeds), taken(pipe, seeds)
    found = [next(one), *other, *one]
    os.close(pipe)
    assert sorted(found) == list(range(seeds))


def test_processes_where_they_pay(monkeypatch):
    monkeypatch.setattr(side_by_side, "processors", lambda: 4)
    monkeypatch.setattr(side_by_side, "available_memory", lambda: 2**40)
    start = side_by_side.START + side_by_side.EDGE * 10**6
    # Nine runs of a tenth of a start are worth less than two starts each.
    assert side_by_side.processes(9, start / 10, 10**6, 0) == 1
    assert side_by_side.processes(9, start, 10**6, 0) == 4
    assert side_by_side.processes(9, start / 2, 10**6, 0) == 2
    assert side_by_side.processes(1, 100, 10**6, 0) == 1
    assert side_by_side.processes(0, 100, 10**6, 0) == 1
    assert side_by_side.processes(3, 100, 10**6, 0) == 3
    # Half of 2 GiB holds a worker with a graph of 0.5 GiB once, besides the one here.
    monkeypatch.setattr(side_by_side, "available_memory", lambda: 2**31)
    assert side_by_side.processes(9, 100, 10**6, 2**29) == 2
    assert side_by_side.processes(9, 100, 10**6, 2**31) == 1
    monkeypatch.setattr(side_by_side, "processors", lambda: 1)
    assert side_by_side.processes(9, 100, 10**6, 0) == 1


@pytest.mark.parametrize("executable", [None, "", "/usr/bin/blender"])
def test_a_program_with_python_inside_is_not_started(monkeypatch, executable):
    assert side_by_side.processors() >= 1
    monkeypatch.setattr(side_by_side, "processors", lambda: 4)
    assert side_by_side.processes(9, 100, 10, 0) > 1
    monkeypatch.setattr(side_by_side.sys, "executable", executable)
    assert side_by_side.processes(9, 100, 10, 0) == 1


def test_processors_are_those_that_the_caller_leaves(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    for value, expected in (("1", 1), ("4,2", 4), ("9", 6), ("0", 1), ("many", 6), ("", 6)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert side_by_side.processors() == expected
    monkeypatch.setitem(sys.modules, "torch", type("Torch", (), {"get_num_threads": lambda: 3}))
    assert side_by_side.processors() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert side_by_side.processors() == 1
