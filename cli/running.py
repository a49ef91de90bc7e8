"""Running an analysis: its directory and its progress, alone or as a rank of a `torchrun` job."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from libgraph_cli.ranks import ranks_joined
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

    def directory(self, name: str, *, speaks: bool = True) -> AbstractContextManager[Path]:
        """Where results go: as asked for, or a name with the time that no other run has."""
        from libgraph.files.run_directory import unused_directory

        if self.out is not None:
            return nullcontext(self.out)
        path = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        return unused_directory(path) if speaks else nullcontext(path)

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
    verb: Callable[..., Result],
    backend: str,
    options: Values,
    request: Request,
    **more: Any,
) -> Result | None:
    """Analyse with progress, into the directory asked for.

    Args:
        verb: `libgraph.analyze`, or another that takes the same.
        backend: name.
        options: of the analysis.
        request: the rest.
        **more: what else the verb is given.

    Returns:
        What comes out, on the rank that speaks; nothing on the others of a `torchrun` job.
    """
    with ranks_joined(options.get("device", "cpu")) as speaks:
        model = request.backend(backend)
        with (
            request.directory(backend, speaks=speaks) as directory,
            request.display(speaks=speaks) as progress,
        ):
            given = {**options, **more}
            result = verb(model, out=directory, force=request.force, progress=progress, **given)
    return result if speaks else None
