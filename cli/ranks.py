"""Taking part in a `torchrun` job, where there is one.

Clusters set `WORLD_SIZE` for purposes of their own: without the rest of what `torchrun` sets there
is no job, and one process does all of the work. What does not answer is told while it is waited
for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Timer

NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a job sets beside `WORLD_SIZE`."""

PATIENCE = 10.0
"""Seconds after which it is said that other ranks are waited for."""


def job_size(environment: Mapping[str, str] = os.environ) -> int:
    """How many ranks the job has; one where there is none.

    Raises:
        UsageError: if the environment says something else than a number of ranks, and which of
            them this is.
    """
    from libgraph.errors import UsageError

    told = environment.get("WORLD_SIZE", "").strip()
    missing = [name for name in NEEDED if not environment.get(name)]
    if not told or told == "1":
        return 1
    advice = "start the command with torchrun, or unset WORLD_SIZE for a run of one process"
    if not told.isascii() or not told.isdigit() or not int(told):
        raise UsageError(f"WORLD_SIZE={told} is no number of processes: {advice}.")
    if len(missing) == len(NEEDED):
        return 1
    if missing:
        raise UsageError(f"WORLD_SIZE={told} is set without {' and '.join(missing)}: {advice}.")
    rank = environment["RANK"].strip()
    if not rank.isascii() or not rank.isdigit() or int(rank) >= int(told):
        raise UsageError(f"RANK={rank} is none of WORLD_SIZE={told} processes: {advice}.")
    return int(told)


@contextmanager
def ranks_joined(device: str) -> Iterator[bool]:
    """Takes part in a `torchrun` job, where there is one; says whether this rank speaks.

    Raises:
        UsageError: if the other ranks do not come.
    """
    size = job_size()
    if size == 1:
        told = os.environ.get("WORLD_SIZE", "").strip()
        if told not in ("", "1"):
            _say(f"WORLD_SIZE={told} is set, but there is no torchrun job: one process does all.")
        yield True
        return
    from torch import distributed

    from libgraph.errors import UsageError

    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    waiting = Timer(
        PATIENCE,
        _say,
        (
            f"Waiting for the other processes of WORLD_SIZE={size} at {place}: unset it if this "
            "is no torchrun job.",
        ),
    )
    waiting.daemon = True
    waiting.start()
    try:
        distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    except (RuntimeError, ValueError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UsageError(
            f"The {size} processes of WORLD_SIZE do not come together at {place} ({reason}): start "
            "the command with torchrun, or unset WORLD_SIZE for a run of one process."
        ) from error
    finally:
        waiting.cancel()
    yield distributed.get_rank() == 0
    # Not after an error: other ranks may wait, and torchrun ends them.
    distributed.destroy_process_group()


def _say(text: str) -> None:
    from libgraph.screen import Screen

    Screen(stderr=True).say(text)
