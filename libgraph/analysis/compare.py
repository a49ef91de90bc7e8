"""Bases compared on identical data: one analysis with all of them, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from libgraph.analysis.analysis import analyze
from libgraph.backend.contract import Backend
from libgraph.bases.methods import basis_name
from libgraph.comparison.side_by_side import Comparison, compare_run
from libgraph.errors import UsageError
from libgraph.pipeline.options import COMPARED, DRAWS
from libgraph.progress import Progress


class ComparisonOptions(TypedDict):
    """Fields of `AnalysisOptions` that a comparison sets."""

    basis: str
    beside: tuple[str, ...]
    draws: int
    halves: bool
    curves: bool


def compare_bases(
    backend: Backend,
    bases: Sequence[str] | str = COMPARED,
    *,
    draws: int = DRAWS,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Comparison:
    """Analyse a backend's network once, with every basis measured in that analysis.

    Modules of even and odd samples and curves of ablation are measured as well. The run is
    `comparison.runs[0]`.

    Args:
        backend: from `load_backend`, or an instance of your own.
        bases: names, or files of directions, in the order of the table, also as one text with
            commas; `lib` is the main one, or else the first.
        draws: of rotated networks, to tell modules of the main basis from chance; 0: none.
        out: run directory to write; without it nothing is written.
        force: whether a complete run of that name may be replaced; see `analyze`.
        progress: told how far each stage has come; by default bars, where somebody looks.
        **options: other fields of `AnalysisOptions`.

    Raises:
        UsageError: for wrong options, or a directory that exists or cannot be written.
        BackendError: for a model that cannot be used.
        DataError: for a split without samples.
        NumericalError: for NaN or infinity, naming the node layer.
    """
    for name in ("basis", "beside"):
        if name in options:
            raise UsageError(f"The bases are not set by {name}: name all of them in bases.")
    options = {**comparison_options(bases, draws), **options}
    run = analyze(backend, out=out, force=force, progress=progress, **options)
    return compare_run(run, names_of(bases))


def comparison_options(
    bases: Sequence[str] | str = COMPARED, draws: int = DRAWS
) -> ComparisonOptions:
    """Options of the analysis that compares these bases, such as for a plan of it.

    Raises:
        UsageError: if there is no basis.
    """
    chosen = _listed(bases)
    main = "lib" if "lib" in chosen else chosen[0]
    return {
        "basis": main,
        "beside": tuple(basis for basis in chosen if basis != main),
        "draws": draws,
        "halves": True,
        "curves": True,
    }


def names_of(bases: Sequence[str] | str) -> list[str]:
    """What these bases are called in the run, each once.

    Raises:
        UsageError: if one of them is unknown.
    """
    return list(dict.fromkeys(map(basis_name, _listed(bases))))


def _listed(bases: Sequence[str] | str) -> list[str]:
    given = bases.split(",") if isinstance(bases, str) else bases
    chosen = [basis.strip() for basis in given if basis.strip()]
    if not chosen:
        raise UsageError(f"There is no basis to compare: give some of {', '.join(COMPARED)}.")
    return chosen
