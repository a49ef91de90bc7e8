"""Layered modularity: its definition, both engines, and what it finds where depth hides it."""

import igraph
import numpy as np
import pytest
from helpers.graphs import planted
from hypothesis import given
from hypothesis import strategies as st

from libgraph.errors import UsageError
from libgraph.graph.features import LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.agreement import adjusted_mutual_information
from libgraph.modules.communities import find_communities
from libgraph.modules.consensus import consensus_communities
from libgraph.modules.leiden import Leiden
from libgraph.modules.objectives import OBJECTIVES
from libgraph.modules.quality import layered_modularity

OBJECTIVES_WITH_PAIRS = ["layered", "layered-equal"]
each_layered = pytest.mark.parametrize("objective", OBJECTIVES_WITH_PAIRS)
each_engine = pytest.mark.parametrize("engine", ["igraph", "leidenalg"])


def by_definition(graph, membership, resolution, *, equal):
    """Σ_p Σ_ij (w − γ k k'/m) δ over Σ_p m, one pair of features at a time."""
    value = total = 0.0
    for (source, target), weights in graph.weights().items():
        m = sum(sum(row) for row in weights.tolist())
        if not m:
            continue
        scale = 1 / m if equal else 1.0
        for i, row in enumerate(weights.tolist()):
            for j, weight in enumerate(row):
                modules = membership[target][i], membership[source][j]
                if modules[0] == modules[1] >= 0:
                    expected = sum(row) * weights[:, j].sum() / m
                    value += scale * (weight - resolution * expected)
        total += scale * m
    return value / total if total else 0.0


@given(seed=st.integers(0, 2**16), resolution=st.floats(0.1, 4), equal=st.booleans())
def test_quality_is_that_of_the_definition(seed, resolution, equal):
    rng = np.random.default_rng(seed)
    graph, _ = planted(sizes=(4, 5, 3), modules=2, noise=0.5, seed=seed)
    membership = {layer.name: rng.integers(-1, 3, layer.size) for layer in graph.layers}
    value = layered_modularity(graph.weights(), membership, resolution, equal=equal)
    expected = by_definition(graph, membership, resolution, equal=equal)
    assert value == pytest.approx(expected, abs=1e-13)


def test_one_pair_is_barbers():
    """Two blocks without edges between them, each half of the weight: 1 − 2 · (1/2)²."""
    blocks = np.kron(np.eye(2), np.ones((3, 4)))
    halves = {"a": np.repeat([0, 1], 4), "b": np.repeat([0, 1], 3)}
    assert layered_modularity({("a", "b"): blocks}, halves) == pytest.approx(0.5)
    together = {name: np.zeros_like(members) for name, members in halves.items()}
    assert layered_modularity({("a", "b"): blocks}, together) == pytest.approx(0.0)


