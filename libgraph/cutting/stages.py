"""What comes next after a node layer: the nearest values that are not affine in it.

From a node layer everything affine is known. What is made of that by one step that is not affine
(an atom: an activation, a product, a variance, a division by its root, attention) comes next, and
the node layer after it holds the atom and what later steps still need. Where the stream is narrower
once the atom is added to it, the node layer is put there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from libgraph.cutting import functions
from libgraph.cutting.convolutions import first_convolutions
from libgraph.cutting.kinds import BINARY, is_affine, is_elementwise, name_of
from libgraph.cutting.values import Program, Value, between, users_of


@dataclass(frozen=True)
class Atom:
    """One step that is not affine.

    Args:
        kind: `pointwise`, `gated`, `square`, `divide`, `attend`, `group` or `other`.
        value: what it makes.
        inputs: what it is made of, affine in the node layer before.
        function: of pointwise ones and of what a gated one is multiplied by.
        epsilon: of divisions.
    """

    kind: str
    value: Value
    inputs: tuple[Value, ...]
    function: Program | None = None
    epsilon: float = 0.0

    @property
    def key(self) -> tuple[str, str, float]:
        """Atoms of one key are taken together."""
        alone = self.kind not in ("pointwise", "gated")
        function = repr(self.function) + _constants(self.function)
        return self.kind, self.value.name if alone else function, self.epsilon


def _constants(function: Program | None) -> str:
    return "" if function is None else repr([b.tolist() for b in function.buffers()])


@dataclass(frozen=True)
class Stage:
    """A step from one node layer to the next.

    Args:
        atoms: that it takes, all of one kind; none where it is affine.
        then: what the node layer after it may hold, the best first.
    """

    atoms: tuple[Atom, ...]
    then: tuple[tuple[Value, ...], ...]


class Surroundings:
    """All that is computed between some values and a target.

    Args:
        live: values of a node layer.
        target: what is to be reached.

    Raises:
        ValueError: if the target depends on more than these values.
    """

    def __init__(self, live: Sequence[Value], target: Value) -> None:
        self.live, self.target = tuple(live), target
        self.order = [value for value in between(live, [target]) if value.depends]
        self.users = users_of([*live, *self.order])
        self.affine = set(live)
        self.root: dict[Value, Value] = {value: value for value in live}
        for value in self.order:
            if is_affine(value) and all(source in self.affine for source in value.sources):
                self.affine.add(value)
                self.root[value] = self._root(value)

    def _root(self, value: Value) -> Value:
        """What a value is a multiple of, up to numbers that are the same everywhere."""
        sources = dict.fromkeys(value.sources)
        if is_elementwise(value):
            roots = {self.root[source] for source in sources}
            if len(roots) == 1:
                return roots.pop()
        return value

    def stage(self) -> Stage:
        """The next one."""
        if self.target in self.affine:
            return Stage((), ((self.target,), *self._in_parts()))
        ready = self._ready()
        first = next((atom for atom in ready if atom.kind != "other"), ready[0])
        atoms = tuple(atom for atom in ready if atom.key == first.key)
        return Stage(atoms, tuple(dict.fromkeys(self._then(atoms))))

    # Atoms

    def _ready(self) -> list[Atom]:
        """Atoms of the node layer, in order."""
        source = self._pointwise_of()
        outputs: dict[Value, list[Value]] = {}
        for value, root in source.items():
            outside = [user for user in self.users[value] if source.get(user) is not root]
            if outside or value is self.target:
                outputs.setdefault(root, []).append(value)
        atoms: list[Atom] = []
        for value in self.order:
            if value in self.affine:
                continue
            if value in source:
                root = source[value]
                ends = outputs.get(root, [])
                if len(ends) > 1:
                    # Several functions of the same: the first step that is not affine alone.
                    if all(arg in self.affine for arg in value.sources):
                        atoms.append(self._pointwise(value, root))
                elif value in ends:
                    gated = self._gated_by(value, source)
                    atoms.append(gated or self._pointwise(value, root))
                continue
            if all(arg in self.affine for arg in value.sources):
                atoms.append(self._atom(value))
        return atoms

    def _pointwise_of(self) -> dict[Value, Value]:
        """Values that are no affine ones, but functions of each number of one that is."""
        source: dict[Value, Value] = {}
        for value in self.order:
            if value in self.affine or not is_elementwise(value):
                continue
            roots = set()
            for arg in value.sources:
                root = self.root[arg] if arg in self.affine else source.get(arg)
                if root is None or root.shape != value.shape:
                    roots = set()
                    break
                roots.add(root)
            if len(roots) == 1:
                source[value] = roots.pop()
        return source

    def _pointwise(self, value: Value, root: Value) -> Atom:
        return Atom("pointwise", value, (root,), Program([root], [value]))

    def _gated_by(self, value: Value, source: dict[Value, Value]) -> Atom | None:
        """The product that a function of one value makes with another, if it is used there."""
        users = self.users[value]
        if len(users) != 1 or name_of(users[0]) != "mul" or value is self.target:
            return None
        (product,) = users
        args = product.args[:2]
        other = args[1] if args[0] is value else args[0]
        if not isinstance(other, Value) or other is value or other not in self.affine:
            return None
        root = source[value]
        return Atom("gated", product, (root, other), Program([root], [value]))

    def _atom(self, value: Value) -> Atom:
        args = value.args
        if value.target is functions.mean_square:
            return Atom("square", value, (args[0],))
        if value.target is functions.divide:
            return Atom("divide", value, (args[0], args[1]), epsilon=args[2])
        if value.target is functions.attend:
            return Atom("attend", value, tuple(args[:3]))
        if value.target is functions.group_square:
            return Atom("group", value, (args[0],))
        if name_of(value) == "mul" and len(value.sources) == 2:
            return Atom("gated", value, tuple(value.args[:2]))
        return Atom("other", value, tuple(dict.fromkeys(value.sources)))

    # What the next node layer holds

    def _then(self, atoms: Sequence[Atom]) -> Iterator[tuple[Value, ...]]:
        taken = [atom.value for atom in atoms]
        within = {v for atom in atoms for v in between(atom.inputs, [atom.value]) if v.depends}
        known = {*self.affine, *taken, *within}
        early = self._frontier(known)
        for value in self.order:
            if value not in known and is_affine(value) and all(s in known for s in value.sources):
                known.add(value)
        late = self._frontier(known)
        if len(late) == 1:
            late = (self._earliest(late[0], taken),)
        if self._is_late_better(early, late, taken):
            yield late
            yield early
        else:
            yield early
            yield late
        # Where an atom's inputs are not alike at every position, they come first.
        rest = [value for value in early if value not in taken]
        inputs = [value for atom in atoms for value in atom.inputs]
        first = tuple(dict.fromkeys([*inputs, *rest]))
        if set(first) != set(self.live):
            yield first
        yield from self._in_parts()

    def _frontier(self, known: set[Value]) -> tuple[Value, ...]:
        """What is known and used by something that is not, and not made of others of its kind."""
        found = [
            value
            for value in [*self.live, *self.order]
            if value in known
            and (value is self.target or any(user not in known for user in self.users[value]))
        ]
        for value in reversed(list(found)):
            others = [other for other in found if other is not value]
            if value is not self.target and others and self._made_of(others, value):
                found = others
        return tuple(found)

    def _made_of(self, others: Sequence[Value], value: Value) -> bool:
        """Whether a value is affine in others."""
        try:
            steps = [step for step in between(others, [value]) if step.depends]
        except ValueError:
            return False
        return all(map(is_affine, steps)) and not first_convolutions(steps)

    def _in_parts(self) -> Iterator[tuple[Value, ...]]:
        """The first convolutions or sums over positions alone."""
        mixing = first_convolutions([v for v in self.order if v in self.affine])
        if not mixing:
            return
        after: set[Value] = set()
        for value in self.order:
            if any(source in after or source in mixing for source in value.sources):
                after.add(value)
        known = {value for value in self.affine if value not in after}
        first = self._frontier(known)
        if first and set(first) != set(self.live):
            yield first

    def _is_late_better(
        self, early: Sequence[Value], late: Sequence[Value], taken: Sequence[Value]
    ) -> bool:
        if len(early) < 2 or not late or _width(late) >= _width(early):
            return False
        new = [value for value in late if value not in self.affine]
        return (
            self.target in late
            or any(self._adds_to_stream(v) and not self._is_activated(v) for v in new)
            or 2 * _width(new) <= _width(taken)
        )

    def _earliest(self, value: Value, taken: Sequence[Value]) -> Value:
        """The first value in a row of affine ones, each made of the one before alone."""
        last = value
        while True:
            sources = dict.fromkeys(value.sources)
            (first, *others) = sources
            if others or first in taken or first in self.affine:
                break
            value = first
        return last if last is self.target and not self._adds_to_stream(value) else value

    def _adds_to_stream(self, value: Value) -> bool:
        """Whether a value is the sum of something and a value of the node layer itself."""
        if name_of(value) not in BINARY & {"add", "sub"}:
            return False
        return any(source in self.live or self._adds_to_stream(source) for source in value.sources)

    def _is_activated(self, value: Value) -> bool:
        """Whether a value goes into activations alone: the node layer is then after these."""
        users = self.users[value]
        return bool(users) and all(is_elementwise(u) and not is_affine(u) for u in users)

    def separators(self) -> list[Value]:
        """Values, in order, that all of the target passes through, the target last."""
        positions = {value: i for i, value in enumerate([*self.live, *self.order])}
        reach = -1
        found = []
        sequence = [*self.live, *self.order]
        last_use = {
            value: max((positions[user] for user in self.users[value]), default=-1)
            for value in sequence
        }
        for i, value in enumerate(sequence):
            if i >= len(self.live) and reach <= i and value in self.order:
                found.append(value)
            reach = max(reach, last_use[value])
        if self.target not in found:
            found.append(self.target)
        return found


def _width(values: Sequence[Value]) -> int:
    total = 0
    for value in values:
        size = 1
        for dim in value.shape or ():
            size *= max(dim.plus + dim.times, 1)
        total += size
    return total
