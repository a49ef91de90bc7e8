"""Running an analysis: its directory, its progress, and the ranks of a `torchrun` job."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from libgraph_cli.wording import flags_of, spelt

if TYPE_CHECKING:
    from libgraph.backend.contract import Backend
    from libgraph_cli.progress import ProgressDisplay

Result = TypeVar("Result")

Values = Mapping[str, Any]
"""Options that were given, by what Python calls them."""


@dataclass(frozen=True)
class Request:
    """What every command that computes is told, beside what to compute.

    Args:
        settings: options of the backend, or of its training.
        out: directory, if one was named.
        force: whether to replace what is there.
        quiet: no progress.
        verbose: log in detail.
    """

    settings: dict[str, str]
    out: Path | None
    force: bool
    quiet: bool
    verbose: bool

    def backend(self, name: str) -> Backend:
        """The backend with its settings."""
        from libgraph.backend.registry import load_backend

        return load_backend(name, **self.settings)

    def directory(self, name: str) -> Path:
        """Where results go: as asked for, or a name with the time."""
        return self.out or Path("runs") / time.strftime(f"{name}-%Y%m%d-%H%M%S")

    def display(self, *, speaks: bool = True) -> ProgressDisplay:
        """Progress on stderr, in the words of the command that runs."""
        return display(quiet=self.quiet or not speaks, verbose=self.verbose)


def display(*, quiet: bool, verbose: bool = False) -> ProgressDisplay:
    """Progress on stderr, in the words of the command that runs."""
    from libgraph_cli.progress import ProgressDisplay

    flags = flags_of(click.get_current_context().command)
    return ProgressDisplay(
        quiet=quiet, verbose=verbose, spell=lambda sentence: spelt(sentence, flags)
    )


def run_analysis(
    verb: Callable[..., Result], backend: str, options: Values, request: Request
) -> Result | None:
    """Analyse with progress, into the directory asked for.

    Args:
        verb: `libgraph.analyze`, or another that takes the same.
        backend: name.
        options: of the analysis.
        request: the rest.

    Returns:
        What comes out, on the rank that speaks; nothing on the others of a `torchrun` job.
    """
    with ranks_joined(options.get("device", "cpu")) as speaks:
        model = request.backend(backend)
        directory = request.directory(backend)
        with request.display(speaks=speaks) as progress:
            result = verb(model, out=directory, force=request.force, progress=progress, **options)
    return result if speaks else None


@contextmanager
def ranks_joined(device: str) -> Iterator[bool]:
    """Takes part in a `torchrun` job, where there is one; says whether this rank speaks."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    from torch import distributed

    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    yield distributed.get_rank() == 0
    # Not after an error: other ranks may wait, and torchrun ends them.
    distributed.destroy_process_group()
