"""What features of MLPs stand for: blocks that were planted, or classes that they tell apart."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from libgraph.backend import Bases, Batch, Encode, FeatureLabel
from libgraph_backends.mlp.planted import Planted
from libgraph_backends.shared.image_labels import image_labels
from libgraph_backends.shared.layers import forward

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def class_labels(
    batches: Iterable[Batch], encode: Encode, bases: Bases, count: int | None
) -> dict[str, list[FeatureLabel]]:
    """What sets classes apart, of which there are so many; None for digits."""
    classes = DIGITS if count is None else [f"class {number}" for number in range(count)]
    return image_labels(batches, encode, bases, classes=classes)


def block_labels(
    planted: Planted, inputs: Float[Tensor, "n d"], bases: Bases
) -> dict[str, list[FeatureLabel]]:
    """By node layer and feature, the share of the variance that comes from each planted block.

    A feature is un-hidden, f = h M C with h the units as planted, and divided into the parts
    that the units of each block make; a share is the variance of such a part relative to the
    sum of those of all parts.
    """
    activations = [inputs, *forward(planted.plain[:-1], inputs)]
    names = [name for name in bases if bases[name].rotated]
    labels = {}
    for name, x, members, change in zip(
        names, activations, planted.members, planted.changes, strict=True
    ):
        covariance = x.T.cov(correction=0)
        coefficients = change @ bases[name].encoder[:-1].cpu().double()
        shares = block_shares(covariance, members, coefficients, planted.design.blocks)
        labels[name] = [_block_label(row) for row in shares.tolist()]
    return labels


def block_shares(
    covariance: Float[Tensor, "d d"],
    members: Int[Tensor, " d"],
    coefficients: Float[Tensor, "d k"],
    blocks: int,
) -> Float[Tensor, "k blocks"]:
    """Share of each block in the variance of each feature; zeros where it has none."""
    parts = []
    for block in range(blocks):
        part = coefficients * (members == block).unsqueeze(1)
        parts.append((part * (covariance @ part)).sum(0).clamp(min=0))
    variances = torch.stack(parts, dim=1)
    total = variances.sum(1, keepdim=True)
    return torch.where(total > 0, variances / total, 0)


def _block_label(shares: list[float]) -> FeatureLabel:
    parts = sorted(enumerate(shares), key=lambda part: -part[1])
    parts = [(block, share) for block, share in parts if share > 0]
    text = " | ".join(f"{share:.0%} block {block}" for block, share in parts if share >= 0.005)
    return FeatureLabel(text or "constant", {str(block): share for block, share in parts})
