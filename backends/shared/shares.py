"""Shares as labels write them: short, and never as all or nothing where they are neither."""

from __future__ import annotations


def percent(share: float) -> str:
    """A share between 0 and 1 in percent, with one significant digit of what is near 0 or 1.

    ``"74%"``, ``"0.2%"``, ``"99.8%"``; ``"100%"`` lacks less than 0.00005 %.
    """
    for digits in range(5):
        text = f"{share:.{digits}%}"
        if float(text[:-1]) not in (0, 100):
            return text
    return f"{share:.0%}"
