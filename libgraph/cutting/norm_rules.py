"""Norms as means of squares and divisions, batch norms as scale and shift."""

from __future__ import annotations

import math
from typing import Any

import torch

from libgraph.cutting import functions
from libgraph.cutting.values import Size, Value
from libgraph.cutting.writer import Writer, as_size, aten, kept_shape


class NormRules(Writer):
    """Rules for norms, whoever wrote them."""

    def layer_norm(self, value: Value, args: Any, kwargs: dict[str, Any]) -> Value:
        """A LayerNorm."""
        u, sizes, weight, bias, eps, *_ = [*args, None, None, 1e-5][:5] if len(args) < 5 else args
        dims = list(range(len(u.shape) - len(sizes), len(u.shape)))
        centred = self.new(functions.centre, (u, dims), u.shape)
        variance = self.new(
            functions.mean_square, (centred, dims), kept_shape(u.shape, dims), called="scale"
        )
        y = self.new(
            functions.divide, (centred, variance, float(eps)), u.shape, called="normalized"
        )
        return self._scaled(y, weight, bias)

    def rms_norm(self, value: Value, args: Any, kwargs: dict[str, Any]) -> Value:
        """An RMSNorm."""
        u, sizes, weight, eps = [*args, None, None][:4]
        dims = list(range(len(u.shape) - len(sizes), len(u.shape)))
        eps = torch.finfo(torch.float64).eps if eps is None else eps
        variance = self.new(
            functions.mean_square, (u, dims), kept_shape(u.shape, dims), called="scale"
        )
        y = self.new(functions.divide, (u, variance, float(eps)), u.shape, called="normalized")
        return self._scaled(y, weight, None)

    def group_norm(self, value: Value, args: Any, kwargs: dict[str, Any]) -> Value:
        """A GroupNorm."""
        u, groups, weight, bias, eps, *_ = [*args, *[None, None, 1e-5][max(0, len(args) - 2) :]]
        return self._grouped(u, int(groups), weight, bias, float(eps))

    def instance_norm(self, value: Value, args: Any, kwargs: dict[str, Any]) -> Value | None:
        """An InstanceNorm: groups of one channel."""
        u, weight, bias, _, _, own, _, eps, *_ = args
        return self._grouped(u, u.shape[1].plus, weight, bias, float(eps)) if own else None

    def _grouped(self, u: Value, groups: int, weight: Any, bias: Any, eps: float) -> Value:
        channels = u.shape[1].plus  # type: ignore[index]
        centred = self.new(functions.group_centre, (u, groups), u.shape)
        by_group = (u.shape[0], Size(0, groups), *u.shape[2:])  # type: ignore[index]
        variance = self.new(functions.group_square, (centred, groups), by_group, called="scale")
        each = self.new(functions.every_channel, (variance, channels), u.shape)
        each = self.new(aten.add.Tensor, (each, eps), u.shape)
        each = self.new(aten.rsqrt.default, (each,), u.shape)
        y = self.new(aten.mul.Tensor, (centred, each), u.shape, called="normalized")
        ones = (1,) * (len(u.shape or ()) - 2)
        return self._scaled(y, *(None if p is None else self.constant(p.constant.reshape(-1, *ones))
                                 for p in (weight, bias)))  # fmt: skip

    def _scaled(self, y: Value, weight: Any, bias: Any) -> Value:
        if weight is not None:
            y = self.new(aten.mul.Tensor, (y, weight), y.shape)
        return y if bias is None else self.new(aten.add.Tensor, (y, bias), y.shape)

    def batch_norm(self, value: Value, args: Any, kwargs: dict[str, Any]) -> Any:
        """A batch norm with running statistics, as scale and shift."""
        if value.target is aten._native_batch_norm_legit_no_training.default:
            u, weight, bias, mean, var, _, eps = args
        else:
            u, weight, bias, mean, var, training, _, eps, *_ = args
            if training:
                return None
        scale = (var.constant + eps).rsqrt()
        scale = scale if weight is None else scale * weight.constant
        shift = -mean.constant * scale
        shift = shift if bias is None else shift + bias.constant
        ones = (1,) * (len(u.shape) - 2)
        scale, shift = (self.constant(t.reshape(-1, *ones)) for t in (scale, shift))
        product = self.new(aten.mul.Tensor, (u, scale), u.shape)
        y = self.new(aten.add.Tensor, (product, shift), u.shape)
        return y if value.target is aten.batch_norm.default else [y, None, None]

    def mean(self, value: Value, args: Any, kwargs: dict[str, Any]) -> Value | None:
        """The mean of squares."""
        square = args[0]
        if not isinstance(square, Value) or square.target not in (
            aten.pow.Tensor_Scalar,
            aten.mul.Tensor,
            aten.square.default,
        ):
            return None
        (u, *rest) = square.args
        if square.target is not aten.square.default and rest[0] not in (2, 2.0, u):
            return None
        if not isinstance(u, Value) or len(args) < 2 or not args[1]:
            return None
        dims = [d % len(u.shape or ()) for d in args[1]]
        kept = self.new(functions.mean_square, (u, dims), kept_shape(u.shape, dims), called="scale")
        keeps = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
        return kept if keeps else self._squeezed(kept, value)

    def variance(self, value: Value, args: Any, kwargs: dict[str, Any]) -> Value | None:
        """Variance and deviation, also where they are unbiased."""
        u, dims = args[0], args[1] if len(args) > 1 else kwargs.get("dim")
        if not dims or not isinstance(u, Value):
            return None
        correction, keeps = kwargs.get("correction", 1), kwargs.get("keepdim", False)
        if value.target in (aten.var.dim, aten.std.dim):
            correction = int(args[2] if len(args) > 2 else kwargs.get("unbiased", True))
            keeps = args[3] if len(args) > 3 else kwargs.get("keepdim", False)
        correction = 1 if correction is None else correction
        dims = [d % len(u.shape or ()) for d in dims]
        count = math.prod(u.shape[d].plus for d in dims)  # type: ignore[index]
        if any(u.shape[d].times for d in dims):  # type: ignore[index]
            return None
        centred = self.new(functions.centre, (u, dims), u.shape)
        v = self.new(
            functions.mean_square, (centred, dims), kept_shape(u.shape, dims), called="scale"
        )
        if correction:
            v = self.new(aten.mul.Tensor, (v, count / (count - correction)), v.shape)
        if value.target in (aten.std.correction, aten.std.dim):
            v = self.new(aten.sqrt.default, (v,), v.shape)
        return v if keeps else self._squeezed(v, value)

    def norm(self, value: Value, args: Any, kwargs: dict[str, Any]) -> Value | None:
        """The length of vectors, as a root of a mean of squares."""
        u, order, dims = (
            args[0],
            args[1] if len(args) > 1 else 2,
            args[2] if len(args) > 2 else None,
        )
        if order not in (2, 2.0) or not dims:
            return None
        dims = [d % len(u.shape) for d in ([dims] if isinstance(dims, int) else dims)]
        count = math.prod(u.shape[d].plus for d in dims)
        v = self.new(functions.mean_square, (u, dims), kept_shape(u.shape, dims), called="scale")
        v = self.new(aten.mul.Tensor, (v, float(count)), v.shape)
        v = self.new(aten.sqrt.default, (v,), v.shape)
        keeps = args[3] if len(args) > 3 else kwargs.get("keepdim", False)
        return v if keeps else self._squeezed(v, value)

    def _squeezed(self, kept: Value, value: Value) -> Value:
        shape = value.shape or ()
        return self.new(
            aten.reshape.default, (kept, [as_size(s) for s in shape]), shape, called="reshape"
        )
