"""What the features of an image classifier respond to, and which classes they tell apart.

For every feature: the split of the classes in two that explains most of its variance, the images
that drive it most, up and down, with the pixel where a node layer has pixels, and the shares of
what has a name: each class, or group of classes, against the rest, and the position. All shares are
of the whole variance, over images and positions. One pass over some images, with sums by class and
by position, and a few extremes kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from libgraph.backend import POSITION, Bases, Batch, Encode, FeatureLabel
from libgraph_backends.shared.shares import percent

EXAMPLES = 3
"""Images shown for each sign, classes for each side of a split, divisions named as concepts."""


LEAST = 0.005
"""Smaller shares are not spoken of: pixels vary far more than classes differ."""


POSITIONAL = 0.5
"""Share of the variance above which the position is what a feature is about: classes explain a few
hundredths of what varies in a pixel, and a position that explains as much says little."""


ROUNDING = 64
"""A standard deviation of so many units in a feature's last place is not taken for variance."""


Side = frozenset[int]
"""Numbers of the classes on one side of a division."""


@dataclass
class ImageResponses:
    """Sums over images for the features of one node layer: k features, T positions, C classes.

    Args:
        epsilon: of the features' floating-point numbers.
        shift: what is taken from f before it is summed, about its mean `(k,)`.
        images: how many of each class `(C,)`.
        by_class: Σ f over the images and positions of each class `(C, k)`, shifted.
        by_position: Σ f over the images at each position `(T, k)`, shifted.
        squares: Σ f² `(k,)`, shifted.
        extremes: largest values `(2, examples, k)` of the feature and of its negative, at most
            one for each image.
        places: where they are, as image, class and position `(3, 2, examples, k)`.
    """

    epsilon: float
    shift: Float[Tensor, " k"]
    images: Int[Tensor, " C"]
    by_class: Float[Tensor, "C k"]
    by_position: Float[Tensor, "T k"]
    squares: Float[Tensor, " k"]
    extremes: Float[Tensor, "2 examples k"]
    places: Int[Tensor, "3 2 examples k"]

    @classmethod
    def beginning(cls, f: Float[Tensor, "n T k"], classes: int) -> ImageResponses:
        """Before any image; the mean of these features is what all are shifted by."""
        shift = f.mean((0, 1), dtype=torch.float64)
        images = torch.zeros(classes, dtype=torch.int64, device=f.device)
        return cls(
            torch.finfo(f.dtype).eps,
            shift,
            images,
            shift.new_zeros(classes, len(shift)),
            shift.new_zeros(f.shape[1], len(shift)),
            torch.zeros_like(shift),
            f.new_zeros(2, 0, len(shift)),
            images.new_zeros(3, 2, 0, len(shift)),
        )

    def add(self, f: Float[Tensor, "n T k"], targets: Int[Tensor, " n"], first: int) -> None:
        """Take in some images of these classes; `first` is the number of the first image."""
        targets = targets.to(self.images)
        members = one_hot(targets, len(self.images))
        shifted = f - self.shift
        self.images += members.sum(0)
        # Adding at indices would have no order of summation of its own on a GPU.
        self.by_class += members.double().T @ shifted.sum(1)
        self.by_position += shifted.sum(0)
        self.squares += shifted.square_().sum((0, 1))
        highest, lowest = f.max(1), f.min(1)
        values = torch.stack([highest.values, -lowest.values])
        best = _largest(values)
        position = torch.stack([highest.indices, lowest.indices]).gather(1, best)
        places = torch.stack([best + first, targets[best], position])
        # Earlier images come first: a tie is theirs, whatever the batches are.
        values = torch.cat([self.extremes, values.gather(1, best)], dim=1)
        best = _largest(values)
        self.extremes = values.gather(1, best)
        self.places = torch.cat([self.places, places], dim=2).gather(2, best.expand(3, -1, -1, -1))


def _largest(values: Float[Tensor, "2 n k"]) -> Int[Tensor, "2 examples k"]:
    """Where the largest values are along n, in order; of equal ones the first, unlike `topk`."""
    values, places = values.clone(), []
    for _ in range(min(EXAMPLES, values.shape[1])):
        places.append(values.max(1, keepdim=True).indices)
        values.scatter_(1, places[-1], -torch.inf)
    return torch.cat(places, dim=1)


