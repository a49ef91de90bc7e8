"""Parts of graphs, and graphs in the hands of pandas, networkx and igraph."""

from __future__ import annotations

import networkx
import numpy as np
import pytest
from helpers.graphs import planted

from libgraph.errors import DataError, UsageError
from libgraph.graph.features import LayerFeatures, feature_ids, feature_numbers
from libgraph.graph.graph_json import graph_from_json, graph_to_json
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.selection import find_feature, strongest_edges
from libgraph.modules.communities import find_communities


@pytest.fixture(scope="module")
def graph() -> InteractionGraph:
    made, _ = planted()
    return made.with_partition(find_communities(made, seeds=2))


def edges_of(graph) -> dict[tuple[str, str], float]:
    names = {layer.name: feature_ids(layer) for layer in graph.layers}
    return {
        (names[pair[0]][i], names[pair[1]][j]): w
        for pair in graph.edges
        for i, j, _, w in zip(*graph.kept_edges(pair), strict=True)
    }


def test_a_part_keeps_ids_edges_modules_and_labels(graph):
    part = graph.subgraph(["l0/3", "l0/7", "l1", "l2/5"])
    assert [layer.size for layer in part.layers] == [2, 30, 1]
    assert feature_ids(part.layer("l0")) == ["l0/3", "l0/7"]
    assert feature_numbers(part.layer("l0")) == [3, 7]
    chosen = {"l0/3", "l0/7", "l2/5", *feature_ids(graph.layer("l1"))}
    whole = edges_of(graph)
    assert edges_of(part) == {ends: w for ends, w in whole.items() if chosen.issuperset(ends)}
    assert part.communities == {k: m for k, m in graph.communities.items() if k in chosen}
    assert part.layer("l2").labels == (graph.layer("l2").labels[5],)
    again = graph_from_json(graph_to_json(part), "it")
    assert edges_of(again) == edges_of(part)
    assert feature_ids(again.layer("l0")) == ["l0/3", "l0/7"]


def test_the_constant_stays_isolated(graph):
    part = graph.subgraph(["l0/0", "l0/3", "l1"])
    assert part.layer("l0").isolated == 1
    assert graph.subgraph(["l0/3", "l1"]).layer("l0").isolated == 0


def test_a_module_has_its_members_alone(graph):
    part = graph.subgraph(module=1)
    assert set(part.communities.values()) == {1}
    assert set(part.communities) == {k for k, m in graph.communities.items() if m == 1}


def test_between_is_what_paths_of_networkx_go_through(graph):
    start, end = "l0/4", "l2/10"
    directed = graph.to_networkx()
    on_paths = (networkx.descendants(directed, start) | {start}) & (
        networkx.ancestors(directed, end) | {end}
    )
    part = graph.subgraph(between=(start, end))
    assert {name for layer in part.layers for name in feature_ids(layer)} == on_paths


def test_node_layers_from_one_to_another(graph):
    assert [layer.name for layer in graph.subgraph(layers="l1:l2").layers] == ["l1", "l2"]
    assert [layer.name for layer in graph.subgraph(layers=":l1").layers] == ["l0", "l1"]
    assert [layer.name for layer in graph.subgraph(layers=["l0", "l2"]).layers] == ["l0", "l2"]


def test_the_strongest_edges(graph):
    whole = edges_of(graph)
    few = edges_of(strongest_edges(graph, 20))
    assert len(few) == 20
    assert min(few.values()) >= max(w for ends, w in whole.items() if ends not in few)
    assert edges_of(strongest_edges(graph, weight=0.5)) == {
        ends: w for ends, w in whole.items() if w >= 0.5
    }


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"features": "l0/99"}, "the last is l0/23"),
        ({"features": "l9/1"}, "no feature 'l9/1'"),
        ({"features": "l0/03"}, "no feature"),
        ({"module": 77}, "no module 77"),
        ({"layers": "l0:l7"}, "no node layer"),
        ({"features": "l0/1", "module": 2, "layers": "l2"}, "Nothing of the graph is left"),
    ],
)
def test_what_is_not_there_is_said(graph, options, what):
    with pytest.raises(UsageError, match=what):
        graph.subgraph(**options)


def test_ids_are_their_features_own():
    layers = [LayerFeatures(name, np.ones(2), ids=("a", name)) for name in "xy"]
    with pytest.raises(DataError, match="same id"):
        InteractionGraph(tuple(layers), {})
    with pytest.raises(DataError, match="different ids"):
        LayerFeatures("x", np.ones(2), ids=("a", "a"))
    assert find_feature(InteractionGraph((layers[0],), {}), "x").index == 1


def test_pandas_networkx_and_igraph_have_all_of_it(graph):
    frames = graph.to_pandas()
    whole = edges_of(graph)
    assert len(frames.nodes) == sum(layer.size for layer in graph.layers)
    assert frames.nodes.loc["l1/4", "importance"] == graph.layer("l1").importance[4]
    assert frames.nodes.loc["l1/4", "concept"] == "k1"
    pairs = zip(frames.edges.source, frames.edges.target, strict=True)
    assert dict(zip(pairs, frames.edges.weight, strict=True)) == whole
    directed = graph.to_networkx()
    assert {(a, b): w for a, b, w in directed.edges(data="weight")} == whole
    assert directed.nodes["l2/7"]["community"] == graph.communities["l2/7"]
    other = graph.to_igraph(directed=True)
    assert other.is_directed()
    names = other.vs["name"]
    assert {(names[e.source], names[e.target]): e["weight"] for e in other.es} == whole
    assert other.vs["layer"] == [layer.name for layer in graph.layers for _ in range(layer.size)]
