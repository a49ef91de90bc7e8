"""The order of layers, where a file does not keep it: as told, by numbers, or by what fits.

The alphabet says nothing of a network: `fc_hidden` comes before `fc_in` in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from libgraph.backend import BackendError, UsageError

STEPS = 20_000
"""How many beginnings of an order are tried."""


def in_order(
    shapes: Mapping[str, Sequence[int]],
    where: str,
    *,
    keeps_order: bool,
    order: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
) -> list[str]:
    """Names of layers in the order in which they act.

    Args:
        shapes: of the weights by layer, outputs first, then inputs.
        where: what to call the state dict in messages.
        keeps_order: whether the names are in the order of the model.
        order: the names in order, if that is known.
        sizes: of the node layers, if they are known.

    Raises:
        UsageError: if `order` does not name each layer once.
        BackendError: if no order fits, or more than one, or a file's own order contradicts numbers.
    """
    names = list(shapes)
    if order is not None:
        _check_order(order, names, where)
        return list(order)
    if keeps_order:
        return _as_kept(names, shapes, where)
    if len({_kind(name) for name in names}) == 1:
        return sorted(names, key=_numbers)
    countable = sizes is None or len(sizes) == len(shapes) + 1
    if not countable or any(len(shape) < 2 for shape in shapes.values()):
        # Whoever reads the layers says what is wrong with them.
        return names
    fitting = _fitting(shapes, sizes)
    first, second = next(fitting, None), next(fitting, None)
    if first is None and any(len(shape) > 2 for shape in shapes.values()):
        return sorted(names, key=lambda name: -len(shapes[name]))
    if first is None:
        raise BackendError(
            f"{where}: by their sizes the layers {', '.join(names)} follow each other in no order."
        )
    if second is not None:
        raise BackendError(
            f"{where}: a safetensors file does not keep the order of layers, and more than one "
            f"fits: name {', '.join(names)} in theirs, as order=FIRST,…,LAST."
        )
    return first


def _as_kept(names: list[str], shapes: Mapping[str, Sequence[int]], where: str) -> list[str]:
    """Names in the order of their file, unless their numbers tell of another: 0, 10, 2.

    Whoever sorts a state dict by name writes such files, and models do not name their layers so.
    """
    by_number = sorted(names, key=_numbers)
    if len({_kind(name) for name in names}) > 1 or by_number == names:
        return names
    fitting = [order for order in (names, by_number) if _follow(order, shapes)]
    if len(fitting) == 1:
        return fitting[0]
    raise BackendError(
        f"{where}: the layers are in the order {', '.join(names)}, which is not that of their "
        "numbers: say which is theirs, as order=FIRST,…,LAST."
    )


def _follow(order: Sequence[str], shapes: Mapping[str, Sequence[int]]) -> bool:
    """Whether each layer reads what the one before it gives."""
    pairs = pairwise(order)
    return all(shapes[before][0] == shapes[after][1] for before, after in pairs)


def _check_order(order: Sequence[str], names: Sequence[str], where: str) -> None:
    for name in order:
        if name not in names or order.count(name) > 1:
            what = "twice" if name in names else "which is none"
            raise UsageError(
                f"{where}: order= names '{name}' {what}; the layers are {', '.join(names)}."
            )
    for name in names:
        if name not in order:
            raise UsageError(f"{where}: order= leaves out the layer '{name}'.")


def _kind(name: str) -> str:
    """A name without its numbers."""
    return re.sub(r"\d+", "#", name)


def _numbers(name: str) -> tuple[tuple[int, str], ...]:
    """Its numbers, to sort by: length and digits, as Python refuses to read very long ones."""
    digits = (number.lstrip("0") for number in re.findall(r"\d+", name))
    return tuple((len(number), number) for number in digits)


def _fitting(
    shapes: Mapping[str, Sequence[int]], sizes: Sequence[int] | None
) -> Iterator[list[str]]:
    """Orders in which each layer reads what the one before it gives.

    Those that differ in their numbers alone come in the order of these, convolutions before
    matrices. Where too many would have to be tried, two are made up: the order is not known.
    """
    queues: dict[str, list[str]] = {}
    for name in sorted(shapes, key=_numbers):
        queues.setdefault(_kind(name), []).append(name)
    steps = 0

    def follow(done: list[str]) -> Iterator[list[str]]:
        nonlocal steps
        steps += 1
        if len(done) == len(shapes):
            yield list(done)
            return
        for queue in queues.values():
            if not queue or steps > STEPS:
                continue
            name = queue[0]
            if _fits(name, done):
                queue.pop(0)
                yield from follow([*done, name])
                queue.insert(0, name)

    def _fits(name: str, done: Sequence[str]) -> bool:
        shape = shapes[name]
        if sizes is not None and tuple(sizes[len(done) :][:2]) != (shape[1], shape[0]):
            return False
        if not done:
            return len(shape) == max(map(len, shapes.values()))
        before = shapes[done[-1]]
        return before[0] == shape[1] and len(shape) <= len(before)

    yield from follow([])
    if steps > STEPS:
        yield from (list(shapes), list(shapes))
