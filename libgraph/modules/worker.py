"""A process that runs Leiden for another one: a problem comes in, partitions go out.

Its standard input brings the length of the problem and the problem (`problem`), and stays open for
as long as whoever asks is there. Which seeds to run lies in a pipe from which this process and all
others take a byte when they are free: the number of a share. Out goes, for every seed, its place
and its partition, 64-bit integers. Nothing is printed, nothing written to a disk.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

import numpy as np

from libgraph.modules.problem import unpacked
from libgraph.modules.shares import taken


def end_with(source: int) -> None:
    """Have the system end this process when the other end of a pipe closes, in the midst of a run.

    Where it cannot (it does on Linux), the next partition finds no reader.
    """
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(source, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(source, fcntl.F_SETFL, fcntl.fcntl(source, fcntl.F_GETFL) | os.O_ASYNC)


def main(pipe: int, first: int, seeds: int) -> None:
    """Run seeds until none is left, or nobody listens.

    Args:
        pipe: Descriptor from which shares are taken.
        first: The first seed; the others follow.
        seeds: How many there are.
    """
    # An interrupt ends it at once, and not when igraph is through.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # igraph would bring it along, which takes eight times as long as all else.
    sys.modules.setdefault("matplotlib", None)  # type: ignore[arg-type]
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    length = int.from_bytes(source.read(8), "little")
    problem, resolution, iterations = unpacked(source.read(length))
    end_with(source.fileno())
    search = problem.search(resolution, iterations)
    with suppress(BrokenPipeError):
        for place in taken(pipe, seeds):
            sink.write(np.append(place, search(first + place)).astype(np.int64).tobytes())
            sink.flush()
