import random
from itertools import combinations

import igraph
import numpy as np
import pytest
from helpers.graphs import planted

from libgraph.errors import UsageError
from libgraph.graph.features import FeatureLabel, LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules import engines, leiden
from libgraph.modules.agreement import adjusted_mutual_information
from libgraph.modules.communities import find_communities
from libgraph.modules.summary import module_table


def test_planted_modules_are_found():
    graph, truth = planted()
    partition = find_communities(graph)
    assert partition.size == 3
    members = np.concatenate([partition.membership[name][1:] for name in truth])
    true = np.concatenate([modules[1:] for modules in truth.values()])
    assert igraph.compare_communities(members.tolist(), true.tolist(), method="nmi") == 1
    assert all(partition.membership[name][0] == -1 for name in truth)
    assert partition.agreement == 1


def test_modularity_is_that_of_the_definition():
    graph, _ = planted(noise=0.3)
    partition = find_communities(graph, resolution=1.5, objective="modularity")
    network = graph.to_igraph()
    members = np.concatenate([partition.membership[layer.name] for layer in graph.layers])
    adjacency = np.array(network.get_adjacency(attribute="weight").data)
    degree, total = adjacency.sum(axis=1), adjacency.sum()
    for resolution, value in ((1.0, partition.modularity), (1.5, partition.quality)):
        expected = adjacency - resolution * np.outer(degree, degree) / total
        together = (members[:, None] == members[None, :]) & (members >= 0)
        assert value == pytest.approx(expected[together].sum() / total)


def test_quality_is_not_below_that_of_the_truth_or_of_another_leiden():
    graph, truth = planted(noise=0.4, seed=3)
    network = graph.to_igraph()
    partition = find_communities(graph, objective="modularity")
    true = np.concatenate(list(truth.values())).tolist()
    assert partition.quality == partition.modularity
    assert partition.modularity >= network.modularity(true, weights="weight") - 1e-12
    other = network.community_leiden(
        objective_function="modularity", weights="weight", n_iterations=10
    )
    assert partition.modularity >= network.modularity(other, weights="weight") - 1e-3


def test_weights_matter():
    # Unweighted, this is one complete bipartite graph and no division is better than none.
    same = np.kron(np.eye(2), np.ones((5, 5))) + 0.01
    layers = tuple(LayerFeatures(name, np.ones(10), isolated=0) for name in "ab")
    partition = find_communities(InteractionGraph(layers, {("a", "b"): same}))
    assert partition.membership["a"].tolist() == [0] * 5 + [1] * 5
    assert partition.membership["b"].tolist() == [0] * 5 + [1] * 5


def test_same_seed_same_partition():
    graph, _ = planted(noise=0.6, seed=1)
    first, again = (find_communities(graph, seed=5, seeds=3) for _ in range(2))
    for name, members in first.membership.items():
        np.testing.assert_array_equal(members, again.membership[name])
    assert (first.quality, first.agreement) == (again.quality, again.agreement)
    assert -0.5 <= first.agreement <= 1


def test_the_best_of_the_seeds_is_kept():
    # Without planted modules the seeds disagree.
    graph, _ = planted(sizes=(40, 40, 40), noise=1.0, seed=2)
    alone = [find_communities(graph, seed=seed, seeds=1).quality for seed in range(10, 16)]
    together = find_communities(graph, seed=10, seeds=6)
    assert len(set(alone)) > 2
    assert alone[0] < max(alone)
    assert together.quality == max(alone)
    assert 0 < together.agreement < 0.9


def test_modules_are_numbered_by_size():
    graph, _ = planted(noise=0.5, seed=4)
    partition = find_communities(graph, resolution=2)
    members = np.concatenate(list(partition.membership.values()))
    sizes = np.bincount(members[members >= 0])
    assert (np.diff(sizes) <= 0).all()
    assert sizes.min() > 0


def test_large_graphs_find_the_same_in_fewer_iterations(monkeypatch):
    graph, truth = planted(sizes=(100, 120, 90, 110), modules=5, noise=0.05)
    small = find_communities(graph, seeds=3)
    monkeypatch.setattr(leiden, "CONVERGED_EDGES", 0)
    large = find_communities(graph, seeds=3)
    assert large.size == small.size == 5
    for name, members in small.membership.items():
        np.testing.assert_array_equal(large.membership[name], members)
    assert adjusted_mutual_information(members[1:], truth["l3"][1:]) == 1


@pytest.mark.parametrize("objective", ["modularity", "layered"])
def test_large_graphs_stop_early(monkeypatch, objective):
    graph, _ = planted(sizes=(60, 60, 60), noise=1.0)
    converged = find_communities(graph, seeds=4, objective=objective).quality
    monkeypatch.setattr(leiden, "CONVERGED_EDGES", 0)
    monkeypatch.setattr(leiden, "LARGE_ITERATIONS", 1)
    assert find_communities(graph, seeds=4, objective=objective).quality < converged


