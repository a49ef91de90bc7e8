"""Many analyses in one process: do memory, open files and threads stay what they are?

`python benchmarks/soak.py --analyses 200` analyses a small network again and again, with pictures
and page, into directories that are removed, and prints what the process holds: what is resident,
and, of glibc, what is allocated and not given back. Only the latter is held by somebody; the rest
are pieces that the allocator keeps for later. Growth is that of a line through the second half,
when caches have been filled. One of them is filled beforehand: Python's table of names.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import psutil

import libgraph as lg
from libgraph.progress import silent

OPTIONS = {"blocks": 2, "width": 3, "layers": 2, "samples": 60}

EVERY = 20

MOST = 20.0
"""KiB an analysis by which allocations may grow: the least model has more."""


FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class MallocInfo(ctypes.Structure):
    """What glibc says of its heap: numbers of bytes and pieces."""

    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS.split()]


def allocated() -> float:
    """Bytes that are allocated now; what is resident where that is not known."""
    try:
        mallinfo2 = ctypes.CDLL("libc.so.6").mallinfo2
    except (OSError, AttributeError):
        return float(psutil.Process().memory_info().rss)
    mallinfo2.restype = MallocInfo
    info = mallinfo2()
    return float(info.uordblks + info.hblkhd)


def settle_names() -> None:
    """Have Python's table of interned strings enlarged, which happens once, when it is used up.

    A name that is gone, such as a part of a path, leaves a place that is not used again before the
    table is made anew, with room for three times what it then holds. Some tens of thousands of
    names after the imports that is by 1.8 MiB, and later times do not change its size.
    """
    for number in range(10**6):
        sys.intern(f"a name that is gone, {number}")


def main() -> int:
    """Analyse, and print what is held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--analyses", type=int, default=200)
    count = parser.parse_args().analyses
    process = psutil.Process()
    held = np.zeros((count, 5))
    began = time.monotonic()
    for number in range(count):
        with tempfile.TemporaryDirectory() as folder:
            backend = lg.load_backend("mlp", **OPTIONS, seed=number % 3)
            run = lg.analyze(backend, out=Path(folder) / "r", progress=silent)
            lg.open_run(run.directory).graph()
        del run, backend
        gc.collect()
        if number == 0:
            before = allocated()
            settle_names()
            click.echo(f"the table of names takes {(allocated() - before) / 2**20:.1f} MiB more")
        held[number] = (
            allocated() / 2**10,
            process.memory_info().rss / 2**10,
            len(gc.get_objects()),
            process.num_fds(),
            process.num_threads(),
        )
        if number == 0 or (number + 1) % EVERY == 0:
            heap, rss, objects, files, threads = held[number]
            click.echo(
                f"{number + 1}: {heap / 1024:.1f} MiB allocated, {rss / 1024:.0f} resident, "
                f"{objects:.0f} objects, {files:.0f} files, {threads:.0f} threads"
            )
    late = held[count // 2 :]
    slopes = [np.polyfit(np.arange(len(late)), late[:, column], 1)[0] for column in range(3)]
    files, threads = np.ptp(late[:, 3:], axis=0)
    click.echo(
        f"{count} analyses in {time.monotonic() - began:.0f} s; what is allocated grows by "
        f"{slopes[0]:.1f} KiB an analysis, what is resident by {slopes[1]:.1f}, objects by "
        f"{slopes[2]:.1f}, files by {files:.0f}, threads by {threads:.0f}."
    )
    return int(slopes[0] > MOST or files > 0 or threads > 0)


if __name__ == "__main__":
    sys.exit(main())
