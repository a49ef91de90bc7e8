"""What features of MLPs stand for: planted blocks, classes that they tell apart, inputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import one_hot

from libgraph.backend import Bases, Basis, Batch, Encode, FeatureLabel
from libgraph_backends.mlp.planted import Planted
from libgraph_backends.shared.image_labels import LEAST, image_labels
from libgraph_backends.shared.layers import forward
from libgraph_backends.shared.shares import percent

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


MOST_INPUTS = 5
"""Inputs that a label names at most."""

SHOWN_INPUTS = 4
"""Inputs of a sample that are shown."""


def class_labels(
    batches: Iterable[Batch], encode: Encode, bases: Bases, classes: Sequence[str]
) -> dict[str, list[FeatureLabel]]:
    """What sets classes apart, which have these names."""
    return image_labels(batches, encode, bases, classes=classes)


def input_labels(
    inputs: Float[Tensor, "n d"], basis: Basis, names: Sequence[str]
) -> list[FeatureLabel]:
    """Which inputs, by name, make the variance of each feature of the input layer."""
    encoder = basis.encoder[:-1].cpu().double()
    covariance = inputs.double().T.cov(correction=0)
    shares = variance_shares(covariance, torch.arange(len(names)), encoder, len(names))
    largest = shares.topk(min(MOST_INPUTS, len(names)), dim=1)
    labels = []
    for values, places in zip(largest.values.tolist(), largest.indices.tolist(), strict=True):
        concepts = {
            names[i]: value for value, i in zip(values, places, strict=True) if value >= LEAST
        }
        text = " | ".join(f"{percent(value)} {name}" for name, value in concepts.items())
        labels.append(FeatureLabel(text or _without_parts(values), concepts))
    return labels


def _without_parts(shares: Sequence[float]) -> str:
    """The label of a feature of which no part is worth naming."""
    return "many small parts" if any(share > 0 for share in shares) else "constant"


def block_labels(
    planted: Planted, inputs: Float[Tensor, "n d"], bases: Bases
) -> dict[str, list[FeatureLabel]]:
    """By node layer and feature, the share of the variance that comes from each planted block.

    A feature is un-hidden, f = h M C with h the units as planted, and divided into the parts
    that the units of each block make; see `variance_shares`.
    """
    activations = [inputs, *forward(planted.plain[:-1], inputs)]
    names = [name for name in bases if bases[name].rotated]
    labels = {}
    for name, x, members, change in zip(
        names, activations, planted.members, planted.changes, strict=True
    ):
        covariance = x.T.cov(correction=0)
        coefficients = change @ bases[name].encoder[:-1].cpu().double()
        shares = variance_shares(covariance, members, coefficients, planted.design.blocks)
        labels[name] = [_block_label(row) for row in shares.tolist()]
    return labels


def variance_shares(
    covariance: Float[Tensor, "d d"],
    members: Int[Tensor, " d"],
    coefficients: Float[Tensor, "d k"],
    groups: int,
) -> Float[Tensor, "k groups"]:
    """Share of each group of units in the variance of features f = Σ_g p_g; zeros where it is none.

    That is Cov(p_g, f) / Var(f): what two parts have in common is halved between them. A part that
    lowers the variance has 0, and the others share all of it: shares sum to 1.
    """
    by_unit = coefficients * (covariance @ coefficients)
    grouped = one_hot(members, groups).to(by_unit).T @ by_unit
    positive = grouped.clamp(min=0)
    shares = torch.where(by_unit.sum(0) > 0, positive / positive.sum(0), 0)
    return shares.T


def _block_label(shares: list[float]) -> FeatureLabel:
    parts = sorted(enumerate(shares), key=lambda part: -part[1])
    parts = [(block, share) for block, share in parts if share > 0]
    text = " | ".join(f"{percent(share)} block {block}" for block, share in parts if share >= LEAST)
    return FeatureLabel(
        text or _without_parts(shares), {str(block): share for block, share in parts}
    )


def pictures(rows: Float[Tensor, "n d"]) -> UInt8[Tensor, "n h w 3"]:
    """Rows of grey values between 0 and 1 as square pictures, dark on light."""
    side = round(rows.shape[1] ** 0.5)
    grey = (255 * (1 - rows.float().clamp(0, 1))).round().to(torch.uint8)
    return grey.view(-1, side, side, 1).expand(-1, -1, -1, 3)


def largest_inputs(rows: Float[Tensor, "n d"], names: Sequence[str]) -> list[list[str]]:
    """For each row the inputs that are largest either way, with their values, as one text."""
    count = min(SHOWN_INPUTS, rows.shape[1])
    places = rows.abs().sort(dim=1, descending=True, stable=True).indices[:, :count]
    return [
        [", ".join(f"{names[i] if names else f'input {i}'} {row[i]:.3g}" for i in chosen)]
        for row, chosen in zip(rows.tolist(), places.tolist(), strict=True)
    ]
