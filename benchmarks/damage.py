"""Damages files of runs, and has them read and analysed again: is anything silently wrong?

`python benchmarks/damage.py --read 1000 --resumed 500 --seed 0` damages one file of a small run at
a time: bits flipped, ends cut off, emptied, removed, changed places, taken from a run of another
seed, other values in JSON, brackets without end. A command that reads the run has to print what it
prints of the whole one, or to end in one sentence, and `doctor` has to see the damage. Analyses
that go on from a damaged run, finished or not, have to leave what an undisturbed one does; where
they end in a sentence, what it advises has to work.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import torch

from libgraph.analysis import analysis
from libgraph_cli.main import main as command

MODEL = ["mlp", *["-o", "blocks=2", "-o", "width=3", "-o", "layers=2", "-o", "samples=60", "-q"]]

READING = (
    "show {run} hidden1/1 --json",
    "show {run} module:0 --json",
    "communities {run} --json",
    "communities {run} --resolution 2 --json",
    "compare {run} --json",
    "diff {run} {other} --json",
    "export {run} --format graphml --out {scratch}/graph.graphml --force --json",
    "ablate {run} hidden1/1 -q --json",
    "prompt {run} --sample 0 -q --json",
    "view {run} --no-open --json",
)

VARY = {"seconds", "started", "sha256", "bytes", "files", "memory_budget", "address", "page"}
"""What differs between two runs that found the same, or two places."""

LIKELY = ("run.json", "metrics.json", "graph.json", "ablation.json", "bases.safetensors",
          "edges.safetensors", "examples.safetensors")  # fmt: skip
"""Files that commands read, which are damaged more often than others."""


class Ended:
    """How a command ended."""

    def __init__(self, arguments: list[str]) -> None:
        self.code, self.trace = 0, ""
        out, err = io.StringIO(), io.StringIO()
        sys.argv = ["libgraph", *arguments]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                command()
            except SystemExit as stop:
                self.code = int(stop.code or 0)
            except BaseException:
                self.code, self.trace = -1, traceback.format_exc()
        self.out, self.err = out.getvalue(), err.getvalue().strip()

    @property
    def sentence(self) -> bool:
        """Whether it is one for users: an exit code of ours, and no traceback."""
        return self.code in (2, 3, 4, 5) and "libgraph:" in self.err


def plain(value: object) -> object:
    """Without what varies."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in VARY}
    return [plain(item) for item in value] if isinstance(value, list) else value


def printed(ended: Ended) -> object:
    """What a command prints, as far as it does not vary."""
    try:
        return plain(json.loads(ended.out))
    except ValueError:
        return ended.out


def contents(run: Path) -> dict[str, object]:
    """All that is in a run, hidden files too."""
    found: dict[str, object] = {}
    for path in sorted(run.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(run))] = (
                plain(json.loads(path.read_text())) if path.suffix == ".json" else path.read_bytes()
            )
    return found


# Damage: each takes a file, a run of another seed, and chances, and says what it did.


def flipped(file: Path, other: Path, chance: random.Random) -> None:
    """One to eight bits."""
    content = bytearray(file.read_bytes())
    for _ in range(chance.randint(1, 8) if content else 0):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def cut(file: Path, other: Path, chance: random.Random) -> None:
    """The end is gone."""
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(max(len(content), 1))])


def emptied(file: Path, other: Path, chance: random.Random) -> None:
    """Nothing is left."""
    file.write_bytes(b"")


def removed(file: Path, other: Path, chance: random.Random) -> None:
    """The file is gone."""
    file.unlink()


def longer(file: Path, other: Path, chance: random.Random) -> None:
    """Something comes after the end."""
    file.write_bytes(file.read_bytes() + chance.randbytes(chance.randint(1, 50)))


def noise(file: Path, other: Path, chance: random.Random) -> None:
    """As many bytes, but others."""
    file.write_bytes(chance.randbytes(file.stat().st_size))


def exchanged(file: Path, other: Path, chance: random.Random) -> None:
    """Two files of the run have changed places."""
    files = [path for path in file.parent.iterdir() if path.is_file() and path != file]
    second = chance.choice(files)
    content = file.read_bytes()
    file.write_bytes(second.read_bytes())
    second.write_bytes(content)


