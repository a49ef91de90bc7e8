"""From a captured program to values: constants worked out, copies and casts left out."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from libgraph.cutting import functions
from libgraph.cutting.capture import TRACED, TWIN, Capture, in_double_precision
from libgraph.cutting.values import Argument, Program, Size, Value, replaced, run_once, values_in
from libgraph.errors import BackendError

aten = torch.ops.aten

COPIES = {
    aten.clone.default,
    aten.detach.default,
    aten.detach_.default,
    aten.alias.default,
    aten.contiguous.default,
    aten.lift_fresh_copy.default,
    aten.lift_fresh.default,
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten._to_copy.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
    aten.to.other,
    aten.type_as.default,
    aten.positive.default,
}
"""What leaves numbers as they are, in evaluation and up to their precision."""


NOT_OF_DATA = {
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.empty_like.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
    aten.new_empty.default,
    aten.fill.Scalar,
}
"""What takes of its argument the shape alone."""


FURTHEST = 2**48
"""Beyond the end of any dimension."""


NO_MULTIPLE = "The model has shapes that are no multiple of the number of samples."


class Graph(NamedTuple):
    """All values of a module, in order.

    Attributes:
        values: what is put in first, the output last.
        input: what is put in.
        output: what comes out.
    """

    values: list[Value]
    input: Value
    output: Value


def graph_of(capture: Capture) -> Graph:
    """The values of a captured module.

    Raises:
        BackendError: if it works for one number of samples alone.
    """
    return _Reader(capture).read()


class _Reader:
    """Goes through the captured operations once."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.program = capture.program
        self.of: dict[fx.Node, Any] = {}
        self.values: list[Value] = []
        self.twin: dict[fx.Node, fx.Node] = {}
        if capture.twin is not None:
            self.twin = _paired(self.program.graph, capture.twin.graph)

    def read(self) -> Graph:
        given = self._placeholders()
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self._operation(node)
        (outputs,) = next(n for n in self.program.graph.nodes if n.op == "output").args
        name = self.program.graph_signature.user_outputs[0]
        node = next(n for n in outputs if getattr(n, "name", None) == name)
        output = self.of[node]
        self._name_outputs()
        if not output.depends:
            raise BackendError("What the model gives does not depend on its inputs.")
        return Graph([v for v in self.values if v.depends], given, output)

    def _placeholders(self) -> Value:
        signature = self.program.graph_signature
        tensors: dict[str, Tensor] = {}
        state = {**self.program.state_dict, **self.program.constants}
        for specification in signature.input_specs:
            target = specification.target
            if target is not None and isinstance(state.get(target), Tensor):
                tensors[specification.arg.name] = state[target]
        users = [name for name in signature.user_inputs if isinstance(name, str)]
        given: Value | None = None
        for node in self.program.graph.nodes:
            if node.op != "placeholder":
                continue
            tensor = tensors.get(node.name)
            if node.name in users:
                tensor = self.capture.inputs[users.index(node.name)]
            if node.name in users and users.index(node.name) == 0:
                shape = self._shape(node)
                if not shape or not shape[0].times:
                    raise BackendError(
                        f"The model works for {len(self.capture.inputs[0])} samples alone: take "
                        "their number from x.shape[0], as it is, wherever it is needed."
                    )
                given = Value(
                    "input",
                    shape=shape,
                    depends=True,
                    floating=tensor.is_floating_point(),  # type: ignore[union-attr]
                )
                self.of[node] = given
                self.values.append(given)
            elif tensor is not None:
                self.of[node] = self._constant(node.name, tensor)
        if given is None:
            raise BackendError("The model takes no inputs.")
        return given

    def _constant(self, name: str, tensor: Tensor) -> Value:
        tensor = in_double_precision(tensor)
        shape = tuple(Size(0, size) for size in tensor.shape)
        return Value(name, shape=shape, constant=tensor, floating=tensor.is_floating_point())

    def _operation(self, node: fx.Node) -> None:
        val = node.meta.get("val")
        if isinstance(val, (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)):
            other = self.twin.get(node)
            self.of[node] = self._number(val, None if other is None else other.meta["val"])
            return
        if val is None:
            return
        other = self.twin.get(node)
        args, kwargs = (
            self._given(tree, None if other is None else twin)
            for tree, twin in (
                (node.args, getattr(other, "args", None)),
                (node.kwargs, getattr(other, "kwargs", None)),
            )
        )
        if node.target is operator.getitem and isinstance(args[0], (list, tuple)):
            self.of[node] = args[0][args[1]]
            return
        if (same := self._unchanged(node, args)) is not None:
            self.of[node] = same
            return
        target: Any = node.target
        place, line = _place(node), _line(node)
        value = Value(node.name, target, args, dict(kwargs), place=place, line=line)
        filled = node.target is aten.fill.Tensor and not any(v.depends for v in values_in(args[1:]))
        value.depends = bool(value.sources) and node.target not in NOT_OF_DATA and not filled
        if node.target is aten.view_as_complex.default:
            value.target = functions.as_complex
        if isinstance(val, Tensor):
            value.shape = self._shape(node)
            value.floating, value.complex = val.is_floating_point(), val.is_complex()
            if not value.depends:
                value = self._worked_out(value)
            elif value.target in (aten._to_copy.default, aten.to.dtype) and value.floating:
                like = self._constant("like", torch.empty(0, dtype=torch.float64))
                value.target, value.args, value.kwargs = functions.cast_like, (args[0], like), {}
        elif isinstance(val, (list, tuple)) and not value.depends:
            others = self.twin[node].meta["val"] if node in self.twin else [None] * len(val)
            self.of[node] = [
                self._repeated(
                    replace(value, name=f"{node.name}_{i}"), tensor, self._sizes(part, twin)
                )
                for i, (tensor, part, twin) in enumerate(
                    zip(self._run(value), val, others, strict=True)
                )
            ]
            return
        self.of[node] = value
        self.values.append(value)

    def _unchanged(self, node: fx.Node, args: Sequence[Argument]) -> Value | None:
        """The argument, if the operation leaves it as it is."""
        if not args or not isinstance(args[0], Value) or not isinstance(node.meta["val"], Tensor):
            return None
        (source, val) = args[0], node.meta["val"]
        if source.shape is None:
            return None
        same = source.shape == self._shape(node) and source.floating == val.is_floating_point()
        if node.target in COPIES:
            return source if same else None
        shaped = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
        if node.target in (*shaped, aten.expand.default, aten.slice.Tensor) and same:
            return source
        return None

    def _given(self, tree: Any, twin: Any) -> Any:
        """Arguments as values, and as sizes where they depend on the number of samples."""
        if isinstance(tree, fx.Node):
            return self.of[tree]
        if isinstance(tree, (list, tuple)):
            pairs = zip(tree, [None] * len(tree) if twin is None else twin, strict=True)
            parts = [self._given(part, other) for part, other in pairs]
            return tuple(parts) if isinstance(tree, tuple) else parts
        if isinstance(tree, dict):
            return {k: self._given(v, None if twin is None else twin[k]) for k, v in tree.items()}
        if isinstance(tree, int) and not isinstance(tree, bool):
            # Ends of slices that stand for the last one overflow where torch adds to them.
            tree = max(-FURTHEST, min(FURTHEST, tree))
            return tree if twin is None else self._number(tree, max(-FURTHEST, min(FURTHEST, twin)))
        return tree

    def _number(self, val: Any, twin: Any = None) -> Any:
        val, twin = (_fixed(number) for number in (val, twin))
        if isinstance(val, (int, float, bool)):
            if twin is None or twin == val:
                return val
            times, rest = divmod(int(twin) - int(val), TWIN - TRACED)
            if rest or isinstance(val, (float, bool)):
                raise BackendError(NO_MULTIPLE)
            return Size(times, int(val) - TRACED * times)
        expression = val.node.expr
        symbols = list(expression.free_symbols)
        if not symbols:
            return float(expression) if isinstance(val, torch.SymFloat) else int(expression)
        if any(not str(symbol).startswith("s") for symbol in symbols) or len(symbols) > 1:
            raise BackendError(
                "The model has shapes that depend on its data, not on their number alone: there is "
                "no one function that could be cut."
            )
        at = [int(expression.subs(symbols[0], n)) for n in (5, 6, 9)]
        times = at[1] - at[0]
        if at[2] - at[1] != 3 * times:
            raise BackendError(NO_MULTIPLE)
        return Size(times, at[0] - 5 * times)

    def _shape(self, node: fx.Node) -> tuple[Size, ...]:
        other = self.twin.get(node)
        return self._sizes(node.meta["val"], None if other is None else other.meta["val"])

    def _sizes(self, val: Tensor, other: Tensor | None) -> tuple[Size, ...]:
        others = [None] * val.ndim if other is None else other.shape
        sizes = (self._number(size, twin) for size, twin in zip(val.shape, others, strict=True))
        return tuple(size if isinstance(size, Size) else Size(0, size) for size in sizes)

    def _worked_out(self, value: Value) -> Value:
        """A constant, repeated for all samples where there is one for each."""
        (tensor,) = self._run(value)
        if value.target in (
            aten.empty_like.default,
            aten.new_empty.default,
            aten.empty.memory_format,
        ):
            tensor = torch.zeros_like(tensor)
        return self._repeated(value, tensor, value.shape or ())

    def _repeated(self, value: Value, tensor: Tensor, shape: tuple[Size, ...]) -> Value:
        dims = [i for i, size in enumerate(shape) if size.times]
        if not dims:
            return self._constant(value.name, tensor)
        (dim, *more) = dims
        row = tensor.narrow(dim, 0, 1)
        if more or shape[dim].plus or not torch.equal(row.expand_as(tensor), tensor):
            raise BackendError(
                f"The model makes '{value.name}' of the number of samples, one for each: "
                "samples must not depend on their place in a batch."
            )
        constant = self._constant(f"{value.name}_row", row.clone())
        return Value(
            value.name, functions.spread, (constant, dim, shape[dim]), shape=shape,
            floating=value.floating, place=value.place,
        )  # fmt: skip

    def _run(self, value: Value) -> tuple[Tensor, ...]:
        """Compute something that depends on no data, for as many samples as were captured."""
        like = Value("n", shape=(Size(1, 0),))
        sources = value.sources
        stand_ins = {
            source: Value(source.name, shape=source.shape, constant=torch.zeros(
                source.concrete(len(self.capture.inputs[0])), dtype=torch.float64))
            for source in sources
        }  # fmt: skip
        args, kwargs = (
            replaced(
                tree, lambda leaf: stand_ins.get(leaf, leaf) if isinstance(leaf, Value) else leaf
            )
            for tree in (value.args, value.kwargs)
        )
        copy = Value(value.name, value.target, args, kwargs, shape=value.shape)
        (result,) = run_once(Program([like], [copy]), torch.zeros(len(self.capture.inputs[0])))
        return tuple(result) if isinstance(result, (list, tuple)) else (result,)

    def _name_outputs(self) -> None:
        """Say of which modules each value is the output."""
        for node in self.program.graph.nodes:
            value = self.of.get(node)
            if node.op != "call_function" or not isinstance(value, Value):
                continue
            inside = _stack(node)
            outside = [_stack(user) for user in node.users if user.op == "call_function"]
            leaves = any(user.op == "output" for user in node.users)
            for key in reversed(inside):
                ends = leaves or any(key not in stack for stack in outside)
                if key and ends and key not in value.outputs_of:
                    value.outputs_of.append(key)


