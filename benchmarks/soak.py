"""Many analyses in one process: do memory, open files and threads stay what they are?

`python benchmarks/soak.py --analyses 200` analyses a small network again and again, with pictures
and page, into directories that are removed, and prints what the process holds. Growth is that of a
line through the second half, when caches have been filled.
"""

from __future__ import annotations

import argparse
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
"""KiB an analysis by which memory may grow: allocators keep pieces, the least model has more."""


def main() -> int:
    """Analyse, and print what is held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--analyses", type=int, default=200)
    count = parser.parse_args().analyses
    process = psutil.Process()
    held = np.zeros((count, 3))
    began = time.monotonic()
    for number in range(count):
        with tempfile.TemporaryDirectory() as folder:
            backend = lg.load_backend("mlp", **OPTIONS, seed=number % 3)
            run = lg.analyze(backend, out=Path(folder) / "r", progress=silent)
            lg.open_run(run.directory).graph()
        del run, backend
        gc.collect()
        info = process.memory_info().rss / 2**10
        held[number] = info, process.num_fds(), process.num_threads()
        if number == 0 or (number + 1) % EVERY == 0:
            rss, files, threads = held[number]
            said = f"{rss / 1024:.0f} MiB, {files:.0f} files, {threads:.0f} threads"
            click.echo(f"{number + 1}: {said}")
    late = held[count // 2 :]
    slope = np.polyfit(np.arange(len(late)), late[:, 0], 1)[0]
    files, threads = np.ptp(late[:, 1:], axis=0)
    click.echo(
        f"{count} analyses in {time.monotonic() - began:.0f} s; memory grows by {slope:.1f} KiB an "
        f"analysis, files by {files:.0f}, threads by {threads:.0f}."
    )
    return int(slope > MOST or files > 0 or threads > 0)


if __name__ == "__main__":
    sys.exit(main())
