"""What commands take on their documented examples, and what arithmetic alone would take.

`python benchmarks/commands.py [NAME …]` runs each command twice: once for its time and the share of
its largest stages, once with torch's counter of floating-point operations in matrix products and
convolutions. The limit is these over the rate of a large product that is measured in between, in
double precision; what runs in single precision could be twice as fast, and exponentials, sums and
memory are not in it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import libgraph as lg

Stages = dict[str, float]


class Counter(TorchDispatchMode):
    """Adds up the operations of matrix products and convolutions, by torch's own formulas."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Run the function, and count it."""
        result = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **(kwargs or {}), out_val=result)
        return result


class Stopwatch:
    """Progress that takes down how long each stage took."""

    def __init__(self) -> None:
        self.seconds: Stages = {}
        self._stage, self._began = "before", time.monotonic()

    def __call__(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """Take note of a stage, whose time ends when another begins."""
        if stage != self._stage:
            self.stop()
            self._stage, self._began = stage, time.monotonic()

    def stop(self) -> None:
        """End the stage that runs."""
        kind = self._stage.split(",")[0]
        kind = "basis" if kind.startswith("basis at") else kind
        spent = time.monotonic() - self._began
        self.seconds[kind] = self.seconds.get(kind, 0.0) + spent


def analyze(name: str, progress: Stopwatch, out: Path, **options: object) -> None:
    """As `libgraph analyze NAME` with these options of the backend."""
    lg.analyze(lg.load_backend(name, **options), out=out, progress=progress)


def compare(name: str, progress: Stopwatch, out: Path) -> None:
    """As `libgraph compare NAME`."""
    lg.compare_bases(lg.load_backend(name), out=out, progress=progress)


def degeneracy(name: str, progress: Stopwatch, out: Path) -> None:
    """As `libgraph degeneracy NAME`."""
    lg.measure_degeneracy(lg.load_backend(name), out=out, progress=progress)


COMMANDS: dict[str, Callable[..., None]] = {
    "analyze modular-addition": partial(analyze, "modular-addition"),
    "analyze mlp": partial(analyze, "mlp"),
    "analyze mlp -o task=digits": partial(analyze, "mlp", task="digits"),
    "analyze lm -o sequences=32 -o layers=0:1": partial(analyze, "lm", sequences=32, layers="0:1"),
    "degeneracy modular-addition": partial(degeneracy, "modular-addition"),
    "compare mlp": partial(compare, "mlp"),
    "compare modular-addition": partial(compare, "modular-addition"),
}


def product_rate(size: int = 1536) -> float:
    """Floating-point operations a second of one product in double precision, the best of five."""
    a = torch.rand(size, size, dtype=torch.float64)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def measure(command: Callable[..., None], counter: Counter | None) -> tuple[float, Stages]:
    """Seconds of a command and of its stages."""
    with tempfile.TemporaryDirectory() as folder, counter or nullcontext():
        stopwatch, began = Stopwatch(), time.monotonic()
        command(progress=stopwatch, out=Path(folder) / "run")
        stopwatch.stop()
        return time.monotonic() - began, stopwatch.seconds


def main() -> None:
    """Measure the commands named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="what commands begin with")
    names = parser.parse_args().names
    table = Table("command", "s", "largest parts", "GFLOP", "limit, s", "times the limit")
    console = Console(file=sys.stdout, width=150)
    for name, command in COMMANDS.items():
        if names and not any(name.startswith(wanted) for wanted in names):
            continue
        seconds, stages = measure(command, None)
        rate = product_rate()
        counter = Counter()
        measure(command, counter)
        largest = sorted(stages.items(), key=lambda stage: -stage[1])[:3]
        operations = counter.operations
        table.add_row(
            name,
            f"{seconds:.1f}",
            ", ".join(f"{stage} {spent / seconds:.0%}" for stage, spent in largest),
            f"{operations / 1e9:.0f}",
            f"{operations / rate:.1f}",
            f"{seconds * rate / max(operations, 1):.1f}",
        )
        console.print(
            f"{name}: {seconds:.1f} s, {operations / 1e9:.0f} GFLOP at {rate / 1e9:.0f} a second; "
            + ", ".join(f"{stage} {spent / seconds:.0%}" for stage, spent in largest)
        )
    console.print(table)


if __name__ == "__main__":
    main()
