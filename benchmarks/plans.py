"""What `--dry-run` says that commands are going to take, and what they take.

`python benchmarks/plans.py ["COMMAND" …]` asks for the plan of each command, runs it, and sets the
two side by side: seconds of the processor with one thread, which other work on the machine changes
little, and the most that was resident. The command's own seconds by stage, which are of the clock,
stand beside those of the plan.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

COMMANDS = (
    "analyze mlp",
    "analyze mlp -o task=digits",
    "analyze modular-addition",
    "analyze modular-addition --basis sparse",
    "analyze mlp --basis dictionary",
    "analyze lm -o sequences=32 -o layers=0:1",
    "compare mlp",
    "compare modular-addition",
    "analyze lm",
)
"""Of README.md and docs; others by their names."""


class Took(NamedTuple):
    """What a command took: seconds of the processor, bytes, and what it printed as JSON."""

    seconds: float
    memory: int
    printed: dict[str, Any]


def run(command: str, *more: str) -> Took:
    """One command of `libgraph` with one thread, in a process of its own."""
    arguments = [sys.executable, "-m", "libgraph_cli", *shlex.split(command), *more, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(arguments, env=environment, stdout=printed)  # noqa: S603
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"`libgraph {command}` failed; its message is above.")
        printed.seek(0)
        return Took(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, json.load(printed))


def in_words(seconds: Mapping[str, float]) -> str:
    """Stages of a second or more."""
    return ", ".join(f"{name} {spent:.0f}" for name, spent in seconds.items() if spent >= 1)


def main() -> None:
    """Plan and run the commands named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="*", default=COMMANDS, help="without `libgraph`")
    table = Table("command", "plan, s", "took, s", "by", "plan, MiB", "took, MiB")
    console = Console(file=sys.stdout, width=150)
    for command in parser.parse_args().commands:
        plan = run(command, "--dry-run").printed
        with tempfile.TemporaryDirectory() as folder:
            took = run(command, "--out", str(Path(folder) / "run"))
        expected = sum(plan["seconds"].values())
        console.print(f"{command}: plan of {in_words(plan['seconds'])}")
        console.print(f"{command}: took {in_words(took.printed['seconds'])}")
        table.add_row(
            command,
            f"{expected:.1f}",
            f"{took.seconds:.1f}",
            f"{max(expected, took.seconds) / min(expected, took.seconds):.2f}",
            f"{plan['memory'] / 2**20:.0f}",
            f"{took.memory / 2**20:.0f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
