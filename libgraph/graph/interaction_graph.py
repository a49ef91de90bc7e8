"""The interaction graph: node layers, features, edges between neighbouring layers, modules.

This is the result that everything after the analysis reads: community detection, sparsity,
the picture, Gephi. It is numbers and names only; it knows nothing of torch, models, files or
pictures. Edges stay dense arrays ``[out_feature, in_feature]``, one per layer pair, and a feature
is known by its id ``"<layer>/<index>"``, so that millions of edges cost no objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from libgraph.errors import DataError, MissingExtra, NumericalError, TooLarge, UsageError
from libgraph.graph.arrays import FloatArray, IndexArray, Pair, read_only
from libgraph.graph.features import FeatureLabel, LayerFeatures, feature_ids
from libgraph.graph.networks import weighted_network

if TYPE_CHECKING:
    import igraph
    import networkx

    from libgraph.graph.frames import Frames
    from libgraph.graph.partition import Partition
    from libgraph.graph.selection import Chosen

EDGES_PER_FEATURE = 5
"""Where no ε is known, a layer pair keeps this many times as many edges as it has features."""

WEIGHT_FLOOR = 0.01
"""Smallest weight of a kept edge: at E = ε the clustering weight is 0, which Gephi deletes."""


class KeptEdges(NamedTuple):
    """The edges of one layer pair that are drawn and exported, as columns of equal length.

    Attributes:
        inputs: features of the layer that they come from, shape ``(edges,)``.
        outputs: features of the layer that they lead to, likewise.
        interaction: E.
        weight: what clustering and files have of it.
    """

    inputs: IndexArray
    outputs: IndexArray
    interaction: FloatArray
    weight: FloatArray


@dataclass(frozen=True)
class _Derived:
    """What was computed from the edges and ε of a graph, by layer pair.

    Of kept edges only the places are remembered: what else there is to know of them is looked up
    faster than memory for it is found.

    Args:
        weights: Clustering weights, shape ``(out, in)``.
        kept: Input and output features of the kept edges.
    """

    weights: dict[Pair, FloatArray] = field(default_factory=dict)
    kept: dict[Pair, tuple[IndexArray, IndexArray]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class InteractionGraph:
    """A layered graph of features and their interactions.

    It does not change, and remembers its clustering weights and kept edges: each is computed once,
    when it is first asked for, and shared with graphs that differ in modules or labels alone.

    Args:
        layers: Node layers from input to output.
        edges: By ``(input layer, output layer)``, the interactions E, shape ``(out, in)``. The
            graph has read-only views of them.
        epsilon: By layer pair, ε, the smallest edge that ablation kept; pairs may be missing.
        partition: The modules, once found.

    Raises:
        DataError: If names or shapes disagree, or an ε is not positive.
        NumericalError: If an edge is negative or not finite; it names the pair.
    """

    layers: tuple[LayerFeatures, ...]
    edges: Mapping[Pair, FloatArray]
    epsilon: Mapping[Pair, float] = field(default_factory=dict)
    partition: Partition | None = None
    _derived: _Derived = field(default_factory=_Derived, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        edges = {
            pair: read_only(np.asarray(matrix, dtype=np.float64).view())
            for pair, matrix in self.edges.items()
        }
        object.__setattr__(self, "edges", edges)
        _check(self)

    def __repr__(self) -> str:
        features = sum(layer.size for layer in self.layers)
        modules = "no" if self.partition is None else self.partition.size
        parts = f"{len(self.layers)} node layers, {features} features, {modules} modules"
        return f"<{type(self).__name__}: {parts}>"

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows of it: the picture, if there is matplotlib and it is not large."""
        # A graph knows no pictures: it asks the public face, which knows both.
        import libgraph

        try:
            return libgraph.draw(self)
        except (MissingExtra, TooLarge):
            return None

    def layer(self, name: str) -> LayerFeatures:
        """The node layer of that name.

        Raises:
            UsageError: If there is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = ", ".join(layer.name for layer in self.layers)
        raise UsageError(f"There is no node layer {name!r}: choose one of {names}.")

    def weights(self) -> dict[Pair, FloatArray]:
        """Clustering weights by layer pair, shape ``(out, in)``, as read-only arrays.

        .. math:: w_{ij} = \\max(0, \\log_{10}(E_{ij} / ε)) \\text{ or, where no ε is known, }
                  w_{ij} = \\sqrt{E_{ij}}

        Isolated features and unrotated layers have weight 0. The two kinds of weight are not on
        one scale: give an ε to all pairs or to none. Source: arXiv 2405.10928, section 4.
        """
        weights = self._derived.weights
        for pair in self.edges:
            if pair not in weights:
                matrix = self._between(pair, clustered=True)
                weights[pair] = read_only(_weight(matrix, self.epsilon.get(pair)))
        return dict(weights)

    def kept_edges(self, pair: Pair) -> KeptEdges:
        """The edges of a layer pair worth showing, in row-major order of ``[out, in]``.

        These are E ≥ ε, as many as ablation needed, or, where no ε is known, the largest
        ``EDGES_PER_FEATURE * (out + in)``. Edges from and to isolated features are left
        out; edges of unrotated layers are not. The weight is that of :meth:`weights`, at least
        ``WEIGHT_FLOOR`` where an ε is known. The arrays are read-only.
        """
        epsilon = self.epsilon.get(pair)
        if pair not in self._derived.kept:
            self._derived.kept[pair] = self._choose_edges(pair, epsilon)
        inputs, outputs = self._derived.kept[pair]
        interaction = self.edges[pair][outputs, inputs]
        floor = 0.0 if epsilon is None else WEIGHT_FLOOR
        weight = np.maximum(_weight(interaction, epsilon), floor)
        return KeptEdges(inputs, outputs, read_only(interaction), read_only(weight))

    def error_share(self, name: str) -> float | None:
        """What share of a layer's interactions with the next one its dictionary's error has.

        Those of the constant and the like aside, on both sides; None where it has no error, or
        where nothing comes after it.
        """
        error = self.layer(name).error
        onward = next((pair for pair in self.edges if pair[0] == name), None)
        if error is None or onward is None:
            return None
        received = self.edges[onward][self.layer(onward[1]).isolated :, error:].sum(0)
        total = float(received.sum())
        return float(received[0]) / total if total > 0 else 0.0

    def to_pandas(self) -> Frames:
        """Features and kept edges as two data frames, ``nodes`` and ``edges``.

        Raises:
            MissingExtra: If pandas is missing.
        """
        from libgraph.graph.frames import to_pandas

        return to_pandas(self)

    def to_networkx(self) -> networkx.DiGraph[str]:
        """Features and kept edges with all their attributes, from input to output."""
        from libgraph.graph.frames import to_networkx

        return to_networkx(self)

    def subgraph(
        self,
        features: Chosen | None = None,
        *,
        module: int | Sequence[int] | None = None,
        layers: Chosen | None = None,
        between: tuple[Chosen, Chosen] | None = None,
    ) -> InteractionGraph:
        """A part of the graph, whose features keep their ids; see ``libgraph.graph.selection``."""
        from libgraph.graph.selection import subgraph

        return subgraph(self, features, module=module, layers=layers, between=between)

    def to_igraph(self, *, directed: bool = False) -> igraph.Graph:
        """The undirected ``igraph.Graph`` that is clustered, or the directed one of kept edges.

        The directed one has the attributes of :meth:`to_networkx`. In the undirected one every
        feature is a vertex with ``layer``, ``feature`` and ``name`` (``"ln1.0/3"``), in the
        order of the layers; edges are those with a positive clustering ``weight``.
        """
        if directed:
            from libgraph.graph.frames import to_igraph

            return to_igraph(self)
        first = self._first_vertex()
        graph = weighted_network(
            sum(layer.size for layer in self.layers),
            (
                (first[source], first[target], matrix)
                for (source, target), matrix in self.weights().items()
            ),
        )
        graph.vs["layer"] = [layer.name for layer in self.layers for _ in range(layer.size)]
        graph.vs["feature"] = [index for layer in self.layers for index in range(layer.size)]
        graph.vs["name"] = [name for layer in self.layers for name in feature_ids(layer)]
        return graph

    @property
    def communities(self) -> dict[str, int]:
        """Module by feature id, for the features that belong to one.

        Raises:
            UsageError: If no partition was attached.
        """
        if self.partition is None:
            raise UsageError(
                "This graph has no modules yet: attach find_communities(graph) by with_partition."
            )
        return {
            name: community
            for layer in self.layers
            for name, community in zip(
                feature_ids(layer), self.membership(layer.name).tolist(), strict=True
            )
            if community >= 0
        }

    def membership(self, name: str) -> IndexArray:
        """Module of each feature of a layer, shape ``(features,)``; -1 where it has none."""
        if self.partition is not None and name in self.partition.membership:
            return self.partition.membership[name]
        return np.full(self.layer(name).size, -1, dtype=np.int64)

    def with_partition(self, partition: Partition | None) -> InteractionGraph:
        """The same graph with these modules."""
        return self._sharing(partition=partition)

    def with_labels(self, labels: Mapping[str, Sequence[FeatureLabel]]) -> InteractionGraph:
        """The same graph with labels on the named layers, one label per feature."""
        for name in labels:
            self.layer(name)
        return self._sharing(
            layers=tuple(
                replace(layer, labels=tuple(labels[layer.name])) if layer.name in labels else layer
                for layer in self.layers
            )
        )

    def _sharing(self, **changes: object) -> InteractionGraph:
        """The same graph but for labels or modules, with all that was derived from its edges."""
        graph = replace(self, **changes)  # type: ignore[arg-type]
        object.__setattr__(graph, "_derived", self._derived)
        return graph

    def _first_vertex(self) -> dict[str, int]:
        sizes = [layer.size for layer in self.layers]
        starts = np.cumsum([0, *sizes]).tolist()
        return {layer.name: start for layer, start in zip(self.layers, starts, strict=False)}

    def _choose_edges(self, pair: Pair, epsilon: float | None) -> tuple[IndexArray, IndexArray]:
        """Input and output features of the kept edges."""
        matrix = self._between(pair, clustered=False)
        threshold = epsilon
        if threshold is None:
            smaller = matrix.size - EDGES_PER_FEATURE * sum(matrix.shape)
            threshold = np.partition(matrix, smaller, axis=None)[smaller] if smaller > 0 else 0.0
        outputs, inputs = np.nonzero((matrix >= threshold) & (matrix > 0))
        return read_only(inputs), read_only(outputs)

    def _between(self, pair: Pair, *, clustered: bool) -> FloatArray:
        """A copy of the edges without isolated features, and without unrotated layers if asked."""
        source, target = self.layer(pair[0]), self.layer(pair[1])
        matrix = self.edges[pair].copy()
        matrix[:, : source.isolated] = 0
        matrix[: target.isolated] = 0
        if clustered and not (source.rotated and target.rotated):
            matrix[:] = 0
        return matrix


def check_graph(graph: object) -> None:
    """Raise a :class:`UsageError` for what is no graph, such as the run that has one."""
    if not isinstance(graph, InteractionGraph):
        advice = "give its graph()" if hasattr(graph, "graph") else "give an InteractionGraph"
        raise UsageError(f"A {type(graph).__name__} is no interaction graph: {advice}.")


def _weight(interaction: FloatArray, epsilon: float | None) -> FloatArray:
    if epsilon is None:
        return np.sqrt(interaction)
    # A difference of logarithms, and not of a ratio, which overflows where ε is tiny.
    decades = np.full_like(interaction, -np.inf)
    np.log10(interaction, where=interaction > 0, out=decades)
    decades -= np.log10(epsilon)
    return np.maximum(decades, 0.0, out=decades)


def _check(graph: InteractionGraph) -> None:
    sizes = {layer.name: layer.size for layer in graph.layers}
    if len(sizes) != len(graph.layers):
        raise DataError("Two node layers have the same name: give each its own.")
    if any(layer.ids is not None for layer in graph.layers):
        names = [name for layer in graph.layers for name in feature_ids(layer)]
        if len(set(names)) < len(names):
            raise DataError("Two features have the same id: give each its own.")
    order = {name: index for index, name in enumerate(sizes)}
    for (source, target), matrix in graph.edges.items():
        pair = f"{source}->{target}"
        if source not in order or target not in order or order[source] >= order[target]:
            raise DataError(f"Edges {pair} do not join a node layer to a later one: check names.")
        if matrix.shape != (sizes[target], sizes[source]):
            raise DataError(
                f"Edges {pair} have shape {matrix.shape}: they need [out, in], "
                f"({sizes[target]}, {sizes[source]})."
            )
        if not np.isfinite(matrix).all():
            raise NumericalError(f"Edges {pair} have values that are not finite: check the bases.")
        if (matrix < 0).any():
            raise NumericalError(f"Edges {pair} have negative values: pass squared interactions.")
    for pair_key, epsilon in graph.epsilon.items():
        if pair_key not in graph.edges:
            raise DataError(f"ε is given for {'->'.join(pair_key)}, which has no edges: drop it.")
        if not (np.isfinite(epsilon) and epsilon > 0):
            raise DataError(f"ε of {'->'.join(pair_key)} is {epsilon}: it has to be positive.")
    if graph.partition is not None:
        for name, membership in graph.partition.membership.items():
            if membership.shape != (sizes.get(name),):
                raise DataError(
                    f"The partition has {len(membership)} features for {name}, the graph has "
                    f"{sizes.get(name, 'no such layer')}: it belongs to another graph."
                )
