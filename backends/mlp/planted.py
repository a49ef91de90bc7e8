"""Networks whose modules are known, because they were planted, and then hidden.

Block-diagonal weights and a pointwise activation make networks that do not interact, side by side.
An invertible change of basis in every hidden layer then hides them: x' = φ(x A) M, with M⁻¹ in the
next A. The function stays the same, no neuron belongs to a block any more, and a basis that sees
only the function finds the blocks again. Everything is drawn from one seed, in double precision.

Deep networks of few units forget their inputs: normal weights stretch some directions and lose
others, layer by layer. Orthogonal weights and skip connections keep them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from libgraph.backend import stream
from libgraph_backends.mlp.options import WeightsName
from libgraph_backends.shared.layers import Activation, Layer

BIAS = 0.1
"""Standard deviation of biases; that of a unit's input is of the order of 1."""


STRETCH = 3.0
"""A change of basis stretches no direction by more than this, and shrinks none by more."""


@dataclass(frozen=True)
class Design:
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
        weights: `normal`, or `orthogonal` within each block.
        skips: whether hidden layers add to what they read, x' = x + φ(x A) / √layers.
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
    weights: WeightsName
    skips: bool
    seed: int


class Planted:
    """A planted network, with the way back from its features to its blocks.

    Args:
        design: what to plant.
        activation: of the hidden layers; None for a linear network.

    Attributes:
        plain: its layers as planted.
        layers: its layers with their coordinates changed, if they are to be hidden.
        members: block of each unit, by node layer from the input to the last hidden one.
        changes: M of each of these node layers; identity where nothing is hidden.
    """

    def __init__(self, design: Design, activation: Activation | None) -> None:
        self.design = design
        weights = stream(design.seed, 0)
        blocks = torch.arange(design.blocks).repeat_interleave(design.width)
        matrices = [_block_matrix(design, blocks, weights) for _ in range(design.layers + 1)]
        strengths = torch.tensor(design.strengths, dtype=torch.float64)
        matrices[-1] = matrices[-1] * strengths[blocks]
        self.members: list[Int[Tensor, " d"]] = [blocks]
        for index in range(design.layers):
            matrices[index], matrices[index + 1], members = _with_more_units(
                design, matrices[index], matrices[index + 1], blocks, weights
            )
            self.members.append(members)
        functions = [activation] * design.layers + [None]
        self.plain = [Layer(m, f) for m, f in zip(matrices, functions, strict=True)]
        if design.skips:
            eye = torch.eye(len(blocks), dtype=torch.float64)
            branch = eye / math.sqrt(design.layers)
            self.plain[:-1] = [Layer(m, f, branch, eye) for m, f, *_ in self.plain[:-1]]
        changing = stream(design.seed, 1)
        self.changes = [
            random_change(len(members), changing)
            if design.hide and layer > 0
            else torch.eye(len(members), dtype=torch.float64)
            for layer, members in enumerate(self.members)
        ]
        self.layers = self._hidden() if design.hide else self.plain

    def _hidden(self) -> list[Layer]:
        changed = []
        for layer, before, after in zip(
            self.plain, self.changes, [*self.changes[1:], None], strict=True
        ):
            rows = torch.linalg.solve(before, layer.matrix[:-1])
            matrix = torch.cat([rows, layer.matrix[-1:]])
            if layer.skip is None or layer.change is None or after is None:
                changed.append(Layer(matrix, layer.activation, after))
            else:
                skip = torch.linalg.solve(before, layer.skip @ after)
                changed.append(Layer(matrix, layer.activation, layer.change @ after, skip))
        return changed

    def inputs(self, samples: int, split: int) -> Float[Tensor, "n d"]:
        """Standard-normal inputs `(samples, d)`; one `split` is independent of another."""
        design = self.design
        generator = stream(design.seed, 2 + split)
        own, shared = (
            torch.randn(samples, count, design.width, generator=generator, dtype=torch.float64)
            for count in (design.blocks, 1)
        )
        share = design.correlation
        return (math.sqrt(1 - share) * own + math.sqrt(share) * shared).flatten(1)


def _block_matrix(
    design: Design, blocks: Int[Tensor, " d"], generator: torch.Generator
) -> Float[Tensor, "d_plus_1 d"]:
    """Weights that keep the size of activations (He's), less by `interaction` between blocks."""
    size = len(blocks)
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix *= math.sqrt(2 / design.width)
    bias = BIAS * torch.randn(1, size, generator=generator, dtype=torch.float64)
    inside = blocks.unsqueeze(1) == blocks
    own = matrix
    if design.weights == "orthogonal":
        squares = matrix.unflatten(0, (design.blocks, -1)).unflatten(2, (design.blocks, -1))
        rotations = [math.sqrt(2) * orthogonal(squares[b, :, b]) for b in range(design.blocks)]
        own = torch.block_diag(*rotations)
    return torch.cat([torch.where(inside, own, design.interaction * matrix), bias])


def _with_more_units(
    design: Design,
    reading: Float[Tensor, "d_in_plus_1 d"],
    writing: Float[Tensor, "d_plus_1 d_out"],
    blocks: Int[Tensor, " d"],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Int[Tensor, " d_more"]]:
    """The matrices before and after a hidden layer, with dead and duplicated units in it."""
    size = len(blocks)
    copied = torch.randperm(size, generator=generator)[torch.arange(design.duplicated) % size]
    copies = reading[:, copied]
    # A unit and its copies share what the unit alone wrote.
    times = 1 + torch.bincount(copied, minlength=size)
    rows = writing[:-1] / times.unsqueeze(1)
    dead = torch.randperm(size, generator=generator)[torch.arange(design.dead) % size]
    silent = reading[:, dead].clone()
    unread = rows[dead].clone()
    off = torch.arange(design.dead) % 2 == 0
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
        orthogonal(torch.randn(size, size, generator=generator, dtype=torch.float64))
        for _ in range(2)
    )
    exponents = 2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1
    change: Tensor = left * STRETCH**exponents @ right
    return change


def orthogonal(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """The orthogonal factor of a matrix."""
    factor: Tensor = torch.linalg.qr(matrix).Q
    return factor
