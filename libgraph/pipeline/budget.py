"""One memory budget for all of a run, however often it is interrupted.

Batches, samples and rows that are taken at once follow from a budget, and the last bits of results,
or the samples of a descent, from them. Unless one is given it is half of what is free, which is
another number every time: a run keeps that which it was begun with.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from libgraph.accumulate.memory import memory_budget, within_budget
from libgraph.accumulate.ranks import shared, smallest
from libgraph.files.limits import in_bytes
from libgraph.files.run_directory import RunDirectory
from libgraph.pipeline.options import ComputingOptions

log = logging.getLogger("libgraph")


@contextmanager
def one_budget(directory: RunDirectory | None, options: ComputingOptions) -> Iterator[None]:
    """Have all ranks go by one budget in the block: that of the run, if it can still be had.

    Args:
        directory: of the run, on the first rank; None if nothing is kept.
        options: where memory is given there is nothing to decide, nor to keep beside it.
    """
    if options.memory is not None:
        if directory is not None:
            directory.note_budget(None)
        yield
        return
    now = smallest(memory_budget(options.device))
    before = shared(lambda: None if directory is None else directory.budget)
    # What was half of what was free may be all of it now.
    budget = now if before is None or before > 2 * now else before
    if directory is not None:
        if before is not None and before > budget:
            log.warning(
                "Less memory is free than when '%s' was begun, %s for %s: where batches no longer "
                "fit, what is done is computed again in smaller ones.",
                directory.path,
                in_bytes(2 * now),
                in_bytes(2 * before),
            )
        directory.note_budget(budget)
    with within_budget(options.device, budget):
        yield
