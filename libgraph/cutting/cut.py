"""`lg.cut`: any module of PyTorch as a network of sections between node layers."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from libgraph.backend.state import own_state
from libgraph.cutting.canonical import canonical
from libgraph.cutting.capture import as_inputs, capture, doubled, outputs_of
from libgraph.cutting.checking import (
    LARGEST_ERROR,
    as_captured,
    check_others,
    check_samples,
    difference,
)
from libgraph.cutting.divisors import is_divided_by
from libgraph.cutting.graph import Graph, graph_of
from libgraph.cutting.kinds import name_of
from libgraph.cutting.layouts import Layouts, State, state_of
from libgraph.cutting.network import CutNetwork, Row
from libgraph.cutting.pieces import Builder
from libgraph.cutting.running import agrees, function_of, values_at
from libgraph.cutting.stages import Stage, Surroundings
from libgraph.cutting.values import Program, Value, run_once, users_of
from libgraph.errors import BackendError, UsageError
from libgraph.network.network import NodeLayer
from libgraph.sections import Chain, Function, Section, chain

log = logging.getLogger("libgraph")


COMPARED = 32
"""Samples on which sections are compared with what the module computes."""


LOOKED_AT = 3
"""Steps by which the first node layer is chosen."""


@dataclass(frozen=True)
class Step:
    """A section to a node layer."""

    section: Section
    state: State
    layer: NodeLayer
    function: bool


@own_state()
def cut(
    module: nn.Module,
    example_inputs: Tensor | Sequence[Tensor],
    at: Sequence[str] | str | None = None,
    *,
    inside: bool = True,
    positions: Mapping[str, Sequence[int]] | None = None,
) -> CutNetwork:
    """Cut any module, as it is in evaluation, into a network of sections between node layers.

    Its operations are captured, and each step between two node layers becomes a section with a
    closed form where it is one (linear and pointwise layers, gated ones, convolutions, pooling,
    norms, attention, and sums of these with skips), and a `Function` otherwise. Print the network
    to see which is which.

    Args:
        module: any; it is copied, and left as it is.
        example_inputs: what it takes, samples first, a few of them or many; of several tensors the
            first holds the samples, and the others stay as they are.
        at: submodules whose outputs are node layers, or other values by the names in the table;
            without it node layers are where the stream is narrow, at skip additions and after
            activations.
        inside: without `at`, whether there are node layers inside of blocks as well, such as at the
            two halves of norms, so that nearly all sections are closed forms.
        positions: dimensions that are positions, for values (or `input`) by name, where they are
            not found to be tokens and pixels.

    Returns:
        The network, in double precision.

    Raises:
        BackendError: if the module cannot be captured, branches on its data (naming the line), lets
            samples see each other, or is not what its sections compute, by more than 1e-6.
        UsageError: if `at` names nothing, or nothing that everything passes through.
        DataError: if the example inputs are none.
    """
    inputs = as_inputs(example_inputs)
    copied = doubled(module)
    expected = outputs_of(copied, inputs)
    check_others(copied, inputs)
    captured = capture(copied, inputs)
    check_samples(copied, inputs, expected)
    graph = as_captured(graph_of(captured), canonical, inputs[0], expected)
    cutter = _Cutter(graph, inputs[0], Layouts(graph.values, positions))
    named = [at] if isinstance(at, str) else at
    network = cutter.network(named, inside=inside, how=captured.how)
    with torch.no_grad():
        actual = network(inputs[0])
    network.error = difference(network.last.to_value(actual), expected)
    if not network.error <= LARGEST_ERROR:
        raise BackendError(
            f"Cut into sections the model gives other outputs, by {network.error:.1e} of the "
            "largest: that is a mistake of libgraph, please report it."
        )
    log.info("%s", network.table())
    return network


class _Cutter:
    def __init__(self, graph: Graph, inputs: Tensor, layouts: Layouts) -> None:
        self.graph, self.layouts = graph, layouts
        self.raw = inputs[:COMPARED]
        if len(self.raw) < 8:
            self.raw = self.raw[torch.arange(8) % len(self.raw)]
            if self.raw.is_floating_point():
                noise = torch.randn(
                    self.raw.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
                )
                self.raw = self.raw + 0.1 * noise * self.raw.std(correction=0)
        self.users = users_of(graph.values)
        self.names: dict[str, int] = {}
        self.first_name = ""

    def network(self, at: Sequence[str] | None, *, inside: bool, how: str) -> CutNetwork:
        targets = self._targets(at)
        first, steps = self._first(targets)
        layers = [self._layer(first, self.first_name, first=True)]
        rows = [Row(layers[0].name, first.count, first.width, "", "")]
        sections: list[Section] = []
        waiting: list[Section] = []
        shown: list[Step] = list(steps)
        for i, step in enumerate(shown):
            waiting.append(step.section)
            is_last = i + 1 == len(shown)
            wanted = is_last or (
                step.state.values == (targets[0],) or self._is_named(step.state, targets)
                if at is not None
                else inside or len(step.state.values) == 1
            )
            if wanted:
                section = chain(waiting)
                sections.append(section)
                layers.append(step.layer)
                how = "autodiff" if any(isinstance(p, Function) for p in waiting) else "closed form"
                if how == "closed form" and isinstance(section, Chain) and not section.positionwise:
                    how = "chain"
                kind = type(section).__name__
                rows.append(Row(step.layer.name, step.state.count, step.state.width, kind, how))
                waiting = []
        embed = Embed(self.graph.input, first)
        last = shown[-1].state.layouts[0]
        return CutNetwork(embed, sections, layers, rows, how, last).double()

    def _is_named(self, state: State, targets: Sequence[Value]) -> bool:
        return len(state.values) == 1 and state.values[0] in targets

    # Where to cut

    def _targets(self, at: Sequence[str] | None) -> list[Value]:
        """The values that node layers are asked for at, and the output."""
        output = self.graph.output
        if at is None:
            return [output]
        chosen = [self._named(name) for name in at]
        whole = Surroundings([self.graph.input], output)
        through = {self.graph.input, *whole.separators()}
        for name, value in zip(at, chosen, strict=True):
            if value not in through:
                raise UsageError(
                    f"'{name}' is no place to cut: something passes by it, such as a skip "
                    "connection. Name a value that everything passes through, such as the block "
                    "that it is in."
                )
        order = {value: i for i, value in enumerate(self.graph.values)}
        return sorted({*chosen, output} - {self.graph.input}, key=lambda v: order[v])

    def _named(self, name: str) -> Value:
        if name == "input":
            return self.graph.input
        exact = [v for v in self.graph.values if v.name == name]
        outputs = [v for v in self.graph.values if name in v.outputs_of]
        found = exact or outputs
        if len(found) == 1:
            return found[0]
        known = dict.fromkeys(path for v in self.graph.values for path in v.outputs_of)
        if len(found) > 1:
            names = ", ".join(v.name for v in found)
            raise UsageError(f"'{name}' has several outputs, {names}: name the one that is meant.")
        raise UsageError(
            f"There is no '{name}' in the model that computes anything: take a submodule, such as "
            f"{', '.join(list(known)[:8])}, or a name of the table."
        )

    def _first(self, targets: Sequence[Value]) -> tuple[State, list[Step]]:
        """The first node layer, and the steps from there."""
        output = self.graph.output
        whole = Surroundings([self.graph.input], output)
        candidates = [self.graph.input, *whole.separators()[:-1]]
        possible: list[State] = []
        affine: set[Value] = set()
        for value in candidates:
            if not value.floating or (possible and value not in affine):
                continue
            state = state_of([value], self.layouts)
            if state is None:
                continue
            if not possible:
                affine = Surroundings([value], output).affine
            possible.append(state)
            if value in targets:
                break
        if output is self.graph.input:
            raise BackendError("The model gives what it takes, unchanged: there is nothing to cut.")
        if not possible:
            raise BackendError(
                "The model has no node layer that its outputs are made of: nothing that is made of "
                "its inputs is passed through by everything."
            )

        def functions(state: State) -> int:
            """How many of the first steps are no closed forms."""
            return sum(step.function for step in islice(self._steps(state, targets[:1]), LOOKED_AT))

        counts = [functions(state) for state in possible] if len(possible) > 1 else [0]
        chosen = possible[counts.index(min(counts))]
        self.names.clear()
        left = [t for t in targets if t not in chosen.values]
        self.first_name = self._name(chosen.values)
        return chosen, list(self._steps(chosen, left))

    # From one node layer to the next

    def _steps(self, state: State, targets: Sequence[Value]) -> Iterator[Step]:
        (given,) = run_once(Program([self.graph.input], [state.values[0]]), self.raw)
        at: tuple[Tensor, ...] = (given,)
        for target in targets:
            while state.values != (target,):
                step = self._step(state, target, at)
                at = values_at(state, at, step.state)
                state = step.state
                yield step

    def _step(self, state: State, target: Value, at: Sequence[Tensor]) -> Step:
        around = Surroundings(state.values, target)
        stage = around.stage()
        fallback: State | None = None
        for values in stage.then:
            after = state_of(values, self.layouts, state.count)
            if after is None or set(after.values) == set(state.values):
                continue
            constant = after.values != (self.graph.output,)
            fallback = fallback or after
            section = Builder(state, stage, self.layouts).section(after, constant)
            if section is not None and agrees(section, state, after, constant, at):
                return self._made(section, after, stage, state, function=False)
        if fallback is None:
            fallback = next(
                (
                    after
                    for value in around.separators()
                    if (after := state_of([value], self.layouts)) is not None
                    and value not in state.values
                ),
                None,
            )
        if fallback is None:
            raise BackendError(
                f"The model's '{target.name}' has no dimension of samples: it needs one for each."
            )
        constant = fallback.values != (self.graph.output,)
        section = function_of(state, fallback, constant)
        return self._made(section, fallback, stage, state, function=True)

    def _made(
        self, section: Section, state: State, stage: Stage, before: State, *, function: bool
    ) -> Step:
        new = tuple(value for value in state.values if value not in before.values)
        atoms = tuple(atom.value for atom in stage.atoms if atom.value in new)
        name = self._name(atoms or new or state.values)
        return Step(section, state, self._layer(state, name), function)

    def _layer(self, state: State, name: str, *, first: bool = False) -> NodeLayer:
        if not first and state.values == (self.graph.output,):
            return NodeLayer(name, state.width, constant=False, rotated=False)
        isolated: list[int] = []
        start = 0
        for value, layout in zip(state.values, state.layouts, strict=True):
            if name_of(value) in ("mean_square", "group_square") or is_divided_by(
                value, self.users
            ):
                isolated += range(start, start + layout.width)
            start += layout.width
        return NodeLayer(name, state.width + 1, isolated=tuple(isolated))

    def _name(self, values: Sequence[Value]) -> str:
        """What a node layer is called: the module whose output its newest value is."""
        order = {value: i for i, value in enumerate(self.graph.values)}
        newest = max(values, key=lambda value: order.get(value, -1))
        if newest is self.graph.output:
            name = "output"
        else:
            paths = [path for path in newest.outputs_of if "@" not in path] or newest.outputs_of
            name = newest.name
            if paths:
                inner = [path for path in paths if any(p.startswith(path + ".") for p in paths)]
                name = inner[0] if inner else paths[0]
        number = self.names.get(name, 0)
        self.names[name] = number + 1
        return f"{name}_{number}" if number else name


class Embed(nn.Module):
    """From what a module takes to the first node layer."""

    like: Tensor

    def __init__(self, given: Value, state: State) -> None:
        super().__init__()
        self.program = Program([given], state.values)
        self.state = state
        self.floating = given.floating
        # Follows the network's precision.
        self.register_buffer("like", torch.empty(0, dtype=torch.float64), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Rows with the constant."""
        if self.floating:
            inputs = inputs.to(self.like)
        return self.state.to_rows(self.program(inputs))

    def __deepcopy__(self, memo: dict[int, object]) -> Embed:
        copied = Embed.__new__(Embed)
        nn.Module.__init__(copied)
        copied.program = copy.deepcopy(self.program, memo)
        copied.state, copied.floating = self.state, self.floating
        copied.register_buffer("like", self.like.clone(), persistent=False)
        return copied
