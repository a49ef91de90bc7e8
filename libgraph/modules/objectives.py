"""What Leiden may optimise: names, as options have them.

Modularity expects edges between any two features, so that in a layered graph, where edges join
neighbouring node layers alone, cutting by depth gains whatever the network does. *Layered*
modularity expects of every layer pair what its own degrees say, and adds the pairs up (`quality`).
Sources: Reichardt & Bornholdt (2006), doi:10.1103/PhysRevE.74.016110 (modularity with γ); Traag,
Aldecoa & Delvenne (2015), doi:10.1103/PhysRevE.92.022816 (surprise); Traag, Krings & Van Dooren
(2013), doi:10.1038/srep02930 (significance).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from libgraph.errors import UsageError

ObjectiveName = Literal["layered", "layered-equal", "modularity", "surprise", "significance"]
"""Names of objectives: layered modularity, the same with all layer pairs of equal weight,
modularity of the whole graph, and two that know no resolution."""


OBJECTIVES: tuple[str, ...] = get_args(ObjectiveName)


LAYERED = ("layered", "layered-equal")


WITHOUT_RESOLUTION = ("surprise", "significance")


def check_objective(objective: str, resolution: float) -> None:
    """Raise a :class:`UsageError` for an unknown objective, or a γ that it cannot have."""
    if objective not in OBJECTIVES:
        raise UsageError(
            f"There is no objective '{objective}': choose one of {', '.join(OBJECTIVES)}."
        )
    if not (math.isfinite(resolution) and resolution > 0):
        raise UsageError(f"The resolution is {resolution}: choose a positive number.")
    if objective in WITHOUT_RESOLUTION and resolution != 1:
        raise UsageError(
            f"The objective '{objective}' knows no resolution: leave resolution={resolution:g} out."
        )
