"""How long passes over the data take: what stages and bases state their cost in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from libgraph.bases.method import BasisMethod


@dataclass(frozen=True)
class Passes:
    """Seconds a sample, by what is computed of it, for all sections together.

    Args:
        forward: the network alone.
        jacobian_grams: Jacobian Grams of all sections.
        output_grams: Grams of the outputs' gradients at all node layers.
        interactions: as asked for, in one basis.
        exact_interactions: not estimated from random signs.
        masked: a pass that keeps half of all edges; this and what follows in the precision of
            scores.
        plain: one that keeps all.
        behind: from behind each pair of node layers to the outputs, all of them added up.
        nodes: all that node ablation tries of one basis.
        score: from outputs to scores.
        sections: how many there are.
        samples: numbers of samples that bases are made from (`bases`), that interactions come from
            (`train`) and that are scored (`test`).
        beside: seconds that bases take beside passes over the data, by name.
    """

    forward: float
    jacobian_grams: float
    output_grams: float
    interactions: float
    exact_interactions: float
    masked: float
    plain: float
    behind: float
    nodes: float
    score: float
    sections: int
    samples: Mapping[str, int]
    beside: Mapping[str, float]

    def of_bases(self, methods: Sequence[BasisMethod]) -> float:
        """Of all bases that are made at once."""
        jacobian = any(method.jacobian_gram for method in methods)
        output = any(method.output_gram for method in methods)
        return self.forward + self.jacobian_grams * jacobian + self.output_grams * output
