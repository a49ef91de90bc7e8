"""The weights of a network in coordinates of features, and the module of every entry.

A weight that reads a node layer gets a row per input feature, one that only writes to a node layer
a column per output feature. An entry has the module of its feature, so that a partition of features
is one of parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from libgraph.degeneracy.weights.weights import Weight, weights_of
from libgraph.errors import UsageError
from libgraph.graph.arrays import IndexArray
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.network.basis import Bases, Basis
from libgraph.network.network import Network
from libgraph.sections import Chain, Parallel, Section

ABSENT = 1e-12
"""Share of a feature's norm below which it is not in the coordinates that a weight reads."""


@dataclass(frozen=True, eq=False)
class FeatureWeight:
    """A weight in coordinates of the features at one side of it.

    Args:
        weight: which.
        layer: name of the node layer whose features these are; None if the weight touches none.
        by_input: whether they are what it reads, and not what it writes.
        directions: one unit vector per parameter along that side, a feature's encoder where it is
            read, its decoder where it is written; None for the weight's own coordinates.
        features: which feature of the layer each direction is of; a convolution has one for each
            offset.
        modules: of every entry, row by row; -1 for none.
    """

    weight: Weight
    layer: str | None
    by_input: bool
    directions: Float[Tensor, "directions size"] | None = field(repr=False)
    features: Int[Tensor, " directions"] = field(repr=False)
    modules: Int[Tensor, " entries"] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns in these coordinates."""
        return _shape(self.weight, self.by_input, self.directions)

    def changed(self, jacobian: Float[Tensor, "n size"]) -> Float[Tensor, "n entries"]:
        """Derivatives by the weight's own entries to those by entries in these coordinates."""
        if self.directions is None:
            return jacobian
        blocks = jacobian.unflatten(1, self.weight.shape)
        along = self.directions.to(jacobian)
        turned: Tensor = along @ blocks if self.by_input else blocks @ along.T
        return turned.flatten(1)

    def moved(
        self, change: Float[Tensor, "rows columns"]
    ) -> Float[Tensor, "weight_rows weight_columns"]:
        """The change of the weight itself: C δŴ where it reads, δŴ C⁺ where it writes."""
        if self.directions is None:
            return change
        along = self.directions.to(change)
        return along.T @ change if self.by_input else change @ along

    def modules_under(self, membership: Mapping[str, IndexArray]) -> Int[Tensor, " entries"]:
        """Module of every entry if features had these."""
        rows, columns = self.shape
        if self.layer is None:
            return torch.full((rows * columns,), -1, device=self.features.device)
        modules = torch.from_numpy(membership[self.layer]).to(self.features)[self.features]
        return modules.repeat_interleave(columns) if self.by_input else modules.repeat(rows)


def parameter_modules(
    network: Network, bases: Bases, graph: InteractionGraph
) -> list[FeatureWeight]:
    """All weights in coordinates of features, in the order of `weights_of`, with modules.

    With f = x C a weight W that reads x has x W = f Ŵ and moves by δW = C δŴ, a row per feature;
    one that writes y = g C'⁺ moves by δŴ C'⁺, a column per feature. Directions have unit norm, so
    that a unit change of a parameter is one of the weight. Of a feature only the coordinates count
    that the weight reads or writes. Where those are fewer than the features, such as those of a
    norm beside its residual stream, some changes of the weight have several names. Weights within
    a chain or a function that see no node layer have no module, nor those between several ones.

    Raises:
        UsageError: if the graph has no modules, or the bases are not those of the graph.
    """
    _check(network, bases, graph)
    membership = memberships(network, graph)
    ends: dict[nn.Module, tuple[str | None, str | None]] = {}
    for a, b, section in network.pairs:
        for part, between in _ends(section, a.name, b.name):
            ends[part] = between if part not in ends else (None, None)
    weights = []
    for weight in weights_of(network):
        source, target = ends.get(weight.module, (None, None))
        module = weight.module
        reads = isinstance(module, Section) and weight.factor in module.readers
        writes = isinstance(module, Section) and weight.factor in module.writers
        by_input = reads and source is not None
        layer = source if by_input else target if writes else None
        directions, features = None, torch.empty(0, dtype=torch.long, device=weight.rows.device)
        if layer is not None:
            directions, features = _directions(weight, bases[layer], by_input)
        own = FeatureWeight(weight, layer, by_input, directions, features, features)
        modules = own.modules_under(membership)
        weights.append(FeatureWeight(weight, layer, by_input, directions, features, modules))
    return weights


