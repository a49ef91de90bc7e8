"""What is said before a long run: how long it takes, and what makes it smaller."""

from __future__ import annotations

from collections.abc import Mapping

from libgraph.progress import LONG, in_words

SMALLER = {
    "interactions": "signs=16 estimates interactions",
    "ablation": "ablate=False leaves ablations out",
    "significance": "fewer draws=… cost less",
}
"""What makes a run smaller, by the stage that takes most of its time, beside fewer samples."""


def announcement(seconds: Mapping[str, float], samples: int) -> str | None:
    """What there is to say before a long run: how long, what takes most, what makes it smaller.

    Args:
        seconds: of each stage that is going to be computed, by its name.
        samples: how many there are.
    """
    total = sum(seconds.values())
    if total < LONG:
        return None
    kinds: dict[str, float] = {}
    for name, cost in seconds.items():
        kind = name.split()[0]
        kinds[kind] = kinds.get(kind, 0.0) + cost
    longest = max(kinds, key=kinds.__getitem__)
    limit = max(2, int(samples * LONG / 2 / total))
    advice = [
        *([f"limit={limit} takes fewer samples"] if limit < samples else []),
        *([SMALLER[longest]] if longest in SMALLER else []),
    ]
    said = (
        f"This is going to take about {in_words(total)}, {kinds[longest] / total:.0%} of it for "
        f"{longest}."
    )
    return f"{said} To make it smaller: {', or '.join(advice)}." if advice else said
