"""What became of modules from one run to another: which stayed, went over, were lost or gained.

Modules are followed through matched features (`layers.py`): numbers mean nothing from
one run to the next, and a module whose features have no counterpart cannot be followed, which its
row says. Beside the table stands one number that no pairing of modules goes into.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from libgraph.comparison.layers import Matching
from libgraph.graph.arrays import IndexArray
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.agreement import adjusted_mutual_information


@dataclass(frozen=True)
class ModuleFate:
    """What became of a module of A.

    Args:
        module: its number in A.
        size: its features.
        matched: those that have a counterpart in B.
        to: the module of B that it became; None if it is lost.
        shared: features that are in both.
        elsewhere: its features in other modules of B, by their number.
        nowhere: its features in no module of B.
    """

    module: int
    size: int
    matched: int
    to: int | None
    shared: int
    elsewhere: dict[int, int]
    nowhere: int


@dataclass(frozen=True)
class ModulesDifference:
    """Modules of A and B.

    Args:
        count: of modules, in A and B.
        agreement: adjusted mutual information over matched features that have a module in both;
            None if there are none.
        features: how many these are.
        fates: of every module of A.
        lost: modules of A that became none of B.
        gained: modules of B that none of A became.
    """

    count: tuple[int, int]
    agreement: float | None
    features: int
    fates: tuple[ModuleFate, ...]
    lost: tuple[int, ...]
    gained: tuple[int, ...]


def compare_modules(
    a: InteractionGraph, b: InteractionGraph, matched: Mapping[str, Matching]
) -> ModulesDifference:
    """Modules paired one to one so that most features stay; those that share none are not paired.

    Args:
        a: the graph of A, with modules.
        b: that of B, with modules.
        matched: features that count as matched, by node layer.
    """
    here = _modules(a, {name: matching.a for name, matching in matched.items()})
    there = _modules(b, {name: matching.b for name, matching in matched.items()})
    count = tuple(graph.partition.size if graph.partition else 0 for graph in (a, b))
    # Features in no module, −1, go to the last row and column.
    table = np.zeros((count[0] + 1, count[1] + 1), dtype=np.int64)
    np.add.at(table, (here, there), 1)
    inside = table[:-1, :-1]
    pairs = zip(*(ends.tolist() for ends in linear_sum_assignment(inside, True)), strict=True)
    to = {module: other for module, other in pairs if inside[module, other]}
    sizes = np.bincount(
        np.concatenate([a.membership(layer.name) for layer in a.layers]) + 1, minlength=count[0] + 1
    )[1:]
    fates = tuple(
        ModuleFate(
            module=module,
            size=int(sizes[module]),
            matched=int(table[module].sum()),
            to=to.get(module),
            shared=int(inside[module, to[module]]) if module in to else 0,
            elsewhere={
                other: int(inside[module, other])
                for other in np.flatnonzero(inside[module]).tolist()
                if other != to.get(module)
            },
            nowhere=int(table[module, -1]),
        )
        for module in range(count[0])
    )
    in_both = (here >= 0) & (there >= 0)
    return ModulesDifference(
        count=(count[0], count[1]),
        agreement=(
            adjusted_mutual_information(here[in_both], there[in_both]) if in_both.any() else None
        ),
        features=int(in_both.sum()),
        fates=fates,
        lost=tuple(module for module in range(count[0]) if module not in to),
        gained=tuple(sorted(set(range(count[1])) - set(to.values()))),
    )


def _modules(graph: InteractionGraph, features: Mapping[str, IndexArray]) -> IndexArray:
    """Modules of these features, one node layer after the other."""
    return np.concatenate([graph.membership(name)[which] for name, which in features.items()])
