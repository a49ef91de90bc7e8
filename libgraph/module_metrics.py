"""What `metrics.json` says about modules: how many, how good, what is in each.

The same figures for a run that is being made (`libgraph/results.py`) and for one whose modules are
found again later (`libgraph communities`), so that both read alike. Where a backend knows the true
modules (see `docs/planted.md`), how well they were found is said beside.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from libgraph.agreement import agreement_with_concepts
from libgraph.communities import module_table
from libgraph.graph import InteractionGraph


def module_metrics(graph: InteractionGraph, *, known: bool) -> dict[str, Any]:
    """Modules with what is in them, and the share of all their edge weight within one concept.

    Args:
        graph: with a partition.
        known: whether concepts are the true modules.
    """
    table = module_table(graph)
    weight = sum(module.weight for module in table if module.within_concept is not None)
    within = sum(module.weight * (module.within_concept or 0.0) for module in table)
    partition = graph.partition
    return {
        "count": len(table),
        "modularity": partition.modularity if partition else None,
        "agreement": partition.agreement if partition else None,
        "within_concept": within / weight if weight > 0 else None,
        "table": [asdict(module) for module in table],
        **_truth(graph, known),
    }


def partition_metrics(graph: InteractionGraph, basis: str, *, known: bool) -> dict[str, Any]:
    """Which feature is in which module, and how that was found.

    Args:
        graph: with a partition.
        basis: name of its basis.
        known: whether concepts are the true modules.
    """
    partition = graph.partition
    how = ("resolution", "seed", "seeds", "consensus", "modularity", "agreement")
    return {
        "basis": basis,
        **{name: getattr(partition, name) for name in how if partition},
        **_truth(graph, known),
        "partition": graph.communities,
    }


def _truth(graph: InteractionGraph, known: bool) -> dict[str, float | None]:
    """How well modules agree with those known to be there; nothing where none are."""
    return agreement_with_concepts(graph) if known else {}
