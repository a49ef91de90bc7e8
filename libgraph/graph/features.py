"""The features of a node layer: how many, how important, what they stand for.

A feature is a direction in the activations of one node layer. The first ones may be isolated:
the constant, and the variance at a split LayerNorm, interact with everything and say nothing
about structure, so they take no part in clustering.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from libgraph.errors import DataError, NumericalError
from libgraph.graph.arrays import FloatArray

POSITION = "position"
"""The concept, in every backend with positions, of what differs between these whatever is there."""


ERROR = "error"
"""The label of what a dictionary leaves out of a node layer's activations."""


@dataclass(frozen=True)
class FeatureLabel:
    """What a feature stands for.

    Args:
        text: The label to show, such as ``"97% cos(15x) + cos(15y) | 2% cos(1x) + cos(1y)"``.
        concepts: Share of the feature's whole variance, over samples and positions, by concept,
            such as ``{"15": 0.97, "1": 0.02}``.
    """

    text: str
    concepts: Mapping[str, float] = field(default_factory=dict)

    @property
    def concept(self) -> str | None:
        """The concept with the largest share, the first of them on a tie; ``None`` without any."""
        return max(self.concepts, key=self.concepts.__getitem__, default=None)


@dataclass(frozen=True, eq=False)
class LayerFeatures:
    """The features of one node layer.

    Args:
        name: Name of the node layer.
        importance: Shape ``(features,)``; the variance Λ in the interaction basis, say.
        isolated: Number of leading features, such as the constant, outside clustering.
        rotated: ``False`` for a layer left in its neuron basis, such as logits: it takes no part
            in clustering.
        labels: One label per feature, if features were labelled.
        ids: What features are called, if not ``"<layer>/<index>"``: those of a part of a graph
            keep the names that they have in the whole.

    Raises:
        DataError: If the shapes disagree.
        NumericalError: If an importance is not finite.
    """

    name: str
    importance: FloatArray
    isolated: int = 1
    rotated: bool = True
    labels: tuple[FeatureLabel, ...] | None = None
    ids: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        importance = np.asarray(self.importance, dtype=np.float64)
        object.__setattr__(self, "importance", importance)
        if importance.ndim != 1:
            raise DataError(
                f"The importance of {self.name} has shape {importance.shape}: pass one dimension."
            )
        if not np.isfinite(importance).all():
            raise NumericalError(
                f"The importance of {self.name} has values that are not finite: check its basis."
            )
        if not 0 <= self.isolated <= self.size:
            raise DataError(
                f"{self.name} has {self.size} features, so {self.isolated} cannot be isolated."
            )
        if self.labels is not None and len(self.labels) != self.size:
            raise DataError(
                f"{self.name} has {self.size} features, {len(self.labels)} labels: pass one each."
            )
        if self.ids is not None and len(set(self.ids)) != self.size:
            raise DataError(
                f"{self.name} has {self.size} features, {len(set(self.ids))} different ids: pass "
                "one each."
            )

    @property
    def size(self) -> int:
        """Number of features, isolated ones included."""
        return len(self.importance)

    @property
    def error(self) -> int | None:
        """Which of the isolated features is a dictionary's error, if there is one."""
        isolated = (self.labels or ())[: self.isolated]
        return next((i for i, label in enumerate(isolated) if label.text == ERROR), None)


def feature_ids(layer: LayerFeatures) -> list[str]:
    """The ids of a layer's features, ``"<layer>/<index>"`` unless they have their own."""
    if layer.ids is not None:
        return list(layer.ids)
    return [f"{layer.name}/{index}" for index in range(layer.size)]


def feature_numbers(layer: LayerFeatures) -> list[int]:
    """The index in the whole graph of each feature, as far as its id says so; else its place."""
    start = f"{layer.name}/"
    return [
        int(name.removeprefix(start))
        if name.startswith(start) and name.removeprefix(start).isdecimal()
        else place
        for place, name in enumerate(feature_ids(layer))
    ]
