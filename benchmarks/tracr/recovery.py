"""What is true of a compiled program, and ways to score its edges and nodes.

Candidates are all (component, variable u, variable v ≠ u) with u in the stream before the component
and v among what it writes; an edge is true if the part of the component that computes v reads u.
A node is a variable at a node layer, true if something that the output needs still reads it there.
docs/tracr.md has the definitions in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

import libgraph as lg
from libgraph.backend.data import Data
from libgraph.benchmark.compiled import Compiled, load
from libgraph.edges.interactions import interactions
from libgraph.network.network import Network
from libgraph.sections import autodiff
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import Section

INTEGRATIONS = ("gradient", "gauss-legendre:8", "gauss-legendre:32")
HELD = "gauss-legendre:8"
"""The rule for paths on which the constant stays 1."""
OF_NODES = INTEGRATIONS[:2]
"""Through all that follows; more points take minutes."""
CUTS = ("zero", "mean", "resample", "shuffle")
DRAWS = 8
"""How often a variable is replaced by what it is elsewhere."""

Edge = tuple[int, str, str]
"""(component, variable read, variable written)."""
Node = tuple[int, str]
"""(node layer, variable)."""


@dataclass(frozen=True)
class Truth:
    """Which candidates are true, and which of those no value can show.

    Args:
        edges: whether each candidate edge is true.
        nodes: whether each candidate node is true.
        idle: true edges and nodes on whose values nothing depends.
    """

    edges: Mapping[Edge, bool]
    nodes: Mapping[Node, bool]
    idle: frozenset[Edge | Node]


def truth(backend: Compiled) -> Truth:
    """Candidates and what is true of them, from the program's graph."""
    edges: dict[Edge, bool] = {
        (index, *pair): read
        for index, reads in enumerate(backend.reads)
        for pair, read in reads.items()
    }
    stream = {"tokens", "indices"}
    before = []
    idle: set[Edge | Node] = set()
    for index, component in enumerate(backend.description.components):
        before.append(sorted(stream))
        for part in component.parts:
            idle |= {
                (index, name, part.writes) for name in part.idle if name in stream - {part.writes}
            }
        stream |= {part.writes for part in component.parts}
    before.append(sorted(stream))
    needed = needs(backend, lambda part: part.reads.values())
    moving = needs(backend, lambda part: set(part.reads.values()) - set(part.idle))
    nodes = {
        (layer, variable): variable in needed[layer]
        for layer, variables in enumerate(before)
        for variable in variables
    }
    idle |= {node for node in nodes if node[1] in needed[node[0]] - moving[node[0]]}
    return Truth(edges, nodes, frozenset(idle))


def needs(backend: Compiled, reads: Callable[..., Sequence[str]]) -> list[set[str]]:
    """By node layer, the variables on which the output depends there."""
    needed = {backend.description.output.variable}
    layers = [set(needed)]
    for component in reversed(backend.description.components):
        parts = [part for part in component.parts if part.writes in needed]
        needed = needed - {part.writes for part in parts}
        needed |= {name for part in parts for name in reads(part)}
        layers.append(set(needed))
    return layers[::-1]


@dataclass(frozen=True)
class Setting:
    """A program ready to be measured, in float64.

    Args:
        backend: the program.
        network: its network.
        activations: by length of the inputs, those of every node layer `(n, s, d)`.
        truth: what is to be found.
    """

    backend: Compiled
    network: Network
    activations: Sequence[Sequence[Tensor]]
    truth: Truth

    @classmethod
    def of(cls, program: str) -> Setting:
        """Load a program and run it on its inputs."""
        backend = load(program)
        network = backend.network().double()
        samples = backend.samples("train")
        batches = backend.batches("train", samples)
        activations = [list(network.activations(batch.inputs)) for batch in batches]
        return cls(backend, network, activations, truth(backend))

    @property
    def variables(self) -> Mapping[str, list[int]]:
        """Coordinates by variable."""
        return self.backend.variables

    @property
    def data(self) -> Data:
        """All inputs."""
        return Data(self.backend, "train", batch_size=self.backend.samples("train"))

    @property
    def positions(self) -> int:
        """Positions of all inputs together."""
        return sum(x.shape[0] * x.shape[1] for x, *_ in self.activations)


def edges_by_interaction(setting: Setting, quadrature: Quadrature) -> dict[Edge, float]:
    """√(Σ E_ij) over the coordinates j of u and i of v: root mean squares of effects."""
    backend, network = setting.backend, setting.network
    found = interactions(network, {"variables": backend.bases()}, setting.data, quadrature)
    layers = [layer.name for layer in network.node_layers]
    scores = {}
    for index, source, target in setting.truth.edges:
        E = found["variables"][layers[index], layers[index + 1]]
        block = E[setting.variables[target]][:, setting.variables[source]]
        scores[index, source, target] = float(block.sum().sqrt())
    return scores


class Held:
    """A section of activations without their constant, which is 1 throughout.

    Interactions scale it with all else on their path from zero, and so the biases of an MLP.
    """

    def __init__(self, section: Section) -> None:
        self.section, self.d_out, self.positionwise = section, section.d_out, section.positionwise

    def __call__(self, x: Tensor) -> Tensor:
        """What the section makes of them with the constant."""
        return self.section(torch.cat([x[..., :-1], torch.ones_like(x[..., -1:])], dim=-1))


