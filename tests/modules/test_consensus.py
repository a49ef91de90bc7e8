import numpy as np
import pytest
from helpers.graphs import nested, planted

from libgraph.errors import UsageError
from libgraph.graph.features import LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules import consensus
from libgraph.modules.agreement import adjusted_mutual_information
from libgraph.modules.communities import find_communities
from libgraph.modules.consensus import _agreed, consensus_communities
from libgraph.modules.leiden import renumber


def numbered(*runs):
    runs = np.array(runs)
    return np.stack([renumber(run, np.ones(len(run), dtype=bool)) for run in runs])


def same(modules, truth):
    return adjusted_mutual_information(modules, np.array(truth)) == 1


def test_runs_that_agree_are_their_consensus():
    truth = [0, 0, 1, 1, 1, 2]
    assert same(_agreed(numbered(truth, truth, truth), 0), truth)
    assert same(_agreed(numbered([0, 0, 0], [0, 0, 0]), 0), [0, 0, 0])
    assert same(_agreed(numbered([0, 1, 2], [0, 1, 2]), 0), [0, 1, 2])


def test_a_feature_goes_where_most_runs_put_it():
    runs = [[0] * 5 + [1] * 5] * 7 + [[0] * 4 + [1] * 6] * 3
    assert same(_agreed(numbered(*runs), 0), runs[0])


def test_what_most_runs_keep_together_stays_together():
    """The first run is finer than the others; they decide."""
    coarse, fine = [0] * 6 + [1] * 6, [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert same(_agreed(numbered(*[fine] * 2, *[coarse] * 8), 0), coarse)
    assert same(_agreed(numbered(*[coarse] * 2, *[fine] * 8), 0), fine)


def test_what_fewer_than_half_the_runs_join_stays_apart():
    """Among many modules, modularity would join two for much less."""
    apart = np.repeat(np.arange(10), 6)
    joined = np.where(apart == 1, 0, apart)
    assert same(_agreed(numbered(*[joined] * 4, *[apart] * 6), 0), apart)
    assert same(_agreed(numbered(*[joined] * 6, *[apart] * 4), 0), joined)


def test_modules_are_numbered_by_size(monkeypatch):
    graph, _ = planted(sizes=(24, 31, 29))
    best = find_communities(graph, seeds=2)
    monkeypatch.setattr(consensus, "_agreed", lambda runs, seed: 2 - runs[0])
    partition = consensus_communities(graph, seeds=2)
    for name, members in best.membership.items():
        np.testing.assert_array_equal(partition.membership[name], members)


def test_noisy_runs_have_the_planted_consensus():
    """Every run is wrong about a fifth of the features, no two about the same."""
    rng = np.random.default_rng(0)
    truth = np.arange(200) % 4
    runs = np.where(rng.random((30, 200)) < 0.2, rng.integers(4, size=(30, 200)), truth)
    assert same(_agreed(numbered(*runs), 0), truth)
    assert min(adjusted_mutual_information(run, truth) for run in runs) < 0.75


def test_groups_stand_for_their_features(monkeypatch):
    """Clustering groups of features is clustering the features, as long as groups hold together."""
    runs = numbered(*[np.repeat(row, 5) for row in ([0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 1, 1])])
    apart = runs.copy()
    agreed = _agreed(runs, 0)
    monkeypatch.setattr(
        consensus.np, "unique",
        lambda x, **_: (x, np.arange(x.shape[1]), np.ones(x.shape[1], dtype=np.int64)),
    )  # fmt: skip
    monkeypatch.setattr(consensus, "MOST_ROUNDS", 1)
    single = _agreed(apart, 0)
    monkeypatch.undo()
    assert same(agreed, single)


def test_consensus_of_planted_modules():
    graph, truth = planted()
    partition = consensus_communities(graph, seeds=5)
    best = find_communities(graph, seeds=5)
    for name in truth:
        np.testing.assert_array_equal(partition.membership[name], best.membership[name])
    assert (partition.consensus, best.consensus) == (True, False)
    for name in ("quality", "modularity", "agreement", "seed", "seeds", "resolution"):
        assert getattr(partition, name) == getattr(best, name)


def test_consensus_repeats_and_is_stabler_than_runs():
    graph, _ = planted(sizes=(60, 60, 60), modules=3, noise=0.55, seed=1)
    several = [consensus_communities(graph, seed=seed, seeds=20) for seed in (0, 100)]
    again = consensus_communities(graph, seed=0, seeds=20)
    members = [
        np.concatenate(list(partition.membership.values())) for partition in (*several, again)
    ]
    np.testing.assert_array_equal(members[0], members[2])
    first, second = (modules[modules >= 0] for modules in members[:2])
    assert several[0].agreement < 0.9
    assert adjusted_mutual_information(first, second) > several[0].agreement
    assert several[0].quality <= find_communities(graph, seeds=20).quality
    sizes = np.bincount(first)
    assert (np.diff(sizes) <= 0).all()


def test_consensus_at_other_resolutions_is_of_runs_there():
    graph, module = nested()
    for gamma, truth in ((0.4, module // 4), (3.0, module)):
        partition = consensus_communities(graph, gamma, 0, 4)
        assert same(partition.membership["a"], truth)
        assert partition.resolution == gamma
        best = find_communities(graph, gamma, 0, 4)
        assert partition.quality == pytest.approx(best.quality)


def test_graphs_without_edges_and_wrong_options():
    assert consensus_communities(InteractionGraph((), {})).size == 0
    layers = (LayerFeatures("a", np.ones(3)), LayerFeatures("b", np.ones(2)))
    nothing = InteractionGraph(layers, {("a", "b"): np.zeros((2, 3))})
    assert consensus_communities(nothing).size == 0
    with pytest.raises(UsageError, match="positive"):
        consensus_communities(nothing, 0)
    with pytest.raises(UsageError, match="at least 1"):
        consensus_communities(nothing, 1, 0, 0)


def test_too_many_groups_are_refused(monkeypatch):
    monkeypatch.setattr(consensus, "MOST_GROUPS", 10)
    graph, _ = planted(noise=1.0)
    with pytest.raises(UsageError, match=r"leave \d+ groups .* choose fewer seeds"):
        consensus_communities(graph)
