"""What the features of an image classifier stand for: classes of CIFAR-10, animals and vehicles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from libgraph.backend import Bases, Batch, Encode, FeatureLabel
from libgraph_backends.cifar.data import CLASSES
from libgraph_backends.shared.image_labels import image_labels

ANIMALS = frozenset({2, 3, 4, 5, 6, 7})


VEHICLES = frozenset({0, 1, 8, 9})


def class_labels(
    batches: Iterable[Batch], encode: Encode, bases: Bases, grids: Mapping[str, tuple[int, int]]
) -> dict[str, list[FeatureLabel]]:
    """A label for each feature; `grids` has the height and width of node layers with pixels."""
    groups = {"animals": ANIMALS, "vehicles": VEHICLES}
    return image_labels(batches, encode, bases, classes=CLASSES, groups=groups, grids=grids)
