"""Nodes of one input's graph, and the edges between those of neighbouring node layers."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Nodes:
    """Nodes of one node layer, those with more influence first.

    Args:
        layer: its name.
        positions: `(m)`.
        features: places in the node layer `(m)`.
        values: of the features there `(m)`.
        baseline: of the same at the beginning of the path `(m)`.
        influence: share of what the outputs are made of that passes through each `(m)`.
    """

    layer: str
    positions: Int[Tensor, " m"]
    features: Int[Tensor, " m"]
    values: Float[Tensor, " m"]
    baseline: Float[Tensor, " m"]
    influence: Float[Tensor, " m"]

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def ids(self) -> list[str]:
        """What nodes are called: `ln2.0/5@7` is feature 5 of ln2.0 at position 7."""
        return [
            f"{self.layer}/{feature}@{position}"
            for feature, position in zip(
                self.features.tolist(), self.positions.tolist(), strict=True
            )
        ]

    def of(self, chosen: Tensor) -> Nodes:
        """Some of the nodes."""
        return Nodes(
            self.layer,
            *(
                part[chosen]
                for part in (
                    self.positions, self.features, self.values, self.baseline, self.influence
                )
            ),
        )  # fmt: skip


@dataclass(frozen=True)
class Attributions:
    """Edges between the nodes of two neighbouring node layers.

    Args:
        effects: R `(m_out, m_in)`, with its sign.
        pattern: the part of it that comes from moving attention; absent where nothing attends.
        rest: what all other features, and what lies outside of all features, add `(m_out)`.
        error: f_i − f⁰_i less all of that `(m_out)`: what integration along the path misses.
    """

    effects: Float[Tensor, "o i"]
    pattern: Float[Tensor, "o i"] | None
    rest: Float[Tensor, " o"]
    error: Float[Tensor, " o"]
