"""How far chance may take a result before a test fails, and seeds that have nothing in common."""

import math
from zlib import crc32

import numpy as np
from scipy.special import gammainccinv, gammaincinv, ndtri, stdtrit

FALSE_ALARM = 1e-9
"""Chance that a check fails although nothing is wrong. The suite makes some thousands of checks and
is run under some ten settings of processors: about once in 10⁵ times one of them is a false one."""


def deviations(looks: int = 1, degrees: float = math.inf) -> float:
    """Standard errors by which the largest of so many normal numbers may be off.

    Args:
        looks: how many there are; they need not be independent.
        degrees: of freedom of the standard errors, where these are estimated as well.
    """
    tail = FALSE_ALARM / looks / 2
    return float(-ndtri(tail) if math.isinf(degrees) else -stdtrit(degrees, tail))


def spread(degrees: int, looks: int = 1) -> tuple[float, float]:
    """Between which shares of the true one standard deviations of normal numbers lie."""
    tail = FALSE_ALARM / looks / 2
    # The sum of squares is χ²: a Γ of half the degrees, twice as large.
    low, high = gammaincinv(degrees / 2, tail), gammainccinv(degrees / 2, tail)
    return math.sqrt(2 * low / degrees), math.sqrt(2 * high / degrees)


def seed_of(*parts: str | int) -> int:
    """A seed for these words and numbers, whatever was drawn before and in whichever order."""
    words = [crc32(part.encode()) if isinstance(part, str) else part for part in parts]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)
