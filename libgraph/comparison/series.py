"""Several finished runs in a row, such as checkpoints of one training: the story they tell.

Each run's figures come from its `metrics.json`; what only a comparison knows, how far its features
span what the last run's needed features span, is added. Where names of runs end in a number, such
as `step-000500`, that number is their place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from libgraph.comparison.difference import Side, compare
from libgraph.errors import UsageError
from libgraph.runs.saved_run import SavedRun


@dataclass(frozen=True)
class RunFigures:
    """What is said of one run of a series; None where the run does not know.

    Args:
        name: of its directory.
        score_name: what the score is called.
        score: the whole model's on the test split.
        edges_needed: that keep the score, at the first Δ, over all layer pairs.
        effective_edges: participation ratios of the interactions, over all layer pairs.
        modules: how many.
        modularity: at γ = 1.
        within_concept: share of the modules' edge weight within one concept.
        overlap_last: overlap of leading features with those that the last run needs, mean over
            node layers.
    """

    name: str
    score_name: str
    score: float
    edges_needed: int | None
    effective_edges: float | None
    modules: int
    modularity: float | None
    within_concept: float | None
    overlap_last: float | None


def run_figures(saved: SavedRun, own: Side, last: Side) -> RunFigures:
    """The figures of one run.

    Args:
        saved: the run.
        own: what is compared of it.
        last: what is compared of the last run.

    Raises:
        UsageError: if it has no node layer in common with the last run, or its metrics are damaged.
    """
    try:
        score = saved.metrics["score"]
        score_name, test = score["name"], score["test"]
        entry = saved.metrics["bases"][own.basis]
        required = [next(iter(found.values()), None) for found in entry["edges_required"].values()]
        ratios = [each["participation_ratio"] for each in entry["sparsity"].values() if each]
        within = entry["modules"]["within_concept"]
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"'{saved.path / 'metrics.json'}' cannot be read ({error!r}): analyse again with "
            "force=True."
        ) from None
    # A score no better than chance needs no feature, which says nothing of subspaces.
    overlaps = [
        layer.needed_overlap if layer.needed else layer.overlap
        for layer in compare(own, last).layers
        if layer.rotated
    ]
    known = [each for each in overlaps if each is not None]
    needed = [each for each in required if each is not None]
    partition = own.graph.partition
    return RunFigures(
        name=run_name(saved.path),
        score_name=score_name,
        score=test,
        edges_needed=sum(needed) if needed and len(needed) == len(required) else None,
        effective_edges=float(np.sum(ratios)) if ratios else None,
        modules=partition.size if partition else 0,
        modularity=partition.modularity if partition else None,
        within_concept=within,
        overlap_last=float(np.mean(known)) if known else None,
    )


def run_name(path: Path) -> str:
    """Name of a run's directory, wherever one stands."""
    return path.resolve().name


def places(names: Sequence[str]) -> list[int] | None:
    """The numbers that names end in; None if one has none, or two have the same."""
    found = [re.search(r"\d+$", name) for name in names]
    numbers = [int(each.group()) for each in found if each]
    return numbers if len(numbers) == len(set(numbers)) == len(names) else None
