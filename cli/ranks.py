"""Taking part in a `torchrun` job, where there is one.

Clusters set `WORLD_SIZE` for purposes of their own: without the rest of what `torchrun` sets there
is no job, and one process does all of the work. What does not answer is told while it is waited
for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from threading import Timer
from typing import TYPE_CHECKING, Any

from libgraph_cli.failures import CommandError
from libgraph_cli.watch import BEAT, Watch, longest_silence

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a job sets beside `WORLD_SIZE`."""

PATIENCE = 10.0
"""Seconds after which it is said that other ranks are waited for."""

COMING = timedelta(minutes=30)
"""How long ranks are waited for that have not come yet."""

WAITING = timedelta(days=365)
"""How long sums of others are waited for: as long as these give signs of life."""

ANSWER = timedelta(seconds=5)
"""How long the store may take to answer."""


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


def refuse_job(command: str) -> None:
    """Refuse to run as a rank what is not shared out: all ranks would write the same files.

    Raises:
        UsageError: if this is a rank of a job.
    """
    from libgraph.errors import UsageError

    size = job_size()
    if size > 1:
        raise UsageError(
            f"libgraph {command} is not shared out, and WORLD_SIZE={size}: start it without "
            "torchrun."
        )


@contextmanager
def ranks_joined(device: str) -> Iterator[bool]:
    """Takes part in a `torchrun` job, where there is one; says whether this rank speaks.

    A rank that fails, dies or stops ends the others as well (`libgraph_cli.watch`).

    Raises:
        UsageError: if the other ranks do not come.
        CommandError: without a sentence, where another rank has told what was wrong.
    """
    size = job_size()
    if size == 1:
        told = os.environ.get("WORLD_SIZE", "").strip()
        if told not in ("", "1"):
            _say(f"WORLD_SIZE={told} is set, but there is no torchrun job: one process does all.")
        yield True
        return
    silence = longest_silence()
    store, rank = _joined(size, device)
    watch = Watch(store, rank, size, silence, lambda text: CommandError(text, 1).show())
    watch.start()
    well = False
    try:
        yield rank == 0
        well = True
    except BaseException as error:
        if _told_elsewhere(watch, error):
            raise CommandError("", getattr(error, "exit_code", 1)) from error
        raise
    finally:
        watch.stop(well=well)
    from torch import distributed

    # Not after an error: other ranks may wait, and torchrun ends them.
    distributed.destroy_process_group()


def _told_elsewhere(watch: Watch, error: BaseException) -> bool:
    """Whether another rank tells what is wrong, or the watch of this one has."""
    from libgraph.errors import LostRank

    try:
        # Why touch is lost another one knows, and has told before its connections were closed.
        return (isinstance(error, LostRank) and watch.told(BEAT)) or not watch.claim()
    except KeyboardInterrupt:
        # The watch has begun to end this process.
        return True


def _joined(size: int, device: str) -> tuple[Store, int]:
    """Come together with the other ranks; a store that all have in common, and this one's rank.

    Raises:
        UsageError: if they do not come.
    """
    import torch
    from torch import distributed as whole

    from libgraph.errors import UsageError

    # Its types do not name all that is in it.
    distributed: Any = whole
    host, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    place = f"{host}:{port}"
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
        store, rank, _ = next(distributed.rendezvous("env://", timeout=COMING))
        # Sums may be waited for as long as the others are there; those that do not come, not.
        store.set(f"libgraph/here/{rank}", "yes")
        store.wait([f"libgraph/here/{other}" for other in range(size)], COMING)
        backend = "gloo"
        if device.startswith("cuda"):
            backend = "cpu:gloo,cuda:nccl"
            if device == "cuda":
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group(
            backend, store=store, rank=rank, world_size=size, timeout=WAITING
        )
        own = distributed.TCPStore(
            host, int(port), is_master=False, wait_for_workers=False, timeout=ANSWER
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UsageError(
            f"The {size} processes of WORLD_SIZE do not come together at {place} ({reason}): start "
            "the command with torchrun, or unset WORLD_SIZE for a run of one process."
        ) from error
    finally:
        waiting.cancel()
    # What an attempt before has left, where torchrun begins again, is not of this one.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return distributed.PrefixStore(f"libgraph-watch-{attempt}", own), rank


def _say(text: str) -> None:
    from libgraph.screen import Screen

    Screen(stderr=True).say(text)
