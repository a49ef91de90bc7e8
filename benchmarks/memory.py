"""Memory against the budget: what commands take with several `--memory`, beside a loaded model.

`python benchmarks/memory.py` runs each command in a process of its own. Before it counts it has
imported all that the command needs, analysed another small network, loaded the model and run it.
From then on the kernel keeps the most that was resident at once, and what that is above the
beginning is held against the budget. Bases and sums, which are needed whole, are in it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import click
import psutil
import torch

import libgraph as lg
from libgraph.degeneracy.measure import measure_degeneracy
from libgraph.progress import silent

MIB = 2**20

COMMANDS: Mapping[str, tuple[str, Mapping[str, object], Mapping[str, object]]] = {
    "analyze modular-addition": ("modular-addition", {}, {"limit": 1000, "ablate": False}),
    "analyze lm": (
        "lm",
        {"sequences": 8, "n_ctx": 32, "layers": "0:1", "cuts": "blocks"},
        {"ablate": False, "signs": 2},
    ),
    "analyze mlp, with ablation": (
        "mlp",
        {"blocks": 2, "width": 30, "layers": 2, "samples": 4000},
        {"limit": 1000},
    ),
    "compare mlp, lib and sparse": (
        "mlp",
        {"blocks": 2, "width": 20, "layers": 2, "samples": 4000},
        {"ablate": False, "basis": "lib", "beside": ("sparse",), "sparse_steps": 20},
    ),
    "degeneracy mlp, by probes": (
        "mlp",
        {"blocks": 2, "width": 60, "layers": 2, "samples": 2000},
        {"samples": 1000, "probes": 8, "steps": 20, "draws": 2},
    ),
}
"""What each is called, its backend and that one's options, and those of the analysis."""

BUDGETS = (16, 64, 256)
"""MiB."""


def measured(name: str, memory: int) -> None:
    """Run a command, and print by how many bytes the most that was resident is above the start."""
    torch.set_num_threads(1)
    backend_name, settings, options = COMMANDS[name]
    verb = measure_degeneracy if name.startswith("degeneracy") else lg.analyze
    # All that is imported and allocated at the first use is there before it counts.
    small = {"blocks": 2, "width": 3, "layers": 2, "samples": 40}
    with tempfile.TemporaryDirectory() as folder:
        verb(lg.load_backend("mlp", **small), out=Path(folder) / "r", progress=silent)
    backend = lg.load_backend(backend_name, **settings)
    batch = next(iter(backend.batches("train", 2)))
    with torch.no_grad():
        backend.network()(batch.inputs)
    Path("/proc/self/clear_refs").write_text("5")
    before = psutil.Process().memory_info().rss
    with tempfile.TemporaryDirectory() as folder:
        verb(backend, out=Path(folder) / "r", progress=silent, memory=memory, **options)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    click.echo(peak - before)


def main() -> int:
    """Run all of them, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="TEXT", default="", help="commands whose name holds it")
    parser.add_argument("--child", nargs=2, metavar=("NAME", "BYTES"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        measured(chosen.child[0], int(chosen.child[1]))
        return 0
    for name in COMMANDS:
        if chosen.only not in name:
            continue
        for budget in BUDGETS:
            arguments = [sys.executable, __file__, "--child", name, str(budget * MIB)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            found = subprocess.run(  # noqa: S603
                arguments, env=environment, capture_output=True, text=True, check=False
            )
            if found.returncode:
                click.echo(f"{name}, {budget} MiB: {found.stderr.strip().splitlines()[-1]}")
                continue
            taken = int(found.stdout.split()[-1]) / MIB
            click.echo(f"{name}, {budget} MiB: {taken:.0f} MiB above the start")
    return 0


if __name__ == "__main__":
    sys.exit(main())
