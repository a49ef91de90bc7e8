"""Seeds that lie in a pipe, from which every process takes some whenever it is free.

A share has a number of one byte, so that two processes that read at once cannot each get a half of
it. All are in the pipe before anybody reads: an empty one stays empty.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

MOST = 256
"""Shares that a byte can number."""


def shares(seeds: int) -> list[range]:
    """Places of seeds, cut into shares: of one each, if there are not too many."""
    count = min(seeds, MOST)
    ends = [seeds * number // count for number in range(count + 1)]
    return [range(first, end) for first, end in pairwise(ends)]


def pipe_of(seeds: int) -> int:
    """The descriptor from which all shares can be taken; whoever calls closes it."""
    take, give = os.pipe()
    # A copy of the other end may be open in a process that somebody has forked meanwhile.
    os.set_blocking(take, False)
    os.write(give, bytes(range(len(shares(seeds)))))
    os.close(give)
    return take


def taken(pipe: int, seeds: int) -> Iterator[int]:
    """Places of seeds that nobody else runs, as long as there are any."""
    parts = shares(seeds)
    with suppress(BlockingIOError):
        while number := os.read(pipe, 1):
            yield from parts[number[0]]
