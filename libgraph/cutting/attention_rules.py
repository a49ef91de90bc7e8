"""Attention as one function, however it is written out."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from libgraph.cutting import functions
from libgraph.cutting.values import Value
from libgraph.cutting.writer import (
    PRODUCTS,
    SCALAR_OPS,
    SOFTMAX,
    Writer,
    as_size,
    aten,
    is_constant,
    kept_shape,
    scalar_of,
    through,
)


class AttentionRules(Writer):
    """Rules for attention."""

    def attention(self, value: Value, args: Any, kwargs: dict[str, Any]) -> Value | None:
        """`scaled_dot_product_attention`."""
        q, k, v, mask, dropout, causal = [*args, *[None, 0.0, False][max(0, len(args) - 3) :]][:6]
        mask, causal = kwargs.get("attn_mask", mask), kwargs.get("is_causal", causal)
        scale = kwargs.get("scale") or q.shape[-1].plus ** -0.5
        if kwargs.get("dropout_p", dropout):
            return None
        times = q.shape[-3].plus // k.shape[-3].plus if kwargs.get("enable_gqa") else 1
        if times > 1:
            k, v = (
                self.new(aten.repeat_interleave.self_int, (part, times, -3),
                         (*part.shape[:-3], q.shape[-3], *part.shape[-2:]))
                for part in (k, v)
            )  # fmt: skip
        return self.new(functions.attend, (q, k, v, mask, bool(causal), float(scale)), value.shape)

    def weighted(self, value: Value, args: Any, kwargs: dict[str, Any]) -> Value | None:
        """softmax(scale q kᵀ + mask) v, as it is written out."""
        pattern, v = args
        pattern = through(pattern, (aten.reshape.default, aten.expand.default))
        if not isinstance(pattern, Value) or pattern.target not in SOFTMAX:
            return None
        scores, dim = pattern.args[:2]
        rank = len(value.shape or ())
        if dim not in (-1, rank - 1) or not isinstance(v, Value) or not v.depends:
            return None
        scale, mask = 1.0, None
        while isinstance(scores, Value) and scores.target not in PRODUCTS:
            a, *rest = scores.args
            if scores.target is aten.baddbmm.default:
                bias, q, kt = scores.args
                if (isinstance(bias, Value) and bias.depends) or scores.kwargs or mask is not None:
                    return None
                mask = self._times(bias, 1 / scale) if scale != 1 else bias
                return self._attend(value, q, kt, v, mask, scale)
            if scores.target in SCALAR_OPS and isinstance(rest[0], (int, float)):
                scale = scale / rest[0] if scores.target in SCALAR_OPS[2:] else scale * rest[0]
            elif scores.target in SCALAR_OPS[::2] and scalar_of(rest[0]) is not None:
                factor = scalar_of(rest[0]) or 0.0
                scale = scale / factor if scores.target in SCALAR_OPS[2:] else scale * factor
            elif scores.target is aten.add.Tensor and mask is None and is_constant(rest[0]):
                mask = self._times(rest[0], scale) if scale != 1 else rest[0]
            elif mask is None and (found := _hidden(scores)) is not None:
                hidden, scores = found
                mask = self.constant(~hidden)
                continue
            else:
                return None
            scores = a
        if not isinstance(scores, Value) or len(scores.sources) != 2:
            return None
        q, kt = scores.args[:2]
        return self._attend(value, q, kt, v, mask, scale)

    def _times(self, mask: Value, scale: float) -> Value:
        return self.constant(torch.as_tensor(mask.constant * scale))  # type: ignore[operator]

    def _attend(
        self, value: Value, q: Value, kt: Value, v: Value, mask: Value | None, scale: float
    ) -> Value:
        shape = (*(kt.shape or ())[:-2], (kt.shape or ())[-1], (kt.shape or ())[-2])
        k = self.new(aten.transpose.int, (kt, -2, -1), shape)
        return self.new(functions.attend, (q, k, v, mask, False, scale), value.shape)

    def einsum(self, value: Value, args: Any, kwargs: dict[str, Any]) -> Value | None:
        """Scores and weighted sums of attention, as products of matrices; others stay."""
        equation, (a, b) = args[0].replace(" ", ""), args[1]
        if a is b and (square := self._squared(value, equation, a)) is not None:
            return square
        if not (a.depends and b.depends) or "." in equation:
            return None
        inputs, out = equation.split("->")
        first, second = inputs.split(",")
        summed = [c for c in first if c in second and c not in out]
        shared = [c for c in out if c in first and c in second]
        rows = [c for c in out if c in first and c not in second]
        columns = [c for c in out if c in second and c not in first]
        if len(summed) != 1 or len(rows) != 1 or len(columns) != 1:
            return None
        (s,), (r,), (c,) = summed, rows, columns
        if len(first) != len(shared) + 2 or len(second) != len(shared) + 2:
            return None
        left = self._permuted(a, first, [*shared, r, s])
        right = self._permuted(b, second, [*shared, s, c])
        sizes = dict(zip(out, value.shape or (), strict=True))
        order = [*shared, r, c]
        shape = tuple(sizes[name] for name in order)
        inner = Value("product", aten.matmul.default, (left, right), shape=shape, depends=True)
        product = self.weighted(inner, (left, right), {}) or self.new(
            aten.matmul.default, (left, right), shape
        )
        return self._permuted(product, "".join(order), list(out))

    def _squared(self, value: Value, equation: str, u: Value) -> Value | None:
        """The sum of squares over the last dimensions."""
        inputs, out = equation.split("->")
        first, second = inputs.split(",")
        if first != second or not first.startswith(out) or not u.depends:
            return None
        dims = list(range(len(value.shape or ()), len(u.shape or ())))
        if not dims or len(set(first.replace("...", "."))) < len(first.replace("...", ".")):
            return None
        count = math.prod((u.shape or ())[d].plus for d in dims)
        shape = kept_shape(u.shape, dims)
        kept = self.new(functions.mean_square, (u, dims), shape, called="scale")
        sizes = [as_size(size) for size in value.shape or ()]
        mean = self.new(aten.reshape.default, (kept, sizes), value.shape, called="reshape")
        return self.new(aten.mul.Tensor, (mean, float(count)), value.shape)

    def fill(self, value: Value, args: Any, kwargs: dict[str, Any]) -> Value | None:
        """With a number that is the same everywhere, which torch has as a tensor."""
        number = scalar_of(args[2])
        if number is None:
            return None
        return self.new(aten.masked_fill.Scalar, (*args[:2], number), value.shape)

    def _permuted(self, value: Value, names: str, order: list[str]) -> Value:
        dims = [names.index(name) for name in order]
        if dims == list(range(len(dims))):
            return value
        shape = tuple((value.shape or ())[d] for d in dims)
        return self.new(aten.permute.default, (value, dims), shape)


HIDDEN = -1e4
"""Scores from here down are hidden."""


def _hidden(scores: Value) -> tuple[Tensor, Value] | None:
    """Where scores are hidden, and what they are elsewhere, of `masked_fill` and `where`."""
    if scores.target in (aten.masked_fill.Scalar, aten.masked_fill.Tensor):
        shown, where, away = scores.args
    elif scores.target is aten.where.ScalarSelf:
        where, away, shown = scores.args
    elif scores.target in (aten.where.self, aten.where.ScalarOther):
        where, shown, away = scores.args
        if not is_constant(where):
            return None
        if _is_away(shown):
            shown, away = away, shown
        else:
            where = Value("shown", constant=~where.constant.bool())
    else:
        return None
    if not is_constant(where) or not _is_away(away) or not isinstance(shown, Value):
        return None
    return where.constant.bool(), shown


def _is_away(value: object) -> bool:
    """Whether all of a constant is as low as scores that are hidden."""
    if isinstance(value, (int, float)):
        return value <= HIDDEN
    if not isinstance(value, Value) or not is_constant(value) or value.constant is None:
        return False
    return bool(value.constant.le(HIDDEN).all())
