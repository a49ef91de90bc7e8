"""Programs compiled by tracr as networks whose variables and true edges are known.

They lie in `programs/`; benchmarks/tracr/compile.py makes them, docs/tracr.md says what is in them.
Node layers lie before each attention layer and each MLP, and at the end. Their coordinates are
directions of the residual stream, each of which belongs to a value of one variable of the program;
what the compiler calls `one` is the constant.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, Field
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import pad

from libgraph.backend.contract import Backend, Batch, Split
from libgraph.backend.options import TypedOptions
from libgraph.errors import UsageError
from libgraph.network.basis import Bases, Basis
from libgraph.network.network import Network, NodeLayer
from libgraph.sections import Attention, Section, SkipMLP
from libgraph.sections.attention.heads import AttentionMask

PROGRAMS = Path(__file__).parent / "programs"
ONE = "one"

Value = bool | int | float | str


class Part(BaseModel):
    """A head of an attention layer, or the hidden units of an MLP that compute one variable.

    Args:
        writes: the variable.
        reads: variables by what is read of them: queries, keys and values, or arguments.
        idle: those of them on whose values nothing depends.
    """

    writes: str
    reads: dict[str, str]
    idle: list[str]


class Component(BaseModel):
    """An attention layer, heads in order, or an MLP."""

    kind: str
    parts: list[Part]


class Output(BaseModel):
    """The variable that is unembedded, and its values if it is one of several."""

    variable: str
    values: list[Value] | None


class Description(BaseModel):
    """What a program's JSON file says."""

    name: str
    says: str
    versions: dict[str, str]
    longest: int
    tokens: list[Value]
    beginning: str
    padding: str
    coordinates: list[str]
    variables: dict[str, list[int]]
    output: Output
    components: list[Component]
    inputs: list[list[Value]]
    outputs: list[list[Value | None]]


class Embedding(nn.Module):
    """Tokens `(n, s)`, the beginning of the sequence first, to the residual stream `(n, s, d)`."""

    def __init__(self, tokens: Float[Tensor, "v d"], positions: Float[Tensor, "s d"]) -> None:
        super().__init__()
        self.register_buffer("tokens", tokens)
        self.register_buffer("positions", positions)
        self.tokens: Tensor
        self.positions: Tensor

    def forward(self, tokens: Int[Tensor, "n s"]) -> Float[Tensor, "n s d"]:
        """A token's row and its position's."""
        return self.tokens[tokens] + self.positions[: tokens.shape[1]]


class ProgramOptions(TypedOptions):
    """Which program, and which of its inputs."""

    program: str = Field("reverse", description="name of a file in libgraph/benchmark/programs")
    length: int | None = Field(None, ge=2, description="only inputs of so many tokens; all if none")


