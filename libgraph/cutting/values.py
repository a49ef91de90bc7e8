"""The graph of a module as values: what is computed of what, for any number of samples.

Values know their shapes by sample: each dimension is a·n + b of the number n of samples. A
`Program` computes some values of others, in the precision that it is cast to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

Argument: TypeAlias = Any
"""What an operator takes: values, numbers, and lists of both."""


class Size(NamedTuple):
    """A whole number that depends on the number n of samples: times · n + plus."""

    times: int
    plus: int

    def of(self, n: int) -> int:
        """The number."""
        return self.times * n + self.plus


@dataclass(eq=False)
class Value:
    """Something that a module computes.

    Args:
        name: of the operation in the captured graph.
        target: the operation; None for what is given.
        args: of the operation.
        kwargs: of the operation.
        shape: a size for each dimension; None where it is no tensor.
        constant: of a value that depends on nothing that is put in.
        depends: whether it depends on what is put in.
        floating: whether it holds floating-point numbers.
        complex: whether it holds complex ones.
        place: the module that computes it, by its path.
        outputs_of: paths of modules whose output it is, the innermost first.
        line: file and line of the code that computes it, if known.
    """

    name: str
    target: Callable[..., Any] | None = None
    args: tuple[Argument, ...] = ()
    kwargs: dict[str, Argument] = field(default_factory=dict)
    shape: tuple[Size, ...] | None = None
    constant: Tensor | None = None
    depends: bool = False
    floating: bool = True
    complex: bool = False
    place: str = ""
    outputs_of: list[str] = field(default_factory=list)
    line: str = ""

    def __repr__(self) -> str:
        return f"Value({self.name})"

    @property
    def sources(self) -> list[Value]:
        """Values that depend on what is put in, of which this one is computed."""
        return [value for value in values_in((self.args, self.kwargs)) if value.depends]

    @property
    def batch(self) -> int | None:
        """The one dimension that samples are in, if there is one."""
        dims = [i for i, size in enumerate(self.shape or ()) if size.times]
        return dims[0] if len(dims) == 1 and not self.shape[dims[0]].plus else None  # type: ignore[index]

    def concrete(self, n: int) -> tuple[int, ...]:
        """Its shape for so many samples."""
        return tuple(size.of(n) for size in self.shape or ())


def values_in(tree: Argument) -> Iterator[Value]:
    """All values in arguments."""
    if isinstance(tree, Value):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for part in tree:
            yield from values_in(part)
    elif isinstance(tree, dict):
        yield from values_in(list(tree.values()))


def replaced(tree: Argument, change: Callable[[Argument], Argument]) -> Argument:
    """Arguments with each leaf changed."""
    if isinstance(tree, (list, tuple)) and not isinstance(tree, Size):
        return type(tree)([replaced(part, change) for part in tree])
    if isinstance(tree, dict):
        return {key: replaced(part, change) for key, part in tree.items()}
    return change(tree)


def between(inputs: Sequence[Value], outputs: Sequence[Value]) -> list[Value]:
    """Values to compute, in order, for outputs from inputs; those that depend on neither as well.

    Raises:
        ValueError: if outputs depend on more than the inputs.
    """
    order: list[Value] = []
    done = set(inputs)
    stack: list[tuple[Value, bool]] = [(value, False) for value in reversed(outputs)]
    while stack:
        value, ready = stack.pop()
        if value in done:
            continue
        if ready:
            done.add(value)
            order.append(value)
            continue
        if value.target is None and value.depends:
            raise ValueError(f"'{value.name}' is needed")
        stack.append((value, True))
        stack.extend((source, False) for source in values_in((value.args, value.kwargs)))
    return order


class _Slot(NamedTuple):
    number: int


class Program(nn.Module):
    """Computes some values of others.

    Args:
        inputs: values that are given, each with samples in one dimension.
        outputs: values to compute.

    Raises:
        ValueError: if outputs depend on more than the inputs.
    """

    def __init__(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
        super().__init__()
        order = between(inputs, outputs)
        slots = {value: _Slot(i) for i, value in enumerate([*inputs, *order])}
        self._constants: list[tuple[int, str]] = []
        self._steps: list[tuple[int, Callable[..., Any], Argument, Argument]] = []
        for value in order:
            number = slots[value].number
            if value.constant is not None:
                name = f"constant{len(self._constants)}"
                self.register_buffer(name, value.constant.detach())
                self._constants.append((number, name))
            elif value.target is not None:
                args, kwargs = (
                    replaced(tree, lambda leaf: slots[leaf] if isinstance(leaf, Value) else leaf)
                    for tree in (value.args, value.kwargs)
                )
                self._steps.append((number, value.target, args, kwargs))
        self._inputs = len(inputs)
        self._outputs = [slots[value].number for value in outputs]
        self._size = len(slots)
        first = inputs[0]
        self._batch, self._times = 0, 1
        if first.batch is not None and first.shape is not None:
            self._batch, self._times = first.batch, first.shape[first.batch].times
        self._last = self._last_uses()

    def _last_uses(self) -> list[list[int]]:
        """Which results may be forgotten after each step."""
        last: dict[int, int] = {}
        for i, (_, _, args, kwargs) in enumerate(self._steps):
            for slot in _slots_in((args, kwargs)):
                last[slot.number] = i
        forget: list[list[int]] = [[] for _ in self._steps]
        for number, i in last.items():
            if number not in self._outputs and number >= self._inputs:
                forget[i].append(number)
        return forget

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in order."""
        results: list[Any] = [None] * self._size
        results[: self._inputs] = inputs
        for number, name in self._constants:
            results[number] = getattr(self, name)
        n = inputs[0].shape[self._batch] // self._times if inputs[0].ndim else 1

        def given(leaf: Argument) -> Argument:
            if isinstance(leaf, _Slot):
                return results[leaf.number]
            return leaf.of(n) if isinstance(leaf, Size) else leaf

        for (number, target, args, kwargs), forget in zip(self._steps, self._last, strict=True):
            results[number] = target(*_given(args, given), **_given(kwargs, given))
            for old in forget:
                results[old] = None
        return tuple(results[number] for number in self._outputs)

    def extra_repr(self) -> str:
        """A digest of what it does, so that networks that differ print differently."""
        text = repr([(n, str(t), a, k) for n, t, a, k in self._steps]) + repr(self._outputs)
        return f"steps={len(self._steps)}, sha={hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _given(tree: Argument, given: Callable[[Argument], Argument]) -> Argument:
    if isinstance(tree, (_Slot, Size)):
        return given(tree)
    if isinstance(tree, (list, tuple)):
        return type(tree)([_given(part, given) for part in tree])
    if isinstance(tree, dict):
        return {key: _given(part, given) for key, part in tree.items()}
    return tree


def _slots_in(tree: Argument) -> Iterator[_Slot]:
    if isinstance(tree, _Slot):
        yield tree
    elif isinstance(tree, (list, tuple)) and not isinstance(tree, Size):
        for part in tree:
            yield from _slots_in(part)
    elif isinstance(tree, dict):
        yield from _slots_in(list(tree.values()))


def users_of(values: Iterable[Value]) -> dict[Value, list[Value]]:
    """Who uses each of these values, among them."""
    users: dict[Value, list[Value]] = {value: [] for value in values}
    for value in users:
        for source in dict.fromkeys(value.sources):
            if source in users:
                users[source].append(value)
    return users


def run_once(program: Program, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Without gradients."""
    with torch.no_grad():
        outputs: tuple[Tensor, ...] = program(*inputs)
    return outputs