def _fixed(number: Any) -> Any:
    """A whole number that torch holds as a symbol."""
    is_symbol = isinstance(number, torch.SymInt) and not number.node.expr.free_symbols
    return int(number.node.expr) if is_symbol else number


def _paired(graph: fx.Graph, other: fx.Graph) -> dict[fx.Node, fx.Node]:
    """The same operations of two captures.

    Raises:
        BackendError: if they are not the same.
    """
    first, second = list(graph.nodes), list(other.nodes)
    same = len(first) == len(second) and all(
        a.op == b.op and (a.op != "call_function" or a.target is b.target)
        for a, b in zip(first, second, strict=True)
    )
    if not same:
        raise BackendError(
            "The model does something else depending on the number of samples: there is no one "
            "function that could be cut."
        )
    return dict(zip(first, second, strict=True))


def _stack(node: fx.Node) -> list[str]:
    """Paths of the modules that an operation runs in, outermost first; `@1` for a second call."""
    paths = []
    for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
        call = re.search(r"@\d+$", key)
        path = path.removeprefix("inner").removeprefix(".")
        if "metadata_hook" in key:
            continue
        paths.append(path + (call.group() if call and path else ""))
    return paths


def _place(node: fx.Node) -> str:
    stack = [path for path in _stack(node) if path]
    return stack[-1] if stack else ""


def _line(node: fx.Node) -> str:
    trace = node.meta.get("stack_trace") or ""
    lines = re.findall(r'File "([^"]+)", line (\d+)', trace)
    return f"{lines[-1][0]}:{lines[-1][1]}" if lines else ""