def memberships(network: Network, graph: InteractionGraph) -> dict[str, IndexArray]:
    """Module of the features of every node layer, -1 for none."""
    return {layer.name: graph.membership(layer.name) for layer in network.node_layers}


def module_count(graph: InteractionGraph) -> int:
    """How many modules the graph has; :class:`UsageError` if none were found."""
    if graph.partition is None or not graph.partition.size:
        raise UsageError(
            "This graph has no modules yet: attach find_communities(graph) by with_partition."
        )
    return graph.partition.size


def _check(network: Network, bases: Bases, graph: InteractionGraph) -> None:
    module_count(graph)
    for layer in network.node_layers:
        if layer.name not in bases:
            raise UsageError(f"There is no basis of node layer '{layer.name}': pass all bases.")
        basis, features = bases[layer.name], graph.layer(layer.name).size
        if len(basis) != features:
            raise UsageError(
                f"The basis of node layer '{layer.name}' has {len(basis)} features, the graph "
                f"{features}: pass the bases that the graph was made with."
            )
        if len(basis.encoder) != layer.size:
            raise UsageError(
                f"The basis of node layer '{layer.name}' is for {len(basis.encoder)} coordinates, "
                f"the network has {layer.size}: pass the bases of this network."
            )


def _ends(
    section: Section, source: str | None, target: str | None
) -> Iterator[tuple[Section, tuple[str | None, str | None]]]:
    """Sections in this one that see a node layer, and which, at both ends."""
    if isinstance(section, Chain):
        last = len(section.parts) - 1
        for index, part in enumerate(section.parts):
            first = index == 0
            yield from _ends(part, source if first else None, target if index == last else None)
    elif isinstance(section, Parallel):
        for branch in section.branches:
            yield from _ends(branch, source, target)
    else:
        yield section, (source, target)


def _directions(
    weight: Weight, basis: Basis, by_input: bool
) -> tuple[Float[Tensor, "directions size"], Int[Tensor, " directions"]]:
    """Directions of features in what the weight reads or writes, and which features these are."""
    encoder = basis.encoder.double().T.contiguous()
    decoder = basis.decoder.double().contiguous()
    features = torch.arange(len(basis), device=weight.rows.device)
    places = weight.columns
    directions, duals = (decoder, encoder)
    if by_input:
        # A convolution has the coordinates once for each offset, one below the other.
        assert isinstance(weight.module, Section)  # noqa: S101
        offsets = len(weight.module.factor(weight.factor)) // len(basis.encoder)
        apart = torch.eye(offsets).to(encoder)
        directions, duals = torch.kron(apart, encoder), torch.kron(apart, decoder)
        features, places = features.repeat(offsets), weight.rows
    places = places.to(directions.device)
    seen, dual = directions[:, places], duals[:, places]
    # What is not there at all, such as the constant where only others are written, is no parameter.
    is_there = (seen.norm(dim=1) > ABSENT * directions.norm(dim=1)) & (
        dual.norm(dim=1) > ABSENT * duals.norm(dim=1)
    )
    present = seen[is_there]
    return present / present.norm(dim=1, keepdim=True), features[is_there.to(features.device)]


def _shape(weight: Weight, by_input: bool, directions: Tensor | None) -> tuple[int, int]:
    rows, columns = weight.shape
    if directions is None:
        return rows, columns
    return (len(directions), columns) if by_input else (rows, len(directions))
