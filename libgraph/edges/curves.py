"""Curves of scores over what was kept: which sizes are tried, what is needed, their area."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

REFINEMENT = 6
"""Numbers of features tried at once on the way to the smallest that is enough."""


def sizes_to_try(features: int, points: int) -> list[int]:
    """Numbers of features to keep, from all down to none, ever closer together towards none."""
    spread = np.geomspace(1, max(features, 1), points).round().astype(int)
    numbers = {0, features, *spread.tolist(), *range(points // 2)}
    return sorted((number for number in numbers if number <= features), reverse=True)


def sizes_between(
    curve: Mapping[int, float], score: float, tolerance: float, higher_is_better: bool
) -> list[int]:
    """Untried numbers below the smallest sufficient one, at most `REFINEMENT` of them."""
    enough = required_features(curve, score, tolerance, higher_is_better)
    below = [number for number in curve if enough is not None and number < enough]
    if enough is None or not below:
        return []
    steps = np.linspace(max(below), enough, REFINEMENT + 2).round().astype(int)
    return sorted(set(steps.tolist()) - set(curve))


def required_features(
    curve: Mapping[int, float], score: float, tolerance: float, higher_is_better: bool
) -> int | None:
    """Smallest number of features tried from which on the score stays within a tolerance.

    Args:
        curve: score by number kept.
        score: of the whole network.
        tolerance: Δ, how much worse than that is good enough.
        higher_is_better: whether a larger score is a better one.
    """
    sign = 1.0 if higher_is_better else -1.0
    smallest = None
    for number in sorted(curve, reverse=True):
        if sign * curve[number] < sign * score - tolerance:
            break
        smallest = number
    return smallest


def area(curve: Mapping[int, float], most: int) -> float | None:
    r"""Mean score over the logarithm of how many are kept, by the trapezoid rule.

    .. math:: \frac{1}{\ln K} \int_1^K s(k) \, d \ln k

    Beyond the largest number tried the score is that of the largest. None where nothing was tried
    but none kept, or there is only one to keep.

    Args:
        curve: score by number kept.
        most: K, the same for curves that are compared, such as all coordinates of a node layer.
    """
    tried = sorted(number for number in curve if 0 < number <= most)
    if not tried or most < 2:
        return None
    places = np.log([1, *tried, most])
    scores = np.array([curve[number] for number in (tried[0], *tried, tried[-1])])
    return float(np.diff(places) @ (scores[1:] + scores[:-1]) / 2 / np.log(most))