class Compiled(Backend):
    """A compiled program; a sample is an input with the program's outputs."""

    name = "tracr"
    summary = "programs compiled to transformers whose edges are known"
    Options = ProgramOptions

    @cached_property
    def description(self) -> Description:
        """What the program's file says.

        Raises:
            UsageError: if there is no such program.
        """
        path = PROGRAMS / f"{self._options.program}.json"
        if not path.is_file():
            raise UsageError(
                f"There is no compiled program '{self._options.program}': "
                f"choose from {', '.join(names())}."
            )
        return Description.model_validate(json.loads(path.read_text(encoding="utf-8")))

    @property
    def _options(self) -> ProgramOptions:
        assert isinstance(self.options, ProgramOptions)  # noqa: S101  (what `Options` says)
        return self.options

    @cached_property
    def _pairs(self) -> list[tuple[list[Value], list[Value | None]]]:
        """Inputs with the program's outputs."""
        described, length = self.description, self._options.length
        pairs = zip(described.inputs, described.outputs, strict=True)
        chosen = [pair for pair in pairs if length in (None, len(pair[0]))]
        if not chosen:
            raise UsageError(
                f"'{described.name}' has no inputs of {length} tokens: "
                f"take up to {described.longest}."
            )
        return chosen

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        self.description  # noqa: B018  (says so if there is no such program)
        return load_file(PROGRAMS / f"{self._options.program}.safetensors")

    @cached_property
    def order(self) -> list[int]:
        """Directions of the residual stream in the order of the coordinates, `one` left out."""
        labels = self.description.coordinates
        return [index for index, label in enumerate(labels) if label != ONE]

    @cached_property
    def variables(self) -> dict[str, list[int]]:
        """Coordinates of each variable."""
        place = {direction: coordinate for coordinate, direction in enumerate(self.order)}
        variables = self.description.variables
        return {name: [place[i] for i in which] for name, which in variables.items()}

    @cached_property
    def reads(self) -> list[dict[tuple[str, str], bool]]:
        """Of each component, for variables (u, v): whether the part that computes v reads u.

        All u in the stream before it and all v that it computes, u ≠ v.
        """
        stream, found = {"tokens", "indices"}, []
        for component in self.description.components:
            found.append(
                {
                    (variable, part.writes): variable in part.reads.values()
                    for part in component.parts
                    for variable in sorted(stream - {part.writes})
                }
            )
            stream |= {part.writes for part in component.parts}
        return found

    def network(self) -> Network:
        """Attention layers and MLPs between node layers `0.attention`, `1.mlp`, …, `output`."""
        weights, components = self._weights, self.description.components
        size = len(self.order) + 1
        embed = Embedding(self._columns(weights["tokens"]), self._columns(weights["positions"]))
        # The constant is in every token's row, whether the program needs it or not.
        embed.tokens[:, -1] = 1
        sections = [self._section(i, component) for i, component in enumerate(components)]
        layers = [NodeLayer(f"{i}.{c.kind}", size) for i, c in enumerate(components)]
        return Network(embed, sections, [*layers, NodeLayer("output", size)])

    def _section(self, index: int, component: Component) -> Section:
        def weight(name: str) -> Tensor:
            return self._weights[f"{index}.{name}"]

        skip = torch.eye(len(self.order) + 1)
        bias = "outer_bias" if component.kind == "mlp" else "output_bias"
        skip[-1] += self._columns(weight(bias))
        if component.kind == "mlp":
            inner = self._rows(weight("inner"), weight("inner_bias"))
            return SkipMLP(skip, inner, self._columns(weight("outer")))
        query, key, value = (
            self._rows(weight(name), weight(f"{name}_bias")) for name in ("query", "key", "value")
        )
        output = self._columns(weight("output"))
        mask = AttentionMask(causal=False)
        heads = len(component.parts)
        return Attention(skip, query, key, value, output, heads=heads, mask=mask)

    def _rows(self, weight: Tensor, bias: Tensor) -> Float[Tensor, "d h"]:
        """What reads the stream; `one` and the bias are read from the constant."""
        labels = self.description.coordinates
        constant = bias + (weight[labels.index(ONE)] if ONE in labels else 0)
        return torch.cat([weight[self.order], constant.unsqueeze(0)])

    def _columns(self, weight: Tensor) -> Float[Tensor, "... d"]:
        """What writes into the stream; nothing writes into the constant."""
        return pad(weight[..., self.order], (0, 1))

    @cached_property
    def unembed(self) -> Float[Tensor, "d outputs"]:
        """From the last node layer to outputs: values of the output variable, or its number."""
        zeros = torch.zeros(len(self.description.coordinates))
        return self._rows(self._weights["unembed"], zeros[: self._weights["unembed"].shape[1]])

    def samples(self, split: Split) -> int:
        """Number of inputs, the same in both splits."""
        return len(self._pairs)

    def batches(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """Inputs of one length at a time; targets are -1 or NaN where the program has no value."""
        described = self.description
        rows = {value: row for row, value in enumerate(described.tokens)}
        values = described.output.values
        for _, group in groupby(self._pairs, key=lambda pair: len(pair[0])):
            inputs, outputs = zip(*group, strict=True)
            tokens = [[rows[token] for token in (described.beginning, *row)] for row in inputs]
            targets = [[code(value, values) for value in row] for row in outputs]
            for start in range(0, len(tokens), batch_size):
                chosen = slice(start, start + batch_size)
                yield Batch(torch.tensor(tokens[chosen]), torch.tensor(targets[chosen]))

    def score(self, outputs: Float[Tensor, "n s d"], targets: Tensor) -> Float[Tensor, " n"]:
        """Share of positions with the program's own output; 1 where it has none anywhere."""
        found = (outputs @ self.unembed.to(outputs))[:, 1:]
        if self.description.output.values is None:
            right, known = (found[..., 0] - targets).abs() < 1e-3, ~targets.isnan()
        else:
            right, known = found.argmax(-1) == targets, targets >= 0
        return 1 - (known & ~right).sum(1) / known.sum(1).clamp(min=1)

    def bases(self) -> Bases:
        """The program's variables as features: every coordinate is one, in every node layer."""
        eye = torch.eye(len(self.order) + 1, dtype=torch.float64)
        basis = Basis(eye, eye, torch.ones(len(eye), dtype=torch.float64), 1, rotated=False)
        layers = [f"{i}.{c.kind}" for i, c in enumerate(self.description.components)]
        return dict.fromkeys([*layers, "output"], basis)


def code(value: Value | None, values: Sequence[Value] | None) -> float | int:
    """A program's value as a target: its number among all, or itself."""
    if values is None:
        return float("nan") if value is None else float(value)
    return -1 if value is None else values.index(value)


def names() -> list[str]:
    """Programs there are fixtures of."""
    return sorted(path.stem for path in PROGRAMS.glob("*.json"))


def load(program: str) -> Compiled:
    """A compiled program.

    Raises:
        UsageError: if there is none of this name.
    """
    backend = Compiled(ProgramOptions(program=program))
    backend.description  # noqa: B018
    return backend
