"""Kills commands at random moments, and has the same command go on, again and again.

`python benchmarks/kills.py --kills 100` starts each command, kills it (SIGKILL) after a random part
of the time that it takes, starts it again, and so on until it comes to its end, which is compared
with that of an undisturbed one, to the bit. What is half done is kept every `--every` seconds
instead of every minute, so that small commands go through it too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import click
import torch

from libgraph.accumulate import halfway
from libgraph.analysis import analysis  # noqa: F401
from libgraph.report.page import page  # noqa: F401
from libgraph.runs.condition import run_condition
from libgraph_cli.main import main as command

SMALL = "-o blocks=2 -o width=3 -o layers=2 -o samples=60 --batch-size 7 -q"
COMMANDS = (
    f"analyze mlp {SMALL} --out out/r",
    f"compare mlp {SMALL} --bases lib,pca --draws 3 --out out/r",
    f"degeneracy mlp {SMALL} --out out/r",
    "train modular-addition -o steps=200 -o modulus=5 -o d_model=4 -o d_mlp=8 -o heads=2 -q "
    "--out out/m",
)

VARY = {"seconds", "started", "sha256", "bytes", "files", "memory_budget"}

AGAIN = 8
"""Times that one command is killed at most before it is left alone."""


def started(arguments: list[str], folder: Path) -> int:
    """The command in a process of its own, which has imported all that it needs."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        os.chdir(folder)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        sys.argv = ["libgraph", *arguments]
        try:
            command()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    finally:
        os._exit(code)


def ended(process: int, after: float | None = None) -> int:
    """Its exit code; after so many seconds it is killed."""
    until = None if after is None else time.monotonic() + after
    while True:
        done, status = os.waitpid(process, 0 if until is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if until is not None and time.monotonic() >= until:
            os.kill(process, signal.SIGKILL)
            until = None
        time.sleep(0.002)


def plain(value: object) -> object:
    """Without what varies."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in VARY}
    return [plain(item) for item in value] if isinstance(value, list) else value


def contents(folder: Path) -> dict[str, object]:
    """All that is there, hidden files too."""
    return {
        str(path.relative_to(folder)): plain(json.loads(path.read_text()))
        if path.suffix == ".json"
        else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def main() -> int:
    """Kill, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--every", type=float, default=0.2, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    halfway.EVERY = chosen.every
    chance = random.Random(chosen.seed)  # noqa: S311
    bad = kills = finished = 0
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, seconds = {}, {}
        for number, text in enumerate(COMMANDS):
            place = Path(folder) / f"undisturbed-{number}"
            (place / "out").mkdir(parents=True)
            began = time.monotonic()
            code = ended(started(text.split(), place))
            seconds[text], undisturbed[text] = time.monotonic() - began, contents(place / "out")
            click.echo(f"{text.split()[0]}: {seconds[text]:.1f} s undisturbed, exit code {code}")
        while kills < chosen.kills:
            text = COMMANDS[finished % len(COMMANDS)]
            place = Path(folder) / "killed"
            (place / "out").mkdir(parents=True)
            for _ in range(AGAIN):
                after = chance.uniform(0, seconds[text])
                killed = ended(started(text.split(), place), after) == -signal.SIGKILL
                kills += killed
                if not killed:
                    break
            code = ended(started(text.split(), place))
            runs = [path for path in (place / "out").iterdir() if (path / "run.json").is_file()]
            well = all(run_condition(run).well and not run_condition(run).left for run in runs)
            found = contents(place / "out")
            names = sorted({*found, *undisturbed[text]})
            other = [name for name in names if found.get(name) != undisturbed[text].get(name)]
            # What is finished is refused without --force.
            if code not in (0, 2) or not well or other:
                bad += 1
                click.echo(f"{text}: exit code {code}, other: {', '.join(other) or 'nothing'}")
            finished += 1
            shutil.rmtree(place)
            if finished % 4 == 0:
                click.echo(f"{kills} kills, {finished} commands finished, {bad} otherwise")
    click.echo(f"{kills} kills of {finished} commands: {bad} not as undisturbed.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
