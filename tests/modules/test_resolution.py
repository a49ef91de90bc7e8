import random
from itertools import pairwise

import numpy as np
import pytest
from helpers.graphs import nested

from libgraph.errors import UsageError
from libgraph.graph.features import LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.agreement import adjusted_mutual_information
from libgraph.modules.communities import find_communities
from libgraph.modules.leiden import Leiden
from libgraph.modules.resolution import ResolutionRow, _plateaus, resolutions, sweep_resolutions


def unplanted():
    rng = np.random.default_rng(0)
    layers = tuple(LayerFeatures(name, np.ones(60), isolated=0) for name in "abc")
    edges = {pair: rng.exponential(size=(60, 60)) for pair in (("a", "b"), ("b", "c"))}
    return InteractionGraph(layers, edges)


def test_plateaus_are_the_planted_levels():
    graph, module = nested()
    sweep = sweep_resolutions(graph)
    assert len(sweep.rows) == 25
    assert [row.resolution for row in sweep.rows] == resolutions().tolist()
    by_modules = {plateau.modules: plateau for plateau in sweep.plateaus}
    assert {3, 12} <= set(by_modules)
    assert by_modules[3].lowest < 1 < by_modules[12].highest
    assert by_modules[3].highest < by_modules[12].lowest
    lengths = [plateau.highest / plateau.lowest for plateau in sweep.plateaus]
    assert lengths == sorted(lengths, reverse=True)
    for count, truth in ((3, module // 4), (12, module)):
        plateau = by_modules[count]
        assert plateau.similarity == 1
        assert 1.2 * plateau.lowest < plateau.resolution < plateau.highest / 1.2
        partition = find_communities(graph, plateau.resolution, seeds=1)
        assert adjusted_mutual_information(partition.membership["a"], truth) == 1


def test_rows_are_what_leiden_finds_at_each_resolution():
    graph = unplanted()
    gammas = [0.5, 1.0, 1.2, 3.0]
    sweep = sweep_resolutions(graph, gammas, seed=3, seeds=2)
    partitions = [find_communities(graph, gamma, 3, 2) for gamma in gammas]
    members = [np.concatenate(list(partition.membership.values())) for partition in partitions]
    likeness = [adjusted_mutual_information(a, b) for a, b in pairwise(members)]
    for row, partition, alike in zip(sweep.rows, partitions, [*likeness, None], strict=True):
        assert row.modules == partition.size
        assert row.modularity == partition.modularity
        assert row.agreement == partition.agreement
        assert row.similarity == (None if alike is None else pytest.approx(alike))
    assert min(likeness) < 1


def test_no_plateaus_where_nothing_is_planted():
    sweep = sweep_resolutions(unplanted(), resolutions(1, 5, 12), seeds=2)
    assert sweep.plateaus == ()
    assert sweep.rows[0].agreement < 0.5


def test_plateaus_are_alike_throughout():
    """Neighbours may be alike all along while the ends are not: that is no plateau."""
    rows = [ResolutionRow(float(i + 1), 10 + i, 0.0, 1.0, None) for i in range(9)]
    steps = np.abs(np.subtract.outer(np.arange(9), np.arange(9)))
    # Partitions drift by 0.02 a step and jump before the eighth.
    alike = 1 - 0.02 * steps
    alike[:7, 7:] = alike[7:, :7] = 0
    first, second = _plateaus(rows, alike)
    assert (first.lowest, first.highest, first.similarity) == (1, 3, pytest.approx(0.96))
    assert (first.resolution, first.modules) == (2, 11)
    assert (second.lowest, second.highest) == (4, 6)


def test_sweeps_repeat_and_leave_random_numbers_alone():
    graph, _ = nested()
    random.seed(1)
    state = random.getstate()
    calls = []
    first = sweep_resolutions(graph, [1, 8], 5, 2, progress=lambda *call: calls.append(call))
    assert random.getstate() == state
    assert sweep_resolutions(graph, [1, 8], 5, 2) == first
    assert calls == [("resolutions", done, 2) for done in range(3)]


def test_a_graph_without_edges():
    layers = (LayerFeatures("a", np.ones(3)), LayerFeatures("b", np.ones(2)))
    sweep = sweep_resolutions(InteractionGraph(layers, {("a", "b"): np.zeros((2, 3))}), [1, 2, 3])
    assert [row.modules for row in sweep.rows] == [0, 0, 0]
    assert sweep_resolutions(InteractionGraph((), {}), [1]).rows[0].similarity is None


def test_resolutions_have_equal_ratios_and_read_well():
    values = resolutions()
    assert (values[0], values[12], values[-1]) == (0.1, 1, 10)
    np.testing.assert_allclose(values[1:] / values[:-1], 10 ** (2 / 24), rtol=0.01)


@pytest.mark.parametrize("values", [[], [1, 1], [2, 1], [0, 1], [-1, 1], [1, np.inf]])
def test_wrong_resolutions_are_refused(values):
    with pytest.raises(UsageError, match="resolution"):
        sweep_resolutions(nested()[0], values)


@pytest.mark.parametrize("bounds", [(0, 1, 5), (2, 1, 5), (1, np.inf, 5), (1, 2, 1)])
def test_wrong_ranges_are_refused(bounds):
    with pytest.raises(UsageError, match="no range"):
        resolutions(*bounds)


def test_the_figure_is_the_same_for_the_same_sweep(tmp_path):
    pytest.importorskip("matplotlib")
    from libgraph.report.resolution_figure import draw_resolutions

    sweep = sweep_resolutions(nested()[0], resolutions(count=8), seeds=2)
    for name in ("a.png", "b.png"):
        draw_resolutions(sweep, tmp_path / name, title="$x")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    draw_resolutions(sweep_resolutions(InteractionGraph((), {}), [1]), tmp_path / "one.png")
    with pytest.raises(UsageError, match="Cannot write"):
        draw_resolutions(sweep, tmp_path / "a.png" / "c.png")


def test_the_exact_profile_is_no_worse():
    graph, _ = nested()
    gammas = resolutions(0.3, 6, 8)
    usual, exact = (
        sweep_resolutions(graph, gammas, seeds=1, objective="modularity", exact=exact)
        for exact in (False, True)
    )
    assert {row.modules for row in exact.rows} >= {3, 12}
    leiden = Leiden(graph, "modularity")
    for gamma, members in zip(gammas, leiden.profile(gammas, 0), strict=True):
        (found,) = leiden.runs(gamma, 0, 1)
        assert leiden.quality(members, gamma) >= leiden.quality(found, gamma) - 1e-9
    assert len(usual.rows) == len(exact.rows) == 8


def test_there_is_no_profile_of_layered_modularity(capfd):
    graph, _ = nested()
    with pytest.raises(UsageError, match="no exact profile of the objective 'layered'"):
        sweep_resolutions(graph, exact=True)
    empty = InteractionGraph((LayerFeatures("a", np.ones(2)),), {})
    assert len(sweep_resolutions(empty, [1, 2], objective="modularity", exact=True).rows) == 2
    # The library's progress bar stays off the screen.
    sweep_resolutions(graph, [1, 2], seeds=1, objective="modularity", exact=True)
    assert capfd.readouterr() == ("", "")


def test_objectives_without_a_resolution_have_no_sweep():
    graph, _ = nested()
    with pytest.raises(UsageError, match="has no resolution to sweep"):
        sweep_resolutions(graph, objective="surprise")