def test_a_cut_by_depth_is_worth_nothing_layered_and_much_in_the_whole_graph():
    graph, _ = planted(sizes=(20,) * 9, modules=2, noise=1.0)
    members = {layer.name: np.full(20, i // 3) for i, layer in enumerate(graph.layers)}
    for name in members:
        members[name][0] = -1
    assert layered_modularity(graph.weights(), members) == pytest.approx(0, abs=1e-12)
    whole = Leiden(graph, "modularity")
    assert whole.quality(np.concatenate([*members.values()])) > 0.3


@each_engine
@each_layered
def test_modules_that_run_through_the_depth_are_found(objective, engine):
    graph, truth = planted(sizes=(20,) * 12, modules=4, noise=0.1, seed=1)
    partition = find_communities(graph, seeds=3, objective=objective, engine=engine)
    true = np.concatenate([modules[1:] for modules in truth.values()])

    def agreement(partition):
        members = np.concatenate([partition.membership[name][1:] for name in truth])
        return adjusted_mutual_information(members, true)

    assert partition.objective == objective
    assert partition.quality == partition.modularity
    assert agreement(partition) == pytest.approx(1)
    by_depth = find_communities(graph, seeds=3, objective="modularity")
    assert agreement(by_depth) < agreement(partition)


@each_layered
@pytest.mark.parametrize("resolution", [0.5, 1.0, 2.0])
def test_engines_find_what_is_worth_as_much(objective, resolution):
    """Within what seeds differ by, on graphs where they do."""
    graph, _ = planted(sizes=(15, 18, 12, 20), modules=3, noise=0.8, seed=5)
    values = {}
    for engine in ("igraph", "leidenalg"):
        leiden = Leiden(graph, objective, engine)
        runs = leiden.runs(resolution, 0, 8)
        values[engine] = [leiden.quality(run, resolution) for run in runs]
    spread = max(max(v) - min(v) for v in values.values())
    assert abs(max(values["igraph"]) - max(values["leidenalg"])) <= max(spread, 1e-9)


@each_engine
@each_layered
def test_no_single_move_is_better(objective, engine):
    """A run ends where moving one feature to another module, or out of it, gains nothing."""
    graph, _ = planted(sizes=(6, 7, 5), modules=2, noise=0.7, seed=2)
    leiden = Leiden(graph, objective, engine)
    (membership,) = leiden.runs(1.3, 0, 1)
    value = leiden.quality(membership, 1.3)
    for feature in np.flatnonzero(membership >= 0):
        for module in range(membership.max() + 2):
            moved = membership.copy()
            moved[feature] = module
            assert leiden.quality(moved, 1.3) <= value + 1e-12


@each_engine
def test_a_seed_gives_the_same_partition_always(engine):
    graph, _ = planted(sizes=(15, 18, 12), modules=3, noise=0.9, seed=3)
    first, again = (find_communities(graph, seed=5, seeds=3, engine=engine) for _ in range(2))
    for name, members in first.membership.items():
        np.testing.assert_array_equal(members, again.membership[name])


def test_large_graphs_stay_sparse(monkeypatch):
    graph, _ = planted()
    assert Leiden(graph).engine == "igraph"
    monkeypatch.setattr("libgraph.modules.leiden.SIGNED_EDGES", 100)
    # As long as half of the memory holds them.
    assert Leiden(graph).engine == "igraph"
    monkeypatch.setattr("libgraph.modules.leiden.BYTES_PER_PAIR", 2**60)
    assert Leiden(graph).engine == "leidenalg"
    assert Leiden(graph, "modularity").engine == "igraph"


@pytest.mark.parametrize("objective", ["surprise", "significance"])
def test_objectives_without_a_resolution(objective):
    graph, truth = planted(noise=0.001)
    partition = find_communities(graph, seeds=2, objective=objective)
    members = np.concatenate([partition.membership[name][1:] for name in truth])
    true = np.concatenate([modules[1:] for modules in truth.values()])
    assert igraph.compare_communities(members.tolist(), true.tolist(), method="nmi") > 0.9
    assert partition.quality > 1
    assert partition.modularity == layered_modularity(graph.weights(), partition.membership)
    with pytest.raises(UsageError, match="knows no resolution: leave resolution=2 out"):
        find_communities(graph, 2.0, objective=objective)
    with pytest.raises(UsageError, match="use leidenalg"):
        Leiden(graph, objective, "igraph")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_graphs_without_edges_have_no_modules(objective):
    layers = tuple(LayerFeatures(name, np.ones(3), isolated=0) for name in "ab")
    partition = find_communities(
        InteractionGraph(layers, {("a", "b"): np.zeros((3, 3))}), objective=objective
    )
    assert partition.size == 0
    assert (partition.quality, partition.modularity) == (0, 0)


def test_unknown_objectives_name_those_there_are():
    graph, _ = planted()
    with pytest.raises(UsageError, match="no objective 'cpm': choose one of layered, "):
        find_communities(graph, objective="cpm")


@pytest.mark.parametrize("engine", ["igraph", "leidenalg"])
def test_a_node_layer_of_one_feature_does_not_cut_modules(engine):
    layers = tuple(
        LayerFeatures(name, np.ones(size), isolated=0)
        for name, size in (("a", 3), ("b", 1), ("c", 4))
    )
    rng = np.random.default_rng(0)
    edges = {("a", "b"): rng.exponential(size=(1, 3)), ("b", "c"): rng.exponential(size=(4, 1))}
    partition = find_communities(InteractionGraph(layers, edges), engine=engine)
    assert partition.size == 1
    assert partition.quality == pytest.approx(0, abs=1e-15)


def test_runs_end_where_rounding_would_go_on_for_ever():
    # igraph exchanges partitions of one quality for ever if it is left to find the end by itself.
    rng = np.random.default_rng(0)
    layers = tuple(LayerFeatures(name, np.ones(13)) for name in "abc")
    same = np.equal.outer(np.arange(13) % 3, np.arange(13) % 3)
    for _ in range(60):
        edges = {
            pair: rng.permuted(
                rng.exponential(size=same.shape) * np.where(same, 1, 0.01), axis=None
            )
            for pair in (("a", "b"), ("b", "c"))
        }
        assert find_communities(InteractionGraph(layers, edges), seeds=3).size > 1


def test_modularity_ends_where_rounding_would_go_on_for_ever():
    def eye(a, b):
        return np.eye(max(a, b))[:a, :b]

    matrices = [eye(4, 5), eye(2, 4) + 1 / 9, eye(3, 2) / 9 + 1 / 9]
    sizes = [5, 4, 2, 3]
    layers = tuple(LayerFeatures(f"l{i}", np.ones(k), isolated=0) for i, k in enumerate(sizes))
    edges = {(f"l{i}", f"l{i + 1}"): matrix for i, matrix in enumerate(matrices)}
    graph = InteractionGraph(layers, edges)
    assert find_communities(graph, 2.0, 0, 20, "modularity").size > 1
    assert consensus_communities(graph, 2.0, 0, 20, "modularity").size > 1


@pytest.mark.parametrize("objective", ["surprise", "significance"])
def test_features_without_edges_take_no_part(objective):
    graph, _ = planted(noise=0.3, seed=1)
    lonely = {pair: np.pad(matrix, ((0, 30), (0, 30))) for pair, matrix in graph.edges.items()}
    layers = tuple(LayerFeatures(layer.name, np.ones(layer.size + 30)) for layer in graph.layers)
    with_more = InteractionGraph(layers, lonely, graph.epsilon)
    alone, among = (find_communities(g, seeds=5, objective=objective) for g in (graph, with_more))
    assert among.quality == pytest.approx(alone.quality)
    for name, members in alone.membership.items():
        np.testing.assert_array_equal(among.membership[name][: len(members)], members)


def test_a_run_is_no_graph():
    with pytest.raises(UsageError, match="is no interaction graph"):
        find_communities("run")
