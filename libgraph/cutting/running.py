"""Parts of a module as they are: functions, what they give, and whether sections give the same."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from libgraph.cutting.layouts import State
from libgraph.cutting.values import Program, run_once
from libgraph.sections import Function, Section

AGREEMENT = 1e-9
"""How far a section may be from the module's own values, relative to the largest."""


class Pointwise(nn.Module):
    """A function of each number by itself."""

    def __init__(self, program: Program, name: str) -> None:
        super().__init__()
        self.program = program
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """The function."""
        (y,) = self.program(x)
        return y

    def extra_repr(self) -> str:
        """Which function it is."""
        return self.name


class InverseRoot(nn.Module):
    """(v + ε)^{-1/2}."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """The inverse root."""
        return (x + self.epsilon).rsqrt()

    def extra_repr(self) -> str:
        """The ε."""
        return f"epsilon={self.epsilon}"


class Piece(nn.Module):
    """Part of a module between two node layers, constant and all."""

    def __init__(self, source: State, target: State, constant: bool) -> None:
        super().__init__()
        self.program = Program(source.values, target.values)
        self.source, self.target, self.constant = source, target, constant

    def forward(self, x: Tensor) -> Tensor:
        """Rows to rows."""
        outputs = self.program(*self.source.to_tensors(x))
        return self.target.to_rows(outputs, self.constant)

    def __deepcopy__(self, memo: dict[int, object]) -> Piece:
        # States are shared: they name values, and hold no numbers.
        copied = Piece.__new__(Piece)
        nn.Module.__init__(copied)
        copied.program = copy.deepcopy(self.program, memo)
        copied.source, copied.target, copied.constant = self.source, self.target, self.constant
        return copied


def function_of(source: State, target: State, constant: bool) -> Function:
    """A step as it is, known to automatic differentiation."""
    piece = Piece(source, target, constant)
    return Function(piece, source.width + 1, target.width + constant)


# Whether they are the same


def agrees(
    section: Section, source: State, target: State, constant: bool, given: Sequence[Tensor]
) -> bool:
    """Whether a section maps activations, and others of their kind, as the module does."""
    piece = Piece(source, target, constant)
    rows = source.to_rows(given)
    with torch.no_grad():
        for x in (rows, _elsewhere(rows)):
            expected = piece(x)
            try:
                actual = section(x)
            except (RuntimeError, ValueError):
                return False
            if actual.shape != expected.shape:
                return False
            finite = expected.isfinite()
            if not bool((actual.isfinite() == finite).all()):
                return False
            scale = expected[finite].abs().max() if bool(finite.any()) else 1.0
            if not bool(((actual - expected)[finite].abs() <= AGREEMENT * scale).all()):
                return False
    return True


def _elsewhere(rows: Tensor) -> Tensor:
    """Activations of which each coordinate comes from another sample and position."""
    generator = torch.Generator().manual_seed(1)
    flat = rows.flatten(0, 1)
    order = torch.rand(flat.shape, generator=generator).argsort(0)
    factor = 0.5 + torch.rand(flat.shape, generator=generator, dtype=rows.dtype)
    mixed = flat.gather(0, order) * factor
    mixed[:, -1] = 1
    return mixed.reshape(rows.shape)


def values_at(source: State, given: Sequence[Tensor], target: State) -> tuple[Tensor, ...]:
    """The values of the next node layer."""
    return run_once(Program(source.values, target.values), *given)