def test_the_random_numbers_of_the_user_stay_as_they_were():
    """igraph draws from Python's global generator unless told otherwise."""
    graph, _ = planted(noise=1.0)
    random.seed(7)
    state = random.getstate()
    first = find_communities(graph, seeds=2)
    assert random.getstate() == state
    random.seed(8)
    again = find_communities(graph, seeds=2)
    for name, members in first.membership.items():
        np.testing.assert_array_equal(members, again.membership[name])
    # And what the user asks of igraph follows random.seed again.
    drawn = []
    for _ in range(2):
        random.seed(9)
        drawn.append(igraph.Graph.Erdos_Renyi(n=30, m=40).get_edgelist())
    assert drawn[0] == drawn[1]
    assert random.getstate() != state


def test_an_interrupted_run_gives_igraph_its_generator_back():
    with pytest.raises(KeyboardInterrupt), engines.seeded(0):
        raise KeyboardInterrupt
    random.seed(1)
    state = random.getstate()
    igraph.Graph.Erdos_Renyi(n=30, m=40)
    assert random.getstate() != state


def test_agreement_is_over_all_pairs_of_seeds():
    graph, _ = planted(sizes=(30, 30, 30), noise=1.0, seed=2)
    alone = [find_communities(graph, seed=seed, seeds=1) for seed in (4, 5, 6)]
    members = [np.concatenate(list(partition.membership.values())) for partition in alone]
    members = [modules[modules >= 0] for modules in members]
    expected = [adjusted_mutual_information(a, b) for a, b in combinations(members, 2)]
    together = find_communities(graph, seed=4, seeds=3)
    assert together.agreement == pytest.approx(np.mean(expected))
    assert [partition.agreement for partition in alone] == [1, 1, 1]


def test_graphs_without_edges():
    assert find_communities(InteractionGraph((), {})).size == 0
    layers = (LayerFeatures("a", np.ones(3)), LayerFeatures("b", np.ones(2)))
    graph = InteractionGraph(layers, {("a", "b"): np.zeros((2, 3))})
    partition = find_communities(graph)
    assert partition.size == 0
    assert partition.membership["a"].tolist() == [-1, -1, -1]
    assert (partition.quality, partition.modularity, partition.agreement) == (0, 0, 1)
    assert module_table(graph.with_partition(partition)) == []


def test_features_without_edges_belong_nowhere():
    matrix = np.zeros((4, 4))
    matrix[1, 1] = matrix[2, 2] = 1
    layers = (LayerFeatures("a", np.ones(4)), LayerFeatures("b", np.ones(4)))
    partition = find_communities(InteractionGraph(layers, {("a", "b"): matrix}))
    assert partition.membership["a"].tolist() == [-1, 0, 1, -1]
    assert partition.membership["b"].tolist() == [-1, 0, 1, -1]


def test_unrotated_layers_belong_nowhere():
    layers = (
        LayerFeatures("a", np.ones(2)),
        LayerFeatures("b", np.ones(2)),
        LayerFeatures("out", np.ones(5), isolated=0, rotated=False),
    )
    edges = {("a", "b"): np.ones((2, 2)), ("b", "out"): np.ones((5, 2))}
    partition = find_communities(InteractionGraph(layers, edges))
    # A layer pair of one edge is as good divided as not: its ends are joined.
    assert partition.membership["a"].tolist() == partition.membership["b"].tolist() == [-1, 0]
    assert partition.membership["out"].tolist() == [-1] * 5


@pytest.mark.parametrize("options", [{"resolution": 0}, {"resolution": np.nan}, {"seeds": 0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(UsageError):
        find_communities(InteractionGraph((), {}), **options)


def test_module_table_of_planted_modules():
    graph, truth = planted()
    with pytest.raises(UsageError, match="with_partition"):
        module_table(graph)
    table = module_table(graph.with_partition(find_communities(graph)))
    assert [m.index for m in table] == [0, 1, 2]
    assert sum(m.size for m in table) == sum(len(modules) - 1 for modules in truth.values())
    assert {m.concept for m in table} == {"k0", "k1", "k2"}
    for module in table:
        assert module.concept_share == pytest.approx(0.9)
        assert module.within_concept == 1
        assert sum(module.features.values()) == module.size
    inside = sum(m.weight for m in table)
    total = sum(weights.sum() for weights in graph.weights().values())
    assert 0.8 * total < inside <= total + 1e-9


def test_module_table_by_hand():
    u, v = FeatureLabel("u", {"u": 0.8, "v": 0.2}), FeatureLabel("v", {"v": 1.0})
    layers = (
        LayerFeatures("a", np.ones(2), isolated=0, labels=(u, v)),
        LayerFeatures("b", np.ones(1), isolated=0, labels=(u,)),
    )
    graph = InteractionGraph(layers, {("a", "b"): np.array([[9.0, 1.0]])})
    (module,) = module_table(graph.with_partition(find_communities(graph)))
    # Weights 3 and 1: members count 3 (u), 1 (v) and 4 (u) of 8.
    assert module.weight == pytest.approx(4)
    assert module.concept == "u"
    assert module.concept_share == pytest.approx((3 * 0.8 + 4 * 0.8) / 8)
    assert module.within_concept == pytest.approx(3 / 4)
    assert module.features == {"a": 2, "b": 1}


def test_module_table_without_labels():
    layers = tuple(LayerFeatures(name, np.ones(2)) for name in "ab")
    graph = InteractionGraph(layers, {("a", "b"): np.ones((2, 2))})
    (module,) = module_table(graph.with_partition(find_communities(graph)))
    assert (module.concept, module.concept_share, module.within_concept) == (None, 0, None)
