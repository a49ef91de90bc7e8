"""Commands killed before a change of the file system: the same command again comes to the same.

A forked process runs the command and is killed, by SIGKILL, before its n-th change; then the same
command runs undisturbed. Every day some points of some commands are tried so. In `make test-all`
all points of all commands are: what is on the disk before each change is copied from one run.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.examples import PROFILE

import libgraph
import libgraph_backends
import libgraph_cli
from libgraph.accumulate import halfway
from libgraph.runs.condition import run_condition
from libgraph_cli.main import main

CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
"""What Python tells audit hooks of; files opened for writing come besides."""

VARIES = {"seconds", "started", "sha256", "bytes", "files", "memory_budget"}
"""What differs between two runs that found the same."""

POINTS = 1
"""Of each command, on an ordinary day."""


class Watch:
    """Counts changes under a directory, and calls a function with the number of each before it."""

    def __init__(self, directory: Path, before: Callable[[int], object]) -> None:
        self.directory, self.before, self.count = str(directory), before, 0

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            flags = arguments[2]
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not writes:
                return
        elif event not in CHANGES:
            return
        path = arguments[0]
        if isinstance(path, int) or path is None:
            return
        if os.path.abspath(os.fsdecode(path)).startswith(self.directory + os.sep):  # type: ignore[arg-type]
            self.before(self.count)
            self.count += 1


def killing(point: int) -> Callable[[int], None]:
    """Kills this process before that change."""

    def kill(count: int) -> None:
        if count == point:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    return kill


def nothing(count: int) -> None:
    """Lets a change happen."""


def forked(
    arguments: list[str], directory: Path, before: Callable[[int], object] = nothing
) -> tuple[int, int]:
    """Run the command in a process of its own: how it ended, and how many changes it made."""
    receiving, sending = os.pipe()
    process = os.fork()
    if process == 0:
        code = 70
        try:
            os.chdir(directory)
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nowhere, stream)
            sys.stdout, sys.stderr = (open(os.devnull, "w") for _ in range(2))  # noqa: SIM115
            watch = Watch(directory, before)
            sys.addaudithook(watch)
            sys.argv = ["libgraph", *arguments]
            if arguments[0] == "faithfulness":
                # It keeps what is half done in a run, which takes other files than this.
                halfway.EVERY = 0.0
            try:
                main()
                code = 0
            except SystemExit as stop:
                code = int(stop.code or 0)
            os.write(sending, str(watch.count).encode())
        finally:
            os._exit(code)
    os.close(sending)
    with os.fdopen(receiving) as pipe:
        count = pipe.read()
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), int(count or -1)


def imported() -> None:
    """Import what commands import at their first use, so that forked processes need not."""
    for package in (libgraph, libgraph_cli, libgraph_backends):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    importlib.import_module("matplotlib.pyplot")


def plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in VARIES}
    return [plain(item) for item in value] if isinstance(value, list) else value


def contents(directory: Path) -> dict[str, object]:
    """All that is in a directory, hidden files too, without what differs between runs."""
    found: dict[str, object] = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            name = str(path.relative_to(directory))
            found[name] = path.read_bytes()
            if path.suffix == ".json":
                found[name] = plain(json.loads(path.read_text()))
    return found


TRAIN = "train modular-addition -o steps=40 -o modulus=5 -o d_model=4 -o d_mlp=8 -o heads=2"
SMALL = "-o blocks=2 -o width=3 -o layers=2 -o samples=60 -q"
COMMANDS: dict[str, tuple[list[str], str]] = {
    "analyze": ([], f"analyze mlp {SMALL} --out out/r"),
    "analyze --force": (
        [f"analyze mlp {SMALL} --out out/r"],
        f"analyze mlp {SMALL} --limit 40 --out out/r --force",
    ),
    "communities --write": (
        [f"analyze mlp {SMALL} --out out/r"],
        "communities out/r --resolution 3 --write -q",
    ),
    "train": ([], f"{TRAIN} -q --out out/m"),
    "degeneracy": ([], f"degeneracy mlp {SMALL} --out out/r"),
    "compare": ([], f"compare mlp --bases lib,pca --draws 2 {SMALL} --out out/r"),
    "view --fresh": ([f"analyze mlp {SMALL} --out out/r"], "view out/r --fresh --no-open"),
    "prompt": (
        [f"analyze mlp {SMALL} --out out/r"],
        "prompt out/r --sample 0 -q --out out/one.json",
    ),
    "faithfulness": (
        [f"analyze mlp {SMALL} --no-ablation --out out/r"],
        "faithfulness out/r --basis lib --share 0.5 --draws 0 -q --figure out/f.png",
    ),
    "export": (
        [f"analyze mlp {SMALL} --out out/r"],
        "export out/r --out out/graph.graphml",
    ),
}
"""What is run before, and the command that is killed."""

REFUSE = ("analyze", "compare", "degeneracy", "train", "prompt", "export")
"""Commands that refuse to replace what is there, without --force."""

DAILY = ("train", "analyze", "communities --write")


@pytest.fixture(scope="session")
def undisturbed(made_once) -> Callable[[str], tuple[Path, Path, int]]:
    """Of a command: what is there before it, what after it, and how many changes it makes."""

    def of(name: str) -> tuple[Path, Path, int]:
        def make(folder: Path) -> None:
            before, after = folder / "before", folder / "after"
            (before / "out").mkdir(parents=True)
            first, command = COMMANDS[name]
            for each in first:
                assert forked(each.split(), before)[0] == 0
            shutil.copytree(before, after)
            code, count = forked(command.split(), after)
            assert code == 0
            (folder / "count").write_text(str(count))

        folder = made_once(f"crash-{name.replace(' ', '')}", make)
        return folder / "before", folder / "after", int((folder / "count").read_text())

    return of


def what_is_wrong(name: str, work: Path, after: Path) -> str | None:
    """Of the same command in what a killed one has left: where it does not come to the same."""
    code, _ = forked(COMMANDS[name][1].split(), work)
    # What was finished already, without --force, is there and says so.
    if not (code == 0 or (code == 2 and name in REFUSE)):
        return f"{work.name}: exit code {code}"
    found, expected = contents(work / "out"), contents(after / "out")
    names = found.keys() | expected.keys()
    differ = sorted(each for each in names if found.get(each) != expected.get(each))
    runs = [run for run in (work / "out").iterdir() if (run / "run.json").exists()]
    conditions = [run_condition(run) for run in runs]
    if differ or not all(each.well and not each.left for each in conditions):
        return f"{work.name}: {differ}, {conditions}"
    shutil.rmtree(work)
    return None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("name", DAILY)
def test_some_points_of_some_commands(name, undisturbed, tmp_path):
    before, after, count = undisturbed(name)
    for number in range(POINTS):
        point = int((number + 0.5) / POINTS * count)
        work = tmp_path / f"{point} of {count}"
        shutil.copytree(before, work)
        assert forked(COMMANDS[name][1].split(), work, killing(point))[0] == -signal.SIGKILL
        assert what_is_wrong(name, work, after) is None


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("name", COMMANDS)
def test_every_point_of_every_command(name, undisturbed, tmp_path):
    imported()
    before, after, count = undisturbed(name)
    work = tmp_path / "work"
    shutil.copytree(before, work)
    step = 1 if PROFILE == "thorough" else 7

    def keep(point: int) -> None:
        if point % step == 0:
            shutil.copytree(work, tmp_path / f"{point} of {count}", symlinks=True)

    assert forked(COMMANDS[name][1].split(), work, keep)[0] == 0
    assert contents(work / "out") == contents(after / "out")
    shutil.rmtree(work)
    left = sorted(tmp_path.iterdir())
    assert len(left) == -(-count // step)
    assert not [wrong for each in left if (wrong := what_is_wrong(name, each, after))]