def of_another(file: Path, other: Path, chance: random.Random) -> None:
    """The same file of a run of another seed."""
    if (other / file.name).is_file():
        shutil.copyfile(other / file.name, file)
    else:
        emptied(file, other, chance)


def other_values(file: Path, other: Path, chance: random.Random) -> None:
    """Something in JSON is something else."""
    if file.suffix != ".json":
        flipped(file, other, chance)
        return
    document = json.loads(file.read_text())
    places: list[tuple[dict | list, object]] = []

    def walk(value: object) -> None:
        if isinstance(value, dict | list):
            for key in value if isinstance(value, dict) else range(len(value)):
                places.append((value, key))
                walk(value[key])  # type: ignore[index]

    walk(document)
    holder, key = chance.choice(places)
    old = holder[key]  # type: ignore[index]
    numbers = [old * 2 + 1, -old, 1e308] if isinstance(old, int | float) else []
    new = chance.choice([None, [], {}, "text", -1, 0, True, [[old]], {"a": old}, *numbers])
    if chance.random() < 0.2 and isinstance(holder, dict):
        del holder[key]
    else:
        holder[key] = new  # type: ignore[index]
    file.write_text(json.dumps(document, indent=1) + "\n")


def deep(file: Path, other: Path, chance: random.Random) -> None:
    """Brackets without end, numbers that are none, bytes that are no text."""
    file.write_bytes(
        chance.choice([b"[" * 10**5, b'{"a":' * 10**4, b"NaN", b"\xff\xfe{}", b"1e999"])
    )


KINDS: tuple[Callable[[Path, Path, random.Random], None], ...] = (
    flipped, cut, emptied, removed, longer, noise, exchanged, of_another, other_values, deep,
)  # fmt: skip


