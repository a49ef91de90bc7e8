"""Networks whose modules are known, because they were planted, and then hidden.

Block-diagonal weights and a pointwise activation make networks that do not interact, side by side.
An invertible change of basis in every hidden layer then hides them: x' = φ(x A) M, with M⁻¹ in the
next A. The function stays the same, no neuron belongs to a block any more, and a basis that sees
only the function finds the blocks again. Everything is drawn from one seed, in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from libgraph.accumulate.streams import stream
from libgraph.graph.features import FeatureLabel
from libgraph.network.basis import Bases
from libgraph_backends.shared.layers import Activation, Layer, forward

BIAS = 0.1
"""Standard deviation of biases; that of a unit's input is of the order of 1."""


STRETCH = 3.0
"""A change of basis stretches no direction by more than this, and shrinks none by more."""


@dataclass(frozen=True)
class Plan:
    """What to plant.

    Args:
        blocks: networks side by side.
        width: units of each in every layer, inputs and outputs included.
        layers: hidden layers.
        strengths: factor on the outputs of each block.
        interaction: size of the weights between blocks, relative to those inside; 1: no blocks.
        correlation: between the inputs of different blocks that have the same place in them.
        dead: more units in every hidden layer that are never on, or that nothing reads, in turn.
        duplicated: more units in every hidden layer that do what another one does.
        hide: whether to change the basis of hidden layers.
        seed: of weights, changes of basis and inputs.
    """

    blocks: int
    width: int
    layers: int
    strengths: Sequence[float]
    interaction: float
    correlation: float
    dead: int
    duplicated: int
    hide: bool
    seed: int


class Planted:
    """A planted network, with the way back from its features to its blocks.

    Args:
        plan: what to plant.
        activation: of the hidden layers; None for a linear network.

    Attributes:
        plain: its layers as planted.
        layers: its layers with their coordinates changed, if they are to be hidden.
        members: block of each unit, by node layer from the input to the last hidden one.
        changes: M of each of these node layers; identity where nothing is hidden.
    """

    def __init__(self, plan: Plan, activation: Activation | None) -> None:
        self.plan = plan
        weights = stream(plan.seed, 0)
        blocks = torch.arange(plan.blocks).repeat_interleave(plan.width)
        matrices = [_block_matrix(plan, blocks, weights) for _ in range(plan.layers + 1)]
        strengths = torch.tensor(plan.strengths, dtype=torch.float64)
        matrices[-1] = matrices[-1] * strengths[blocks]
        self.members: list[Int[Tensor, " d"]] = [blocks]
        for index in range(plan.layers):
            matrices[index], matrices[index + 1], members = _with_more_units(
                plan, matrices[index], matrices[index + 1], blocks, weights
            )
            self.members.append(members)
        functions = [activation] * plan.layers + [None]
        self.plain = [Layer(m, f) for m, f in zip(matrices, functions, strict=True)]
        changing = stream(plan.seed, 1)
        self.changes = [torch.eye(len(blocks), dtype=torch.float64)] + [
            random_change(len(members), changing) if plan.hide else torch.eye(len(members)).double()
            for members in self.members[1:]
        ]
        self.layers = self._hidden() if plan.hide else self.plain

    def _hidden(self) -> list[Layer]:
        changed = []
        for layer, before, after in zip(
            self.plain, self.changes, [*self.changes[1:], None], strict=True
        ):
            rows = torch.linalg.solve(before, layer.matrix[:-1])
            changed.append(Layer(torch.cat([rows, layer.matrix[-1:]]), layer.activation, after))
        return changed

    def inputs(self, samples: int, split: int) -> Float[Tensor, "n d"]:
        """Standard-normal inputs `(samples, d)`; one `split` is independent of another."""
        plan = self.plan
        generator = stream(plan.seed, 2 + split)
        own, shared = (
            torch.randn(samples, count, plan.width, generator=generator, dtype=torch.float64)
            for count in (plan.blocks, 1)
        )
        share = plan.correlation
        return (math.sqrt(1 - share) * own + math.sqrt(share) * shared).flatten(1)

    def labels(
        self, inputs: Float[Tensor, "n d"], bases: Bases
    ) -> Mapping[str, Sequence[FeatureLabel]]:
        """By node layer and feature, the share of the variance that comes from each block.

        A feature is un-hidden, f = h M C with h the units as planted, and divided into the parts
        that the units of each block make; a share is the variance of such a part relative to the
        sum of those of all parts.
        """
        activations = [inputs, *forward(self.plain[:-1], inputs)]
        names = [name for name in bases if bases[name].rotated]
        labels = {}
        for name, x, members, change in zip(
            names, activations, self.members, self.changes, strict=True
        ):
            covariance = x.T.cov(correction=0)
            coefficients = change @ bases[name].encoder[:-1].cpu().double()
            labels[name] = _labels(self.shares(covariance, members, coefficients, self.plan.blocks))
        return labels

    @staticmethod
    def shares(
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


def _labels(shares: Float[Tensor, "k blocks"]) -> list[FeatureLabel]:
    labels = []
    for row in shares.tolist():
        parts = sorted(enumerate(row), key=lambda part: -part[1])
        parts = [(block, share) for block, share in parts if share > 0]
        text = " | ".join(f"{share:.0%} block {block}" for block, share in parts if share >= 0.005)
        concepts = {str(block): share for block, share in parts}
        labels.append(FeatureLabel(text or "constant", concepts))
    return labels


def _block_matrix(
    plan: Plan, blocks: Int[Tensor, " d"], generator: torch.Generator
) -> Float[Tensor, "d_plus_1 d"]:
    """Weights that keep the size of activations (He's), less by `interaction` between blocks."""
    size = len(blocks)
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix *= math.sqrt(2 / plan.width)
    bias = BIAS * torch.randn(1, size, generator=generator, dtype=torch.float64)
    inside = blocks.unsqueeze(1) == blocks
    return torch.cat([torch.where(inside, matrix, plan.interaction * matrix), bias])


def _with_more_units(
    plan: Plan,
    reading: Float[Tensor, "d_in_plus_1 d"],
    writing: Float[Tensor, "d_plus_1 d_out"],
    blocks: Int[Tensor, " d"],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Int[Tensor, " d_more"]]:
    """The matrices before and after a hidden layer, with dead and duplicated units in it."""
    size = len(blocks)
    copied = torch.randperm(size, generator=generator)[torch.arange(plan.duplicated) % size]
    copies = reading[:, copied]
    # A unit and its copies share what the unit alone wrote.
    times = 1 + torch.bincount(copied, minlength=size)
    rows = writing[:-1] / times.unsqueeze(1)
    dead = torch.randperm(size, generator=generator)[torch.arange(plan.dead) % size]
    silent = reading[:, dead].clone()
    unread = rows[dead].clone()
    off = torch.arange(plan.dead) % 2 == 0
    silent[:, off] = 0
    silent[-1, off] = -1
    unread[~off] = 0
    return (
        torch.cat([reading, copies, silent], dim=1),
        torch.cat([rows, rows[copied], unread, writing[-1:]]),
        torch.cat([blocks, blocks[copied], blocks[dead]]),
    )


def random_change(size: int, generator: torch.Generator) -> Float[Tensor, "d d"]:
    """A random invertible matrix: rotation, stretching by up to `STRETCH` or as little, rotation.

    Rotations are of the orthogonal factor of a normal matrix. A normal matrix itself would be as
    good a change of basis, but now and then one so close to singular that rounding decides.
    """
    left, right = (
        torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
        for _ in range(2)
    )
    exponents = 2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1
    change: Tensor = left * STRETCH**exponents @ right
    return change
