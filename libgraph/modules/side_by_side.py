"""Runs of Leiden from several seeds, in this process and, where it pays, in others beside it.

The first seed runs here and shows how long one takes. Others are shared out to new interpreters
(`worker`), never to forks, and none imports the caller's script; whoever is free takes the next
seed, this process too. A seed finds the same partition anywhere, so one whose process has failed
is run here. igraph and leidenalg let no second thread of a process compute.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import numpy as np

from libgraph.files.limits import available_memory
from libgraph.graph.arrays import IndexArray
from libgraph.modules.engines import Search
from libgraph.modules.problem import Problem, packed
from libgraph.modules.shares import pipe_of, taken

START = 0.2
"""Seconds of a processor that a worker takes until it has a problem; measured 0.12."""


EDGE = 6e-7
"""Seconds for every edge of its graph after that."""


PAYS = 2
"""Starts of a worker that the runs of each process have to be worth."""


SMALLEST = 2**26
"""Bytes that a worker takes without a graph; measured 35 MB."""


COPIES = 1.25
"""What a graph takes of a worker, arrays that it is made of included; measured 1.10."""


PATIENCE = 60.0
"""Seconds, and …"""


LONGEST = 20
"""… times the longest run here, that are waited for a partition before its seed is run here."""


WORKER = (
    "import sys, json; sys.path[:] = json.loads(sys.stdin.buffer.readline()); "
    "from libgraph.modules.worker import main; main(*map(int, sys.argv[1:]))"
)
"""What a worker executes: modules come from where they come from here."""


Answers = SimpleQueue[tuple[int, IndexArray] | None]
"""Places of seeds and their partitions; None from every worker that has ended."""


def side_by_side(
    problem: Problem, resolution: float, iterations: int, seeds: range, memory: int
) -> list[IndexArray]:
    """The partition that each seed finds, in order.

    Args:
        problem: What the runs start from.
        resolution: γ.
        iterations: As in :meth:`Problem.search`.
        seeds: Consecutive, at least one.
        memory: Bytes that the graphs of one process take.
    """
    search = problem.search(resolution, iterations)
    began = time.thread_time()
    first = search(seeds[0])
    each, left = time.thread_time() - began, seeds[1:]
    others: dict[int, IndexArray] = {}
    count = processes(len(left), each, problem.edges, memory)
    if count > 1:
        data = packed(problem, resolution, iterations)
        others = shared(search, left, count - 1, data, problem.vertices, each)
    return [first, *(others[i] if i in others else search(seed) for i, seed in enumerate(left))]


def processes(seeds: int, each: float, edges: int, memory: int) -> int:
    """How many processes, this one included, should run what is left.

    Args:
        seeds: How many are left.
        each: Seconds that one takes.
        edges: Of the graph, which every process makes anew.
        memory: Bytes that it takes there.
    """
    worth = int(seeds * each / (PAYS * (START + EDGE * edges)))
    most = min(seeds, worth)
    if most < 2:
        return 1
    most = min(most, processors())
    if most < 2 or not _can_start():
        return 1
    return min(most, 1 + int(available_memory() / 2 / (COPIES * memory + SMALLEST)))


def processors() -> int:
    """Processors that the caller lets this process use: no more than PyTorch or OpenMP may."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    # The torch that has been imported, if any: graphs and modules need none.
    threads = getattr(sys.modules.get("torch"), "get_num_threads", None)
    if threads is not None:
        return max(1, min(allowed, int(threads())))
    with suppress(ValueError):
        return max(1, min(allowed, int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0])))
    return allowed


def _can_start() -> bool:
    """Whether this is an interpreter that can be started again, and not a program with one inside.

    Pipes are handed on by their number, which only POSIX knows.
    """
    name = Path(sys.executable or "").name.lower()
    return os.name == "posix" and name.startswith("python") and not hasattr(sys, "frozen")


def shared(
    search: Search, seeds: range, workers: int, data: memoryview, vertices: int, each: float
) -> dict[int, IndexArray]:
    """Partitions by place of their seed, from here and from workers; those of failed ones lack.

    Args:
        search: A run in this process.
        seeds: Which.
        workers: How many processes to start.
        data: The packed problem.
        vertices: Length of a partition.
        each: Seconds that a run takes.
    """
    found: dict[int, IndexArray] = {}
    try:
        pipe = pipe_of(len(seeds))
    except OSError:
        # As many files are open as this process may have.
        return found
    with ExitStack() as stack:
        stack.callback(os.close, pipe)
        answers: Answers = SimpleQueue()
        alive = sum(
            stack.enter_context(_worker(pipe, seeds, data, vertices, answers))
            for _ in range(workers)
        )
        for place in taken(pipe, len(seeds)):
            began = time.monotonic()
            found[place] = search(seeds[place])
            each = max(each, time.monotonic() - began)
        with suppress(Empty):
            while alive and len(found) < len(seeds):
                answer = answers.get(timeout=max(PATIENCE, LONGEST * each))
                if answer is None:
                    alive -= 1
                else:
                    found[answer[0]] = answer[1]
    return found


@contextmanager
def _worker(
    pipe: int, seeds: range, data: memoryview, vertices: int, answers: Answers
) -> Iterator[bool]:
    """A worker that has ended when the block is left, and whether it has started."""
    try:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, *_flags(), "-c", WORKER, str(pipe), str(seeds.start), str(len(seeds))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=(pipe,),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    except (OSError, ValueError):
        yield False
        return
    thread = Thread(target=_serve, args=(process, data, len(seeds), vertices, answers), daemon=True)
    with process:
        try:
            with suppress(RuntimeError), _left_to_the_caller():
                thread.start()
            yield thread.ident is not None
        finally:
            process.kill()
            if thread.ident is not None:
                thread.join()


@contextmanager
def _left_to_the_caller() -> Iterator[None]:
    """Threads that begin here get none of these signals.

    A pipe without a reader may end the whole process. And where the system gives an interrupt to
    one of them, because the caller starts a process at that moment, the caller sleeps on.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _flags() -> list[str]:
    """How this interpreter looks for modules; nothing is put before them, no file written."""
    flags = {"-E": "ignore_environment", "-s": "no_user_site", "-S": "no_site", "-I": "isolated"}
    return ["-P", "-B", *(flag for flag, name in flags.items() if getattr(sys.flags, name))]


def _serve(
    process: subprocess.Popen[bytes], data: memoryview, seeds: int, vertices: int, answers: Answers
) -> None:
    """Send a worker the problem, and pass on what it finds until it ends."""
    path = json.dumps([entry for entry in sys.path if isinstance(entry, str)]).encode() + b"\n"
    assert process.stdin is not None  # noqa: S101
    assert process.stdout is not None  # noqa: S101
    try:
        with suppress(OSError):
            for part in (path, len(data).to_bytes(8, "little"), data):
                rest = memoryview(part)
                while rest:
                    rest = rest[process.stdin.write(rest) :]
        size = 8 * (1 + vertices)
        with open(process.stdout.fileno(), "rb", closefd=False) as output:
            while len(answer := output.read(size)) == size:
                numbers = np.frombuffer(answer, dtype=np.int64)
                place, members = int(numbers[0]), numbers[1:]
                # Something else may have printed there, such as a user's sitecustomize.
                if not (0 <= place < seeds and members.min() >= 0 and members.max() < vertices):
                    break
                answers.put((place, members))
    finally:
        answers.put(None)