class Trial:
    """Runs to damage, and what undisturbed commands make of them.

    Args:
        folder: where to.
        seed: of what is damaged, and how.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance = folder, random.Random(seed)  # noqa: S311
        self.whole, self.other = folder / "whole", folder / "other"
        self.partial = folder / "partial"
        self.found: Counter[str] = Counter()
        self.bad: list[str] = []
        self.done(self.analysis(self.whole))
        self.done(self.analysis(self.other, "-o", "seed=1"))
        self.stop_at_the_end(self.partial)
        self.expected = contents(self.whole)
        # Where damaged copies are going to be, as some commands print where a run is.
        copy = shutil.copytree(self.whole, folder / "copy" / "whole")
        self.printed = {text: printed(self.read(text, copy)) for text in READING}

    def analysis(self, out: Path, *more: str) -> Ended:
        """The analysis into a directory."""
        return Ended(["analyze", *MODEL, *more, "--out", str(out)])

    def done(self, ended: Ended, code: int = 0) -> None:
        """Give up where a command that nothing disturbs ends otherwise."""
        if ended.code != code:
            raise SystemExit(f"{ended.code}: {ended.err} {ended.trace}")

    def stop_at_the_end(self, out: Path) -> None:
        """Leave a run whose stages are finished, and which is not."""

        def fail(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        before = analysis.run_metrics
        analysis.run_metrics = fail
        try:
            self.done(self.analysis(out), 130)
        finally:
            analysis.run_metrics = before

    def read(self, text: str, run: Path) -> Ended:
        """A command that reads a run."""
        named = {"run": str(run), "other": str(self.other), "scratch": str(self.folder)}
        return Ended(text.format(**named).split())

    def damaged(self, source: Path, name: str) -> tuple[Path, str, str]:
        """A copy with one file damaged: where, which file, how."""
        copy = self.folder / "copy" / name
        shutil.rmtree(copy.parent, ignore_errors=True)
        shutil.copytree(source, copy)
        files = sorted(path.name for path in copy.iterdir() if path.is_file())
        likely = [file for file in LIKELY if file in files]
        file = self.chance.choice(likely if self.chance.random() < 0.8 else files)
        kind = self.chance.choice(KINDS)
        kind(copy / file, self.other, self.chance)
        return copy, file, kind.__name__

    def judge(self, case: str, ended: Ended, expected: object, got: object) -> str:
        """What came of it; what is not right is kept."""
        if ended.trace:
            result = "traceback"
            self.bad.append(f"{case}: {ended.trace.splitlines()[-1]}\n{ended.trace}")
        elif ended.code == 0 and got == expected:
            result = "the same"
        elif ended.code == 0:
            result = "silently wrong"
            self.bad.append(f"{case}: other output with exit code 0, {differing(expected, got)}")
        elif ended.sentence:
            result = "one sentence"
        else:
            result = "no sentence"
            self.bad.append(f"{case}: exit code {ended.code}, {ended.err!r}")
        self.found[result] += 1
        return result

    def one_read(self) -> None:
        """Damage a file and read the run."""
        copy, file, kind = self.damaged(self.whole, "whole")
        text = self.chance.choice(READING)
        case = f"{text.split()[0]} of a run with {file} {kind}"
        # Before it is read: `view` writes a page again that is damaged.
        doctor = Ended(["doctor", str(copy)])
        same = contents_equal(copy, self.whole)
        # A record of another run, or in the place of another file, makes all others wrong instead.
        seen = doctor.code == 2 and ("damaged" in doctor.err or "has no run.json" in doctor.err)
        if doctor.trace or not (same or seen):
            self.found["doctor does not see it"] += 1
            self.bad.append(f"doctor before {case}: {doctor.code} {doctor.err!r} {doctor.trace}")
        ended = self.read(text, copy)
        self.judge(case, ended, self.printed[text], printed(ended))

    def one_resumed(self) -> None:
        """Damage a file and analyse again."""
        finished = self.chance.random() < 0.5
        source = self.whole if finished else self.partial.with_name("partial.partial")
        name = "r" if finished else "r.partial"
        copy, file, kind = self.damaged(source, name)
        out, force = copy.parent / "r", ["--force"] if finished else []
        case = f"analysis of {'a finished' if finished else 'an unfinished'} run, {file} {kind}"
        ended = self.analysis(out, *force)
        got = contents(out) if ended.code == 0 else None
        if self.judge(case, ended, self.expected, got) == "one sentence":
            if "rename it" in ended.err:
                out.rename(self.folder / "renamed")
                shutil.rmtree(self.folder / "renamed")
            again = self.analysis(out, "--force")
            works = again.code == 0 and contents(out) == self.expected
            self.found["advice works" if works else "advice does not work"] += 1
            if not works:
                self.bad.append(f"{case}: {ended.err!r}, and then {again.err!r} {again.trace}")
        left = {path.name for path in copy.parent.iterdir()} - {"r"}
        if left:
            self.found["something is left"] += 1
            self.bad.append(f"{case}: leaves {left}")


def differing(one: object, other: object) -> str:
    """Where two values differ first."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *other]:
            if one.get(key) != other.get(key):
                return f"{key}: {differing(one.get(key), other.get(key))}"
    if isinstance(one, list) and isinstance(other, list):
        for place, pair in enumerate(zip(one, other, strict=False)):
            if pair[0] != pair[1]:
                return f"{place}: {differing(*pair)}"
    return f"{str(one)[:200]!r} {str(other)[:200]!r}"


def contents_equal(one: Path, other: Path) -> bool:
    """Whether two folders have the same files, byte for byte."""
    names = {path.name for path in one.iterdir()} | {path.name for path in other.iterdir()}
    return all(
        (one / name).is_file()
        and (other / name).is_file()
        and (one / name).read_bytes() == (other / name).read_bytes()
        for name in names
    )


def main() -> int:
    """Try it, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--read", type=int, default=1000)
    parser.add_argument("--resumed", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", action="store_true", help="Draw, which takes most time.")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if not chosen.pictures:
        analysis.write_page = lambda run, path, **_: path.write_text("a page\n")
        analysis.write_graph_files = partial(analysis.write_graph_files, picture=False)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for what, count in (("read", chosen.read), ("resumed", chosen.resumed)):
            began = time.monotonic()
            trial = Trial(Path(folder) / what, chosen.seed)
            step = trial.one_read if what == "read" else trial.one_resumed
            for number in range(count):
                step()
                if (number + 1) % 100 == 0:
                    click.echo(f"{what} {number + 1}: {dict(trial.found)}")
            seconds = time.monotonic() - began
            click.echo(f"{count} {what} in {seconds:.0f} s: {dict(trial.found)}")
            for line in trial.bad[:40]:
                click.echo("  " + line)
            failed += len(trial.bad)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
