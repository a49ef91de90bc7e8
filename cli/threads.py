"""How long OpenMP threads wait for work by spinning, which is time that other processes lose."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

SPIN_COUNT = 10_000
"""Rounds that a thread of libgomp spins before it sleeps; by itself it spins 300 000 or more."""


SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
"""Who has set one of these knows better."""


def spin_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have threads sleep soon; libgomp reads this once, when torch loads it, so call this before.

    For commands: a library leaves the environment of its caller alone.
    """
    if not any(name in environment for name in SETTINGS):
        environment["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
