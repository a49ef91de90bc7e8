"""The picture of modules through the depth: what it shows, and that it stays readable."""

import re
import sys
import warnings
from itertools import pairwise

import numpy as np
import pytest
from helpers.graphs import planted

from libgraph.errors import MissingExtra, UsageError
from libgraph.graph.features import LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.partition import Partition
from libgraph.modules.communities import find_communities
from libgraph.report.module_picture import MOST_ROWS, draw_modules, module_depth

pytest.importorskip("matplotlib")

from matplotlib.image import imread


def with_modules(graph, membership):
    parts = {
        "resolution": 1.0,
        "quality": 0,
        "modularity": 0,
        "agreement": 1,
        "seed": 0,
        "seeds": 1,
    }
    return graph.with_partition(
        Partition(membership={k: np.array(v) for k, v in membership.items()}, **parts)
    )


def by_hand():
    layers = (
        LayerFeatures("a", np.array([9.0, 1, 3])),
        LayerFeatures("b", np.array([2.0, 4, 2]), isolated=0),
        LayerFeatures("out", np.ones(2), isolated=0, rotated=False),
    )
    edges = {
        ("a", "b"): np.array([[0.0, 1, 4], [0, 9, 0], [0, 0, 16]]),
        ("b", "out"): np.ones((2, 3)),
    }
    return with_modules(
        InteractionGraph(layers, edges), {"a": [-1, 0, 1], "b": [0, 1, -1], "out": [-1, -1]}
    )


def test_what_modules_hold_and_what_flows_between_them():
    depth = module_depth(by_hand())
    assert (depth.layers, depth.modules) == (("a", "b"), 2)
    # The constant is isolated; features in no module come last.
    np.testing.assert_allclose(depth.held, [[1 / 4, 3 / 4, 0], [2 / 8, 4 / 8, 2 / 8]])
    # Weights are roots: 1 and 2 to b/0, 3 to b/1, 4 to b/2, of 10.
    np.testing.assert_allclose(depth.flows[0], [[0.1, 0.3, 0], [0.2, 0, 0.4], [0, 0, 0]])


def test_shares_are_shares():
    graph, _ = planted(noise=0.3)
    graph = graph.with_partition(find_communities(graph, seeds=1))
    depth = module_depth(graph)
    np.testing.assert_allclose(depth.held.sum(1), 1)
    np.testing.assert_allclose(depth.flows.sum((1, 2)), 1)


def deep(layers=75, modules=70, size=70):
    rng = np.random.default_rng(0)
    names = [f"{k}.ln1.normalized" for k in range(layers)]
    columns = tuple(LayerFeatures(name, rng.exponential(size=size)) for name in names)
    edges = {pair: rng.exponential(size=(size, size)) ** 4 for pair in pairwise(names)}
    members = {name: np.r_[-1, rng.integers(0, modules, size - 1)] for name in names}
    return with_modules(InteractionGraph(columns, edges), members)


def texts(path):
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_same_picture_every_time(tmp_path, kind):
    for name in ("one", "two"):
        draw_modules(by_hand(), tmp_path / f"{name}.{kind}", title="A title")
    one, two = ((tmp_path / f"{name}.{kind}").read_bytes() for name in ("one", "two"))
    assert one == two


def test_many_layers_and_modules_are_readable(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_modules(deep(), tmp_path / "modules.svg", title="Deep")
    shown = texts(tmp_path / "modules.svg")
    assert {"module 0", "module 69", "0.ln1.normalized", "74.ln1.normalized"} <= set(shown)
    draw_modules(deep(), tmp_path / "modules.png")
    height, width = imread(tmp_path / "modules.png").shape[:2]
    # At 180 dots an inch: a page or two, and letters that do not touch.
    assert height < 180 * 16
    assert width < 180 * 20


def test_more_modules_than_rows_share_the_last(tmp_path):
    draw_modules(deep(layers=3, modules=90, size=200), tmp_path / "modules.svg")
    shown = texts(tmp_path / "modules.svg")
    assert f"module {MOST_ROWS - 1}" in shown
    assert f"module {MOST_ROWS}" not in shown
    assert f"{90 - MOST_ROWS} smaller" in shown


def test_a_notebook_shows_it_and_odd_graphs_are_drawn():
    assert draw_modules(by_hand()).startswith(b"\x89PNG")
    for graph in (
        InteractionGraph((), {}),
        InteractionGraph((LayerFeatures("a", np.ones(2)),), {}),
    ):
        assert draw_modules(graph.with_partition(find_communities(graph)))


def test_mistakes_are_explained(tmp_path, monkeypatch):
    graph, _ = planted()
    with pytest.raises(UsageError, match="with_partition"):
        draw_modules(graph)
    with pytest.raises(UsageError, match=r"\.png, \.svg or \.pdf"):
        draw_modules(by_hand(), tmp_path / "modules.gif")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"\[report\]"):
        draw_modules(by_hand())