class Separation:
    """How much of the variance of features is explained by divisions of the classes in two.

    With s the indicator of one side, the share is r² = Cov(f, s)² / (Var f · Var s). Sums by class
    say it all: with D_c = Σ (f − mean) over the images and positions of class c, and a of n images
    on that side, r² = (Σ_c D_c)² / (Σ (f − mean)² · T a (n − a) / n).

    Attributes:
        present: the c classes that occur.
        mean: of each feature over images and positions `(k,)`.
        constant: which features do not vary `(k,)`.
    """

    def __init__(self, responses: ImageResponses) -> None:
        occurs = responses.images > 0
        self.present: list[int] = occurs.nonzero().flatten().tolist()
        self._images = responses.images[occurs].double()
        self._positions = len(responses.by_position)
        sums, count = responses.by_class[occurs], self._images.sum() * self._positions
        offset = sums.sum(0) / count
        self.mean = responses.shift + offset
        self._deviations = sums - self._images.unsqueeze(1) * self._positions * offset
        self._by_position = responses.by_position - self._images.sum() * offset
        variance = responses.squares / count - offset.square()
        smallest = (ROUNDING * responses.epsilon) ** 2 * (variance + self.mean.square())
        self.constant: Bool[Tensor, " k"] = variance <= smallest
        self._squares = torch.where(self.constant, torch.inf, count * variance)

    def positional(self) -> Float[Tensor, " k"]:
        """Share that the position explains, corrected for chance (adjusted R²)."""
        images, positions = self._images.sum(), self._positions
        if positions == 1 or images < 2:
            return torch.zeros_like(self.mean)
        explained = self._by_position.square().sum(0) / (images * self._squares)
        adjusted = 1 - (1 - explained) * (images * positions - 1) / ((images - 1) * positions)
        return torch.where(self.constant, 0, adjusted.clamp(0, 1))

    def divided(self, inside: Bool[Tensor, "m c"]) -> Float[Tensor, "m k"]:
        """Share of each division, given by which of the present classes are on one side."""
        inside = inside.to(self._images)
        return self._shares(inside @ self._deviations, inside @ self._images.unsqueeze(1))

    def split(self) -> tuple[Int[Tensor, "c k"], Int[Tensor, " k"], Float[Tensor, " k"]]:
        """The best of all divisions: classes by decreasing mean, how many are high, the share.

        No side of it has a class between those of the other (Fisher 1958,
        doi:10.1080/01621459.1958.10501479), so there are only as many to compare as classes.
        """
        means = self._deviations / self._images.unsqueeze(1)
        order = means.sort(dim=0, descending=True, stable=True).indices
        sums = self._deviations.gather(0, order).cumsum(0)
        share, cut = self._shares(sums, self._images[order].cumsum(0)).max(0)
        return order, cut + 1, share

    def _shares(self, sums: Float[Tensor, "m k"], images: Tensor) -> Float[Tensor, "m k"]:
        count = self._images.sum()
        spread = self._positions * images * (count - images) / count
        # Where all classes are on one side there is no division.
        shares = torch.where(spread > 0, sums.square() / (self._squares * spread), 0)
        return shares.clamp(max=1)


def image_labels(
    batches: Iterable[Batch],
    encode: Encode,
    bases: Bases,
    *,
    classes: Sequence[str],
    groups: Mapping[str, Collection[int]] = {},
    grids: Mapping[str, tuple[int, int]] = {},
) -> dict[str, list[FeatureLabel]]:
    """A label for each feature of each rotated node layer.

    Args:
        batches: images and the numbers `(n,)` of their classes; images are numbered as they come.
        encode: images to features by node layer.
        bases: of the node layers.
        classes: name of each class; those without images take no part.
        groups: classes by the name of their group; where two groups are all there is, they make
            one division, such as `animals/vehicles`.
        grids: height and width of feature maps, whose positions are pixels, row by row; the
            positions of other node layers are not named.

    Raises:
        ValueError: if a grid has more pixels than its node layer positions, or fewer.
    """
    by_layer: dict[str, ImageResponses] = {}
    first = 0
    for inputs, targets in batches:
        for layer, f in encode(inputs).items():
            if layer not in by_layer:
                height, width = grids.get(layer, (1, f.shape[1]))
                if height * width != f.shape[1]:
                    raise ValueError(f"'{layer}' has {f.shape[1]} positions, not {height}×{width}.")
                by_layer[layer] = ImageResponses.beginning(f, len(classes))
            by_layer[layer].add(f, targets, first)
        first += len(targets)
    return {
        layer: _labels(responses, bases[layer].isolated, classes, groups, grids.get(layer, (1, 1)))
        for layer, responses in by_layer.items()
    }


