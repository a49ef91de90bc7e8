"""What a pickle would make, found out without making it: what it calls, and how much it asks for.

A few bytes of a pickle can ask for any memory (a long text that is not there, a note under a large
number, a tensor of given size) or time (keys that are tuples of tuples of tuples). All opcodes are
gone through here on a stack of descriptions, before a real unpickler sees them.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pickle import UnpicklingError
from typing import IO, NamedTuple

SHARE = 8
"""Things that calls and keys may come to, for each byte of a pickle."""

FEW = 2**16
"""So many more, however small it is."""

WIDTHS = {
    "ComplexDouble": 16,
    "ComplexFloat": 8,
    "Double": 8,
    "Long": 8,
    "Float": 4,
    "Int": 4,
    "QInt32": 4,
    "BFloat16": 2,
    "Half": 2,
    "Short": 2,
}
"""Bytes of a number in a storage of PyTorch; in all others it is one."""


class Storage(NamedTuple):
    """Numbers that a checkpoint of PyTorch keeps beside its pickle.

    Attributes:
        key: what they go by.
        numbers: how many.
        width: bytes of each.
    """

    key: str
    numbers: int
    width: int

    @property
    def size(self) -> int:
        """Bytes of all."""
        return self.numbers * self.width


def look_through(file: IO[bytes], size: int) -> list[Storage]:
    """Go through one pickle, up to its end.

    Args:
        file: at the beginning of the pickle.
        size: bytes of the file.

    Returns:
        The storages of PyTorch that it names, each once.

    Raises:
        UnpicklingError: if it asks for more than so many bytes can hold, or is damaged.
    """
    machine = _Machine(size)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.step(opcode.name, argument)
    except UnpicklingError:
        raise
    except Exception as error:
        # What is no pickle leads to errors of many kinds.
        raise UnpicklingError(f"damaged ({type(error).__name__})") from None
    return list(machine.storages.values())


class Asks(UnpicklingError):  # noqa: N818
    """A call for an amount of memory, which no data need."""


@dataclass(frozen=True)
class _Global:
    name: str

    @property
    def makes_room(self) -> bool:
        """Whether it gives any amount of memory for a number."""
        module, _, last = self.name.rpartition(".")
        in_torch = module.partition(".")[0] == "torch"
        return last == "bytearray" or (in_torch and last.endswith(("Tensor", "Storage")))


@dataclass(frozen=True)
class _Tuple:
    items: Sequence[object]
    cost: int


@dataclass
class _Box:
    """A list, a mapping or a set."""

    length: int = 0


class _Opaque:
    """Whatever a call gives."""


_MARK, _OPAQUE = object(), _Opaque()


@dataclass
class _Machine:
    size: int
    stack: list[object] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)
    count: int = 0
    spent: int = 0

    def step(self, name: str, argument: object) -> None:
        self.count += 1
        action = getattr(self, f"_{name.lower()}", None)
        if action is not None:
            action(argument)
        elif "PUT" in name and isinstance(argument, int):
            if argument > self.count:
                raise UnpicklingError("a note under a number without end")
            self.memo[argument] = self.stack[-1]
        elif "GET" in name and isinstance(argument, int):
            self.stack.append(self.memo[argument])
        elif name.startswith("EXT") or name == "NEXT_BUFFER":
            self.stack.append(_OPAQUE)
        elif name not in ("PROTO", "FRAME", "STOP", "READONLY_BUFFER"):
            self.stack.append(argument)

    # Stack

    def _mark(self, _: object) -> None:
        self.stack.append(_MARK)

    def _pop(self, _: object) -> None:
        self.stack.pop()

    def _pop_mark(self, _: object) -> None:
        self._from_mark()

    def _dup(self, _: object) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _from_mark(self) -> list[object]:
        items: list[object] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _newtrue(self, _: object) -> None:
        self.stack.append(True)

    def _newfalse(self, _: object) -> None:
        self.stack.append(False)

    # Tuples, of which the same may be in each other again and again

    def _push_tuple(self, items: Sequence[object]) -> None:
        cost = 1 + sum(map(_cost, items))
        if cost > SHARE * self.size + FEW:
            raise UnpicklingError("tuples within tuples without end")
        self.stack.append(_Tuple(items, cost))

    def _empty_tuple(self, _: object) -> None:
        self._push_tuple(())

    def _tuple1(self, _: object) -> None:
        self._push_tuple(self._last(1))

    def _tuple2(self, _: object) -> None:
        self._push_tuple(self._last(2))

    def _tuple3(self, _: object) -> None:
        self._push_tuple(self._last(3))

    def _tuple(self, _: object) -> None:
        self._push_tuple(self._from_mark())

    def _last(self, count: int) -> list[object]:
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    # Lists, mappings and sets

    def _empty_list(self, _: object) -> None:
        self.stack.append(_Box())

    _empty_dict = _empty_set = _empty_list

    def _list(self, _: object) -> None:
        self.stack.append(_Box(len(self._from_mark())))

    def _dict(self, _: object) -> None:
        items = self._from_mark()
        self.stack.append(_Box())
        self._put_in(items[::2], is_hashed=True)

    def _frozenset(self, _: object) -> None:
        items = self._from_mark()
        self.stack.append(_Box())
        self._put_in(items, is_hashed=True)

    def _append(self, _: object) -> None:
        self._put_in(self._last(1))

    def _appends(self, _: object) -> None:
        self._put_in(self._from_mark())

    def _additems(self, _: object) -> None:
        self._put_in(self._from_mark(), is_hashed=True)

    def _setitem(self, _: object) -> None:
        self._put_in(self._last(2)[:1], is_hashed=True)

    def _setitems(self, _: object) -> None:
        self._put_in(self._from_mark()[::2], is_hashed=True)

    def _put_in(self, items: Sequence[object], *, is_hashed: bool = False) -> None:
        if is_hashed:
            self._spend(sum(item.cost for item in items if isinstance(item, _Tuple)))
        box = self.stack[-1]
        if isinstance(box, _Box):
            box.length += len(items)

    # Calls

    def _global(self, argument: object) -> None:
        self.stack.append(_Global(str(argument).replace(" ", ".")))

    def _stack_global(self, _: object) -> None:
        module, name = self._last(2)
        self.stack.append(_Global(f"{module}.{name}"))

    def _inst(self, argument: object) -> None:
        self._call(_Global(str(argument).replace(" ", ".")), self._from_mark())

    def _obj(self, _: object) -> None:
        callee, *arguments = self._from_mark()
        self._call(callee, arguments)

    def _reduce(self, _: object) -> None:
        callee, arguments = self._last(2)
        self._call(callee, arguments.items if isinstance(arguments, _Tuple) else [arguments])

    _newobj = _reduce

    def _newobj_ex(self, _: object) -> None:
        callee, arguments, named = self._last(3)
        items = arguments.items if isinstance(arguments, _Tuple) else [arguments]
        self._call(callee, [*items, named])

    def _build(self, _: object) -> None:
        (state,) = self._last(1)
        self._spend(_cost(state))

    def _call(self, callee: object, arguments: Sequence[object]) -> None:
        self._spend(sum(map(_cost, arguments)))
        for called in (callee, *arguments[:1]):
            # What rebuilds subclasses of tensors calls what it is given first.
            if isinstance(called, _Global) and called.makes_room:
                raise Asks("memory without data")
        if arguments and isinstance(arguments[0], Storage):
            _check_view(arguments[0], arguments[1:])
        self.stack.append(_OPAQUE)

    def _spend(self, cost: int) -> None:
        self.spent += cost
        if self.spent > SHARE * self.size + FEW:
            raise UnpicklingError("more in it than it has bytes for")

    # Storages

    def _persid(self, _: object) -> None:
        self.stack.append(_OPAQUE)

    def _binpersid(self, _: object) -> None:
        (name,) = self._last(1)
        match name:
            case _Tuple(items=("storage", _Global(name=kind), key, _, int(count), *_)):
                kind = kind.rpartition(".")[2].removesuffix("Storage")
                found = Storage(str(key), count, WIDTHS.get(kind, 1))
                known = self.storages.setdefault(found.key, found)
                # One that is named again is the first one.
                self.stack.append(known if known.size >= found.size else found)
                if found.size > known.size:
                    self.storages[found.key] = found
            case _:
                self.stack.append(_OPAQUE)


def _check_view(storage: Storage, rest: Sequence[object]) -> None:
    """Raise an `UnpicklingError` for a tensor beyond the end of its numbers."""
    match rest:
        case (int(offset), _Tuple(items=sizes), _Tuple(items=strides), *_):
            pairs = list(zip(sizes, strides, strict=True))
            if not all(isinstance(n, int) and isinstance(step, int) for n, step in pairs):
                return
            counts: list[tuple[int, int]] = pairs  # type: ignore[assignment]
            last = offset + sum((n - 1) * step for n, step in counts)
            if math.prod(n for n, _ in counts) and not 0 <= last < max(storage.size, 1):
                raise UnpicklingError("a tensor of more numbers than are there")


def _cost(value: object) -> int:
    if isinstance(value, _Tuple):
        return value.cost
    if isinstance(value, str | bytes):
        return len(value)
    return value.length if isinstance(value, _Box) else 1
