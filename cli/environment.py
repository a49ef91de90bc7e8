"""What libgraph has where it runs: versions, threads, memory, GPU, extras, and what is slow.

Facts first, then remarks on those that somebody can do something about.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from libgraph.installed import DISTRIBUTION, extras, install_extra, pip_install

LIBRARIES = (
    "torch", "numpy", "scipy", "igraph", "leidenalg", "pydantic", "safetensors", "matplotlib",
    "bokeh", "transformer-lens", "transformers", "scikit-learn",
)  # fmt: skip
"""Whose versions are told, if they are installed."""

FOR_DEVELOPERS = ("dev", "tracr", "all", "gpt2")
"""Extras that nobody lacks: for working on libgraph, or other names for several."""

GROUPS = ("backends", "bases", "dictionaries")
"""What plug-ins may add."""

VARIABLES = (
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_NUM_THREADS",
    "OPENBLAS_CORETYPE", "CUDA_VISIBLE_DEVICES", "LIBGRAPH_ANALYZE_DEVICE",
)  # fmt: skip
"""Of the environment, that decide how fast things go."""

SIZE = 1024
"""Of the matrices whose product is timed."""

SLOW_PRODUCTS = 10e9
"""Operations a second and processor, in double precision, below which arithmetic is slow: a
quarter of what the figures of docs/performance.md were measured with."""

LITTLE_MEMORY, LITTLE_DISK = 2 * 2**30, 2**30
"""Bytes that are soon used up."""


@dataclass(frozen=True)
class Extra:
    """An extra of the distribution.

    Args:
        name: of it.
        missing: distributions that it brings and that are not installed.
        command: that installs it.
    """

    name: str
    missing: tuple[str, ...]
    command: str


@dataclass(frozen=True)
class Computing:
    """What there is to compute with.

    Args:
        processors: that this process may use.
        cores: of the machine without hyperthreads; None if unknown.
        threads: that PyTorch takes.
        load: processes that want a processor, mean over a minute; None where nobody counts.
        memory: bytes that are free.
        disk: bytes that are free in the current directory.
        products: multiplications and additions a second in products of matrices, in double
            precision.
        devices: what `device` can be beside `cpu`, with its name.
        variables: of the environment, those that are set.
    """

    processors: int
    cores: int | None
    threads: int
    load: float | None
    memory: int
    disk: int
    products: float
    devices: Mapping[str, str]
    variables: Mapping[str, str]


@dataclass(frozen=True)
class Environment:
    """All of it.

    Args:
        versions: of libgraph, Python and libraries, by name.
        installed: where libgraph is.
        computing: what there is to compute with.
        extras: those that users may want.
        plugins: what other distributions add, as `group name`, and what each is of.
        remarks: what is missing or slow, a sentence each.
    """

    versions: Mapping[str, str]
    installed: str
    computing: Computing
    extras: tuple[Extra, ...]
    plugins: Mapping[str, str]
    remarks: tuple[str, ...]


def examine() -> Environment:
    """Look around; takes about a second, most of it the import of torch."""
    import libgraph

    versions = {"libgraph": libgraph.__version__, "Python": platform.python_version()}
    versions |= {name: number for name in LIBRARIES if (number := _version(name))}
    computing, extras = _computing(), tuple(_extras())
    remarks = (*_of_installation(extras), *_of_computing(computing))
    place = str(Path(libgraph.__file__).parent)
    return Environment(versions, place, computing, extras, _plugins(), remarks)


def _version(distribution: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    with suppress(PackageNotFoundError):
        return version(distribution)
    return None


def _extras() -> Iterator[Extra]:
    from importlib.metadata import PackageNotFoundError, requires

    try:
        needed = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return
    for extra in extras():
        if extra in FOR_DEVELOPERS:
            continue
        marked = re.compile(rf"""extra\s*==\s*["']{re.escape(extra)}["']""")
        names = [re.match(r"[\w.-]+", line) for line in needed if marked.search(line)]
        missing = tuple(name[0] for name in names if name and _version(name[0]) is None)
        yield Extra(extra, missing, install_extra(extra))


def _plugins() -> dict[str, str]:
    """What others have registered in our groups; nothing of it is imported."""
    from importlib.metadata import entry_points

    found = {}
    for group in GROUPS:
        for entry in entry_points(group=f"libgraph.{group}"):
            distribution = None if entry.dist is None else entry.dist.name
            if distribution != DISTRIBUTION:
                found[f"{group} {entry.name}"] = str(distribution)
    return found


def _computing() -> Computing:
    import shutil

    import psutil
    import torch

    from libgraph.files.limits import available_memory

    return Computing(
        processors=_processors(),
        cores=psutil.cpu_count(logical=False),
        threads=torch.get_num_threads(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        memory=available_memory(),
        disk=shutil.disk_usage(".").free,
        products=_products(),
        devices=_devices(),
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
    )


def _processors() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _products() -> float:
    """The fastest of three products: others may compute meanwhile."""
    import torch

    matrix = torch.ones(SIZE, SIZE, dtype=torch.float64)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - began)
    return 2 * SIZE**3 / min(times)


def _devices() -> dict[str, str]:
    import torch

    devices = {}
    if torch.cuda.is_available():
        devices = {
            f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
        }
    if torch.backends.mps.is_available():
        devices["mps"] = platform.machine()
    return devices


def _of_installation(found: tuple[Extra, ...]) -> Iterator[str]:
    if _version(DISTRIBUTION) is None:
        yield (
            f"'{DISTRIBUTION}' is not installed, its files only lie here: backends are not found "
            f"without, so run {pip_install('-e', '.')} in their folder."
        )
    other = _version("libgraph")
    if other is not None:
        yield (
            f"A distribution called 'libgraph' ({other}) is installed as well, which is an older "
            "name of this one or somebody else's project: uninstall it, then install "
            f"'{DISTRIBUTION}' again."
        )
    for extra in found:
        if extra.missing:
            yield f"Without {', '.join(extra.missing)}: {WITHOUT[extra.name]}. {extra.command}"


WITHOUT = {
    "report": "no pictures and no page",
    "lm": "no language models",
    "mlp": "no digits and no MNIST",
    "cifar": "no downloads of CIFAR-10",
}
"""What is not there without an extra."""


def _of_computing(computing: Computing) -> Iterator[str]:
    processors, threads = computing.processors, computing.threads
    if computing.load is not None and computing.load > processors / 2 + 1:
        yield (
            f"Others compute here, {computing.load:.1f} processes on {processors} processors: "
            "everything takes longer, and threads wait for each other."
        )
    if threads > processors:
        yield f"PyTorch takes {threads} threads for {processors} processors: set OMP_NUM_THREADS."
    elif threads == 1 < processors and "OMP_NUM_THREADS" in computing.variables:
        yield f"OMP_NUM_THREADS=1 has one of {processors} processors compute: unset it."
    rate = computing.products / min(threads, processors)
    if rate < SLOW_PRODUCTS:
        yield (
            f"Arithmetic is slow: {rate / 1e9:.1f} thousand million operations a second and "
            "thread in double precision, where documented times were measured with 30; "
            "dtype='float32' takes about half of the time."
        )
    if computing.memory < LITTLE_MEMORY:
        yield f"{computing.memory / 2**30:.1f} GiB of memory are free: choose a smaller model."
    if computing.disk < LITTLE_DISK:
        yield f"{computing.disk / 2**30:.1f} GiB of this disk are free: runs may not fit."
    if computing.devices and "LIBGRAPH_ANALYZE_DEVICE" not in computing.variables:
        first = next(iter(computing.devices))
        yield f"There is a GPU, which nothing uses unless device='{first}' says so."
