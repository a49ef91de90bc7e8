"""The tests under every instruction set, number of threads and BLAS that this machine can imitate.

`make test-portable`, or `python tests/portable.py --setting avx2 tests/degeneracy`.
"""

import os
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import click
import pytest
from rich.console import Console
from rich.table import Table

LOGS = Path("build") / "portable"
CAPABILITIES = ("default", "avx2", "avx512")
"""Instruction sets that torch has kernels for, each with those before."""


@dataclass(frozen=True)
class Setting:
    """Environment variables that decide how numbers are rounded, and a name for them."""

    name: str
    variables: dict[str, str]

    @property
    def threads(self) -> int:
        """Of every process."""
        return int(self.variables["OMP_NUM_THREADS"])


@dataclass
class Outcome:
    """What became of the tests, told by pytest itself as a plugin of it."""

    passed: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)
    status: int = 0
    seconds: float = 0.0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test is set up, called and torn down; each may fail."""
        if report.failed:
            self._fails(report.nodeid)
        elif report.skipped:
            self.skipped += 1
        elif report.when == "call":
            self.passed += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be read has no tests that could fail."""
        if report.failed:
            self._fails(report.nodeid)

    def _fails(self, name: str) -> None:
        if name not in self.failures:
            self.failures.append(name)


def capabilities() -> tuple[str, ...]:
    """Those of this processor."""
    import torch

    best = torch.backends.cpu.get_cpu_capability().lower()
    known = [index for index, name in enumerate(CAPABILITIES) if best.startswith(name)]
    return CAPABILITIES[: 1 + max(known, default=0)]


def libraries() -> set[str]:
    """Which BLAS libraries numpy, scipy and torch bring."""
    import scipy.linalg  # noqa: F401
    import threadpoolctl
    import torch

    found = {str(library["internal_api"]) for library in threadpoolctl.threadpool_info()}
    return found | ({"mkl"} if torch.backends.mkl.is_available() else set())


def settings() -> list[Setting]:
    """All that make a difference here."""
    known, here = capabilities(), libraries()
    found = []
    for threads in ("1", "2"):
        for name in known:
            variables = {"ATEN_CPU_CAPABILITY": name, "OMP_NUM_THREADS": threads}
            plural = "" if threads == "1" else "s"
            found.append(Setting(f"torch {name}, {threads} thread{plural}", variables))
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return found
    choices = {
        "OPENBLAS_CORETYPE": ("openblas", ("Prescott", "Haswell", "SkylakeX")),
        "MKL_ENABLE_INSTRUCTIONS": ("mkl", ("SSE4_2", "AVX2", "AVX512")),
    }
    for variable, (library, kinds) in choices.items():
        # The two best of those that the processor has.
        for kind in kinds[: len(known)][-2:] if library in here else ():
            found.append(Setting(f"{library} {kind}", {variable: kind, "OMP_NUM_THREADS": "1"}))
    return found


def outcome(arguments: Sequence[str], log: Path) -> Outcome:
    """Run pytest in this process, what it prints going to a file."""
    result, began = Outcome(), time.monotonic()
    # As `python -m pytest` does: processes that tests start import what tests are in.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    with log.open("w") as file:
        sys.stdout.flush()
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        result.status = int(pytest.main([*arguments, "-p", "no:cacheprovider"], [result]))
    result.seconds = time.monotonic() - began
    return result


def under(setting: Setting, arguments: Sequence[str]) -> Outcome:
    """The outcome in a new process, because libraries look at the environment when they load."""
    workers = max(1, (os.cpu_count() or 1) // setting.threads)
    before = dict(os.environ)
    # Two threads a worker would wait for each other longer than they work.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.update(setting.variables)
    log = LOGS / f"{setting.name.replace(', ', '-').replace(' ', '-')}.log"
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(outcome, [f"-n{workers}", *arguments], log).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def table_of(outcomes: dict[str, Outcome]) -> Table:
    """A row a setting, with the names of what failed."""
    table = Table()
    table.add_column("setting")
    for name in ("passed", "failed", "skipped", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("failures", overflow="fold")
    for name, found in outcomes.items():
        trouble = found.failures or ([f"pytest ended with {found.status}"] if found.status else [])
        counts = (found.passed, len(found.failures), found.skipped, round(found.seconds))
        table.add_row(name, *map(str, counts), "\n".join(trouble))
    return table


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--setting", "wanted", multiple=True, help="Those with this in their name; or all.")
@click.option("--list", "listing", is_flag=True, help="Name the settings and run nothing.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def portable(wanted: tuple[str, ...], listing: bool, arguments: tuple[str, ...]) -> None:
    """Run pytest with these arguments under every setting, and print a table."""
    for name in ("ATEN_CPU_CAPABILITY", "OPENBLAS_CORETYPE", "MKL_ENABLE_INSTRUCTIONS"):
        os.environ.pop(name, None)
    chosen = [s for s in settings() if not wanted or any(part in s.name for part in wanted)]
    if listing:
        click.echo("\n".join(setting.name for setting in chosen))
        return
    LOGS.mkdir(parents=True, exist_ok=True)
    outcomes = {}
    for setting in chosen:
        click.echo(f"{setting.name} …", err=True)
        found = outcomes[setting.name] = under(setting, arguments)
        # At once, so that what is interrupted hours later has told what it knew.
        counts = f"{found.passed} passed, {len(found.failures)} failed in {found.seconds:.0f} s"
        click.echo("\n  ".join((f"  {counts}", *found.failures)), err=True)
    Console(width=None if sys.stdout.isatty() else 160).print(table_of(outcomes))
    click.echo(f"What pytest printed is in '{LOGS}'.", err=True)
    sys.exit(any(found.failures or found.status for found in outcomes.values()))


if __name__ == "__main__":
    portable()
