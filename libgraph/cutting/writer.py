"""Writing values anew, and what the rules of rewriting look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from libgraph.cutting import functions
from libgraph.cutting.values import Argument, Size, Value

aten = torch.ops.aten

VIEWS = (aten.view.default, aten._unsafe_view.default, aten.view_as.default)

DIVISIONS = (aten.div.Tensor, aten.true_divide.Tensor)

SCALAR_OPS = (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)

PRODUCTS = (aten.matmul.default, aten.bmm.default)

UNSQUEEZED = (aten.unsqueeze.default, aten.reshape.default)

SOFTMAX = (aten.softmax.int, aten._softmax.default)


class Writer:
    """Writes values in the place of one that is looked at.

    Attributes:
        values: that were written, in order.
        names: how often each name was given.
        now: the value whose place is taken.
    """

    values: list[Value]
    names: Counter[str]
    now: Value

    def new(
        self,
        target: Callable[..., Any],
        args: Sequence[Argument],
        shape: tuple[Size, ...] | None,
        kwargs: dict[str, Argument] | None = None,
        *,
        called: str | None = None,
    ) -> Value:
        """A further value, in the place of the one that is being written."""
        stem = called or getattr(target, "__name__", str(target)).split(".")[0].strip("_")
        base = f"{self.now.place}.{stem}" if self.now.place else stem
        number = self.names[base]
        self.names[base] += 1
        value = Value(
            f"{base}_{number}" if number else base, target, tuple(args), kwargs or {}, shape,
            depends=True, place=self.now.place, line=self.now.line,
        )  # fmt: skip
        value.floating, value.complex = self.now.floating, self.now.complex
        value.depends = bool(value.sources)
        self.values.append(value)
        return value

    def constant(self, tensor: torch.Tensor) -> Value:
        """A constant."""
        return Value("constant", shape=tuple(Size(0, s) for s in tensor.shape), constant=tensor)


def as_size(size: Size) -> Size | int:
    """A size as an argument."""
    return size if size.times else size.plus


def kept_shape(shape: Any, dims: Sequence[int]) -> tuple[Size, ...]:
    """A shape where some dimensions are summed up and kept."""
    return tuple(Size(0, 1) if i in dims else size for i, size in enumerate(shape))


def is_constant(value: object) -> bool:
    """Whether it is a value that is known."""
    return isinstance(value, Value) and value.constant is not None


def scalar_of(value: object) -> float | None:
    """The number in a constant of one element."""
    if isinstance(value, Value) and value.constant is not None and value.constant.numel() == 1:
        return float(value.constant)
    return None


def through(value: Any, targets: Sequence[Any]) -> Any:
    """What a value is that reshapes leave as it is."""
    while (
        isinstance(value, Value) and value.target in targets and value.shape == value.args[0].shape
    ):
        value = value.args[0]
    return value


def inverse_root(value: Value) -> tuple[Value, float, float] | None:
    """v, ε and c where a value is c (v + ε)^{-1/2} of a mean of squares."""
    if value.target in (aten.expand.default, *UNSQUEEZED):
        return inverse_root(value.args[0])
    inside: Any = None
    if value.target is aten.rsqrt.default or (
        value.target is aten.pow.Tensor_Scalar and value.args[1] == -0.5
    ):
        inside = value.args[0]
    elif value.target is aten.reciprocal.default:
        root = value.args[0]
        if root.target is aten.sqrt.default or (
            root.target is aten.pow.Tensor_Scalar and root.args[1] == 0.5
        ):
            inside = root.args[0]
    if not isinstance(inside, Value):
        return None
    inside = _kept(inside)
    epsilon, factor = 0.0, 1.0
    while inside.target in (aten.add.Tensor, aten.add.Scalar, *SCALAR_OPS[:2]):
        number = inside.args[1]
        constant = scalar_of(number) if isinstance(number, Value) else number
        if not isinstance(constant, (int, float)) or inside.kwargs:
            return None
        if inside.target in SCALAR_OPS[:2]:
            if constant <= 0:
                return None
            # (c v + ε)^{-1/2} is c^{-1/2} (v + ε/c)^{-1/2}.
            epsilon, factor = epsilon / constant, factor * constant**-0.5
        else:
            epsilon += constant
        inside = _kept(inside.args[0])
    return (inside, epsilon, factor) if inside.target is functions.mean_square else None


def _kept(value: Value) -> Value:
    """The mean of squares that was squeezed, and has its dimensions still."""
    inner = value.args[0] if value.target is aten.reshape.default else value
    is_mean = isinstance(inner, Value) and inner.target is functions.mean_square
    return inner if is_mean else value