def _labels(
    responses: ImageResponses,
    isolated: int,
    classes: Sequence[str],
    groups: Mapping[str, Collection[int]],
    grid: tuple[int, int],
) -> list[FeatureLabel]:
    def text(image: int, number: int, position: int) -> str:
        pixel = "" if grid == (1, 1) else " ({},{})".format(*divmod(position, grid[1]))
        return f"{classes[number]} {image}{pixel}"

    separation = Separation(responses)
    sides = _sides(separation.present, classes, groups)
    splits, concepts = _splits(separation, sides, classes), _concepts(separation, sides)
    positional = separation.positional().tolist()
    # About the mean: one that is far from zero would decide for every feature else.
    up, down = responses.extremes[:, 0] - torch.stack([separation.mean, -separation.mean])
    first, constant = (up < down).tolist(), separation.constant.tolist()
    labels = []
    for j, places in enumerate(responses.places.permute(3, 1, 2, 0).tolist()):
        if j < isolated:
            labels.append(FeatureLabel("constant" if j == 0 else "variance of the norm"))
        elif constant[j]:
            labels.append(FeatureLabel("no variance"))
        else:
            signs = [
                f"{sign} " + ", ".join(text(*place) for place in strongest)
                for sign, strongest in zip("+−", places, strict=True)
            ]
            named = [splits[j]]
            position = f"{percent(positional[j])} {POSITION}"
            if positional[j] >= POSITIONAL:
                concepts[j][POSITION] = positional[j]
                named.insert(0, position)
            elif positional[j] >= LEAST:
                named.append(position)
            parts = [*named, signs[first[j]], signs[not first[j]]]
            labels.append(FeatureLabel(" | ".join(filter(None, parts)), concepts[j]))
    return labels


def _sides(
    present: Sequence[int], classes: Sequence[str], groups: Mapping[str, Collection[int]]
) -> dict[Side, str]:
    """Names of sides of divisions: of each class, and of what there is of each group."""
    sides = {frozenset([c]): classes[c] for c in present}
    for name, members in groups.items():
        sides.setdefault(frozenset(members) & frozenset(present), name)
    return sides


def _concepts(separation: Separation, sides: Mapping[Side, str]) -> list[dict[str, float]]:
    """For each feature the named divisions with the largest shares."""
    present, divisions = separation.present, dict[str, Side]()
    for side, name in sides.items():
        rest = sides.get(frozenset(present) - side)
        if f"{rest}/{name}" not in divisions:
            divisions[name if rest is None else f"{name}/{rest}"] = side
    names = list(divisions)
    inside = torch.tensor([[c in side for c in present] for side in divisions.values()])
    shares = separation.divided(inside.view(len(names), len(present)))
    largest = shares.sort(dim=0, descending=True, stable=True)
    rows = largest.values[:EXAMPLES].T.tolist(), largest.indices[:EXAMPLES].T.tolist()
    return [
        {names[i]: share for share, i in zip(*row, strict=True) if share >= LEAST}
        for row in zip(*rows, strict=True)
    ]


def _splits(separation: Separation, sides: Mapping[Side, str], classes: Sequence[str]) -> list[str]:
    """For each feature its best split in words; nothing where it says too little."""

    def text(ranks: Sequence[int]) -> str:
        side = [separation.present[rank] for rank in ranks]
        names = [classes[c] for c in side[:EXAMPLES]] + ["…"] * (len(side) > EXAMPLES)
        return sides.get(frozenset(side), ", ".join(names))

    order, sizes, shares = separation.split()
    return [
        f"{percent(share)} {text(ranks[:size])} > {text(ranks[size:][::-1])}"
        if share >= LEAST
        else ""
        for ranks, size, share in zip(
            order.T.tolist(), sizes.tolist(), shares.tolist(), strict=True
        )
    ]
