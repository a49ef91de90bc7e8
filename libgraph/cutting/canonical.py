"""The same values in few words: norms and attention as one function each, whoever wrote them.

What is matched here is only a suggestion: sections are compared with the values themselves later.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

from libgraph.cutting import functions
from libgraph.cutting.attention_rules import AttentionRules
from libgraph.cutting.graph import Graph
from libgraph.cutting.norm_rules import NormRules
from libgraph.cutting.values import Value, replaced
from libgraph.cutting.writer import VIEWS, as_size, aten, inverse_root


def canonical(graph: Graph) -> Graph:
    """A graph of the same values, in order, in which some operations are others'."""
    writer = _Writer(graph)
    return writer.write()


class _Writer(NormRules, AttentionRules):
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.of: dict[Value, Any] = {}
        self.values: list[Value] = []
        self.names: Counter[str] = Counter()
        self.now: Value = graph.input

    def write(self) -> Graph:
        for value in self.graph.values:
            self.now = value
            if value.target is None:
                self.of[value] = value
                self.values.append(value)
                continue
            args, kwargs = (
                replaced(
                    tree, lambda leaf: self.of.get(leaf, leaf) if isinstance(leaf, Value) else leaf
                )
                for tree in (value.args, value.kwargs)
            )
            if value.target is operator.getitem and isinstance(args[0], (list, tuple)):
                self.of[value] = args[0][args[1]]
            else:
                self.of[value] = self._rewritten(value, args, kwargs)
            result = self.of[value]
            if isinstance(result, Value):
                for path in value.outputs_of:
                    if path not in result.outputs_of:
                        result.outputs_of.append(path)
        output = self.of[self.graph.output]
        needed = _needed(output)
        return Graph([v for v in self.values if v in needed], self.graph.input, output)

    # Rewriting

    def _rewritten(self, value: Value, args: Any, kwargs: dict[str, Any]) -> Any:
        target, shape = value.target, value.shape
        if target in VIEWS and shape is not None:
            return self.new(aten.reshape.default, (args[0], [as_size(s) for s in shape]), shape,
                            called="reshape")  # fmt: skip
        rule = _RULES.get(target)
        if rule is not None:
            try:
                result = rule(self, value, args, kwargs)
            except (TypeError, ValueError, IndexError, AttributeError):
                result = None
            if result is not None:
                return result
        assert target is not None  # noqa: S101
        return self.new(target, args, shape, kwargs)

    def division(self, value: Value, args: Any, kwargs: dict[str, Any]) -> Value | None:
        """By something that depends on data: times its inverse."""
        a, b = args[:2]
        if not (isinstance(b, Value) and b.depends) or kwargs:
            return None
        inverse = self.new(aten.reciprocal.default, (b,), b.shape)
        return self.product(value, (a, inverse), {})

    def product(self, value: Value, args: Any, kwargs: dict[str, Any]) -> Value | None:
        """A division by a deviation, or two factors of one shape."""
        a, b = args[:2]
        if not (isinstance(a, Value) and isinstance(b, Value)):
            return None
        if a.depends and b.depends:
            for stream, inverse in ((a, b), (b, a)):
                found = inverse_root(inverse)
                if found is not None and stream.shape == value.shape:
                    variance, epsilon, factor = found
                    args = (stream, variance, epsilon)
                    y = self.new(functions.divide, args, value.shape, called="normalized")
                    return y if factor == 1 else self.new(aten.mul.Tensor, (y, factor), y.shape)
        return self._broadcast(aten.mul.Tensor, value, a, b)

    def sum(self, value: Value, args: Any, kwargs: dict[str, Any]) -> Value | None:
        a, b = args[:2]
        if kwargs or len(args) > 2 or not (isinstance(a, Value) and isinstance(b, Value)):
            return None
        return self._broadcast(value.target, value, a, b)

    def _broadcast(self, target: Any, value: Value, a: Value, b: Value) -> Value:
        shape = value.shape or ()
        if a.depends and b.depends:
            a, b = (
                part if part.shape == shape
                else self.new(aten.expand.default, (part, [as_size(s) for s in shape]), shape)
                for part in (a, b)
            )  # fmt: skip
        return self.new(target, (a, b), shape)

    def prelu(self, value: Value, args: Any, kwargs: dict[str, Any]) -> Value:
        u, weight = args
        w = weight.constant
        if w.numel() > 1:
            w = w.reshape(-1, *(1,) * (len(u.shape) - 2))
        negative = self.new(aten.neg.default, (u,), u.shape)
        up, down = (self.new(aten.relu.default, (part,), u.shape) for part in (u, negative))
        less = self.new(aten.mul.Tensor, (down, self.constant(-w)), u.shape)
        return self.new(aten.add.Tensor, (up, less), u.shape)

    def glu(self, value: Value, args: Any, kwargs: dict[str, Any]) -> Value:
        u, dim = args[0], args[1] if len(args) > 1 else -1
        half = (value.shape or ())[dim].plus
        parts = [
            self.new(aten.slice.Tensor, (u, dim, at, at + half), value.shape) for at in (0, half)
        ]
        gate = self.new(aten.sigmoid.default, (parts[1],), value.shape)
        return self.new(aten.mul.Tensor, (parts[0], gate), value.shape)


_RULES: dict[Any, Callable[[_Writer, Value, Any, dict[str, Any]], Any]] = {
    aten.layer_norm.default: _Writer.layer_norm,
    aten.rms_norm.default: _Writer.rms_norm,
    aten.group_norm.default: _Writer.group_norm,
    aten.instance_norm.default: _Writer.instance_norm,
    aten.batch_norm.default: _Writer.batch_norm,
    aten._native_batch_norm_legit_no_training.default: _Writer.batch_norm,
    aten.mean.dim: _Writer.mean,
    aten.var.correction: _Writer.variance,
    aten.var.dim: _Writer.variance,
    aten.std.correction: _Writer.variance,
    aten.std.dim: _Writer.variance,
    aten.linalg_vector_norm.default: _Writer.norm,
    aten.norm.ScalarOpt_dim: _Writer.norm,
    aten.div.Tensor: _Writer.division,
    aten.mul.Tensor: _Writer.product,
    aten.add.Tensor: _Writer.sum,
    aten.sub.Tensor: _Writer.sum,
    aten.prelu.default: _Writer.prelu,
    aten._prelu_kernel.default: _Writer.prelu,
    aten.glu.default: _Writer.glu,
    aten.scaled_dot_product_attention.default: _Writer.attention,
    aten.matmul.default: _Writer.weighted,
    aten.bmm.default: _Writer.weighted,
    aten.einsum.default: _Writer.einsum,
    aten.masked_fill.Tensor: _Writer.fill,
}


def _needed(output: Value) -> set[Value]:
    needed: set[Value] = set()
    stack = [output]
    while stack:
        value = stack.pop()
        if value not in needed:
            needed.add(value)
            stack.extend(value.sources)
    return needed