def edges_by_path(setting: Setting, quadrature: Quadrature) -> dict[Edge, float]:
    """As `edges_by_interaction`, from activations whose variables are all zero on."""
    layers = []
    for index, section in enumerate(setting.network.sections):
        eye = torch.eye(section.d_in, dtype=torch.float64)
        total = torch.zeros(section.d_out, section.d_in, dtype=torch.float64)
        for x in (activations[index] for activations in setting.activations):
            total += autodiff.interactions(Held(section), x, x, eye, quadrature)
        layers.append(total / setting.positions)
    return {
        (i, u, v): float(layers[i][setting.variables[v]][:, setting.variables[u]].sum().sqrt())
        for i, u, v in setting.truth.edges
    }


def nodes_by_interaction(
    setting: Setting, quadrature: Quadrature, held: bool = False
) -> dict[Node, float]:
    """The same from each node layer to the outputs, through all sections in between."""
    unembed = lg.sections.Linear(setting.backend.unembed.double())
    scores: dict[Node, float] = {}
    for layer in range(len(setting.network.node_layers)):
        section = lg.sections.chain([*setting.network.sections[layer:], unembed])
        eye = torch.eye(section.d_in, dtype=torch.float64)
        total = torch.zeros(section.d_in, dtype=torch.float64)
        for x in (activations[layer] for activations in setting.activations):
            if held:
                effects = autodiff.interactions(Held(section), x, x, eye, quadrature)
            else:
                effects = section.interactions(x, x, eye, quadrature)
            total += effects.sum(0)
        for variable in (name for at, name in setting.truth.nodes if at == layer):
            mean = total[setting.variables[variable]].sum() / setting.positions
            scores[layer, variable] = float(mean.sqrt())
    return scores


def replaced(
    setting: Setting, layer: int, variable: str, how: str
) -> Iterator[tuple[Sequence[Tensor], Float[Tensor, "n s d"]]]:
    """All activations as they are, and those of a node layer with a variable replaced.

    By length of inputs and draw. What stands at the beginning of the sequence stays.
    """
    which = setting.variables[variable]
    chance = torch.Generator().manual_seed(0)
    pool = torch.cat([every[layer][:, 1:, which].flatten(0, 1) for every in setting.activations])
    for every in setting.activations:
        x = every[layer]
        for _ in range(DRAWS if how in ("resample", "shuffle") else 1):
            cut = x.clone()
            n, s = x.shape[0], x.shape[1] - 1
            if how == "zero":
                cut[:, 1:, which] = 0
            elif how == "mean":
                cut[:, 1:, which] = pool.mean(0)
            elif how == "resample":
                others = torch.randperm(n, generator=chance)
                cut[:, 1:, which] = x[others][:, 1:, which]
            else:
                drawn = torch.randint(len(pool), (n, s), generator=chance)
                cut[:, 1:, which] = pool[drawn]
            yield every, cut


def edges_by_cut(setting: Setting, how: str) -> dict[Edge, float]:
    """Root mean square change of v right after a component that alone reads u replaced."""
    scores = {}
    for index, source in dict.fromkeys((index, source) for index, source, _ in setting.truth.edges):
        section = setting.network.sections[index]
        total, count = torch.zeros(section.d_out, dtype=torch.float64), 0
        for every, cut in replaced(setting, index, source, how):
            change = (section(cut) - every[index + 1])[:, 1:]
            total += change.square().sum((0, 1))
            count += change.shape[0] * change.shape[1]
        for edge in setting.truth.edges:
            if edge[:2] == (index, source):
                scores[edge] = float((total[setting.variables[edge[2]]].sum() / count).sqrt())
    return scores


def nodes_by_cut(setting: Setting, how: str) -> dict[Node, float]:
    """Root mean square change of the outputs when u is replaced in a node layer."""
    unembed = setting.backend.unembed.double()
    scores: dict[Node, float] = {}
    for layer, variable in setting.truth.nodes:
        total, count = 0.0, 0
        for every, cut in replaced(setting, layer, variable, how):
            outputs = setting.network.from_layer(layer, cut)
            change = ((outputs - every[-1]) @ unembed)[:, 1:]
            total += float(change.square().sum())
            count += change.shape[0] * change.shape[1]
        scores[layer, variable] = math.sqrt(total / count)
    return scores


def edge_methods() -> dict[str, Callable[[Setting], dict[Edge, float]]]:
    """Ways to score edges, by name."""
    rules = {name: Quadrature.parse(name) for name in (*INTEGRATIONS, HELD)}
    return (
        {name: partial(edges_by_interaction, quadrature=rules[name]) for name in INTEGRATIONS}
        | {f"{HELD}, 1 held": partial(edges_by_path, quadrature=rules[HELD])}
        | {f"cut: {how}": partial(edges_by_cut, how=how) for how in CUTS}
    )


def node_methods() -> dict[str, Callable[[Setting], dict[Node, float]]]:
    """Ways to score nodes, by name."""
    rules = {name: Quadrature.parse(name) for name in (*OF_NODES, HELD)}
    return (
        {name: partial(nodes_by_interaction, quadrature=rules[name]) for name in OF_NODES}
        | {f"{HELD}, 1 held": partial(nodes_by_interaction, quadrature=rules[HELD], held=True)}
        | {f"cut: {how}": partial(nodes_by_cut, how=how) for how in CUTS}
    )
