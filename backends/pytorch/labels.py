"""What features stand for where there are classes: which ones they tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from libgraph.backend import Bases, Batch, Encode, FeatureLabel
from libgraph_backends.shared.image_labels import image_labels


def class_labels(
    batches: Iterable[Batch], encode: Encode, bases: Bases, classes: Sequence[str]
) -> dict[str, list[FeatureLabel]]:
    """A label for each feature, from classes by these names."""
    return image_labels(batches, encode, bases, classes=classes)
