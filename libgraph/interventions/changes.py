"""What is done to features: set, scaled, added to, or put to what they are on average or elsewhere.

An intervention changes some features at once; several interventions are a batch. At each node layer
all of them are two numbers a feature, f ↦ scale · f + shift, and the activation moves along the
decoder: what lies outside of the features stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.errors import UsageError
from libgraph.interventions.subject import Subject
from libgraph.network.basis import Basis

How = Literal["set", "scale", "add", "mean", "position-mean", "resample"]
"""What a feature becomes: the value, the value times itself, itself and the value, its mean over
samples and positions, its mean at each position, or what it is in another sample."""

HOWS: tuple[How, ...] = get_args(How)

VALUED = ("set", "scale", "add")
"""Those that need a value."""


@dataclass(frozen=True)
class Change:
    """Features of one node layer, and what becomes of them.

    Args:
        layer: name of the node layer.
        features: their places in it.
        how: see `How`.
        value: of `set`, `scale` and `add`.
        positions: where; all if None, negative ones count from the end.
    """

    layer: str
    features: tuple[int, ...]
    how: How = "mean"
    value: float = 0.0
    positions: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Intervention:
    """Changes that are made together.

    Args:
        name: what it is called in tables.
        changes: of features of any node layers.
    """

    name: str
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class LayerChange:
    """What several interventions do at one node layer: f ↦ scale · f + shift where mask is 1.

    Args:
        features: `(c)`, those that any of them changes.
        scale: `(m, c)`.
        shift: `(m, c)`, the same for all samples and positions.
        mask: `(m, s, c)`, or `(m, 1, c)` for all positions.
        at_positions: `(m, c)`, how much of the mean at each position is added.
        elsewhere: `(m, c)`, how much of what the features are in another sample is added.
    """

    features: Tensor
    scale: Float[Tensor, "m c"]
    shift: Float[Tensor, "m c"]
    mask: Float[Tensor, "m s c"]
    at_positions: Float[Tensor, "m c"]
    elsewhere: Float[Tensor, "m c"]

    def of(self, chosen: slice | Tensor) -> LayerChange:
        """Of some of the interventions."""
        return LayerChange(
            self.features,
            *(
                part[chosen]
                for part in (self.scale, self.shift, self.mask, self.at_positions, self.elsewhere)
            ),
        )

    def apply(
        self,
        x: Float[Tensor, "m n s d"],
        basis: Basis,
        at_positions: Float[Tensor, "s k"] | None,
        donated: Callable[[], Float[Tensor, "n s k"]],
    ) -> Float[Tensor, "m n s d"]:
        """Activations with their features changed.

        Args:
            x: one row of samples for each intervention.
            basis: in the precision of x.
            at_positions: means of all features at each position; None where nobody asks for them.
            donated: features of other samples.
        """
        f = basis.features(x, self.features)
        moved = (self.scale - 1)[:, None, None] * f + self.shift[:, None, None]
        if at_positions is not None:
            means = at_positions[:, self.features]
            moved = moved + (self.at_positions[:, None] * means)[:, None]
        if bool(self.elsewhere.any()):
            moved = moved + self.elsewhere[:, None, None] * donated()[..., self.features]
        return x + (moved * self.mask[:, None]) @ basis.decoder[self.features]


def check_interventions(subject: Subject, interventions: Sequence[Intervention]) -> None:
    """Refuse what cannot be done.

    Raises:
        UsageError: if a node layer or feature is none of the subject's, a feature is changed twice
            in one intervention, or a value is not finite.
    """
    if not interventions:
        raise UsageError("There is no intervention: name at least one feature.")
    for intervention in interventions:
        seen: set[tuple[str, int]] = set()
        for change in intervention.changes:
            if change.layer not in subject.layers:
                known = ", ".join(subject.layers)
                raise UsageError(f"There is no node layer '{change.layer}': choose of {known}.")
            size = len(subject.cast[change.layer])
            for feature in change.features:
                if not 0 <= feature < size:
                    raise UsageError(
                        f"There is no feature '{change.layer}/{feature}': {change.layer} has "
                        f"{size}, the last is {change.layer}/{size - 1}."
                    )
                if (change.layer, feature) in seen:
                    raise UsageError(
                        f"'{intervention.name}' changes {change.layer}/{feature} twice: once is "
                        "all there is."
                    )
                seen.add((change.layer, feature))
            if change.how not in HOWS:
                raise UsageError(f"'{change.how}' is nothing to do: use {', '.join(HOWS)}.")
            if not torch.tensor(change.value, dtype=subject.data.dtype).isfinite():
                raise UsageError(f"'{intervention.name}' has a value that is not finite.")


def layer_changes(
    subject: Subject, interventions: Sequence[Intervention], lengths: dict[str, int]
) -> dict[str, LayerChange]:
    """By node layer, what all interventions do there; layers that none of them touches are absent.

    Args:
        subject: whose features.
        interventions: m of them, checked.
        lengths: positions of every node layer.

    Raises:
        UsageError: if a position is none of the samples'.
    """
    by_layer: dict[str, list[tuple[int, Change]]] = {}
    for number, intervention in enumerate(interventions):
        for change in intervention.changes:
            if change.features:
                by_layer.setdefault(change.layer, []).append((number, change))
    return {
        layer: _layer_change(subject, changes, len(interventions), lengths[layer])
        for layer, changes in by_layer.items()
    }


def _layer_change(
    subject: Subject, changes: Sequence[tuple[int, Change]], count: int, length: int
) -> LayerChange:
    layer = changes[0][1].layer
    like = subject.cast[layer].encoder
    features = sorted({feature for _, change in changes for feature in change.features})
    column = {feature: place for place, feature in enumerate(features)}
    scale, shift, at_positions, elsewhere = (
        like.new_full((count, len(features)), float(value)) for value in (1, 0, 0, 0)
    )
    everywhere = all(change.positions is None for _, change in changes)
    mask = like.new_zeros(count, 1 if everywhere else length, len(features))
    for number, change in changes:
        columns = [column[feature] for feature in change.features]
        mask[number, _places(change, length), columns] = 1
        match change.how:
            case "scale":
                scale[number, columns] = change.value
            case "add":
                shift[number, columns] = change.value
            case "set":
                scale[number, columns], shift[number, columns] = 0, change.value
            case "mean":
                mean = subject.usual[layer].mean[list(change.features)]
                scale[number, columns], shift[number, columns] = 0, mean
            case "position-mean":
                scale[number, columns], at_positions[number, columns] = 0, 1
            case "resample":
                scale[number, columns], elsewhere[number, columns] = 0, 1
    where = torch.tensor(features, device=like.device)
    return LayerChange(where, scale, shift, mask, at_positions, elsewhere)


def _places(change: Change, length: int) -> Tensor | slice:
    if change.positions is None:
        return slice(None)
    for position in change.positions:
        if not -length <= position < length:
            raise UsageError(
                f"There is no position {position} at {change.layer}: samples have {length} there."
            )
    return torch.tensor([position % length for position in change.positions]).unsqueeze(1)
