import json
import re
from itertools import pairwise
from pathlib import Path

import igraph
import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from libgraph.errors import DataError, UsageError
from libgraph.graph.features import FeatureLabel, LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.communities import find_communities
from libgraph.report.appearance import module_colour, relative_importance
from libgraph.report.graph_files import write_graph
from libgraph.report.graphml import EDGE_KEYS, NODE_KEYS, write_graphml
from libgraph.report.reading import read_graph

ODD_TEXT = "a < b & \"c\" > 'd' \n τ 𝄞"


def example(seed=0, epsilon=True):
    rng = np.random.default_rng(seed)
    labels = tuple(FeatureLabel(f"{ODD_TEXT} {k}", {"15": 0.9, "<&>": 0.1}) for k in range(12))
    layers = (
        LayerFeatures("ln1.0", np.exp(rng.normal(0, 4, 12)), labels=labels),
        LayerFeatures("blocks.3.<&>", np.exp(rng.normal(0, 4, 9))),
        LayerFeatures("output", np.ones(7), isolated=0, rotated=False),
    )
    pairs = [("ln1.0", "blocks.3.<&>"), ("blocks.3.<&>", "output")]
    edges = {
        pairs[0]: np.exp(rng.normal(0, 3, (9, 12))),
        pairs[1]: np.exp(rng.normal(0, 3, (7, 9))),
    }
    graph = InteractionGraph(layers, edges, dict.fromkeys(pairs, 1.0) if epsilon else {})
    return graph.with_partition(find_communities(graph, seeds=2))


@pytest.mark.parametrize("epsilon", [True, False])
def test_networkx_reads_the_same_graph(tmp_path, epsilon):
    graph = example(epsilon=epsilon)
    write_graphml(graph, tmp_path / "graph.graphml")
    read = networkx.read_graphml(tmp_path / "graph.graphml")
    assert read.is_directed()
    assert not read.is_multigraph()

    assert len(read) == 12 + 9 + 7
    for layer in graph.layers:
        for feature in range(layer.size):
            node = read.nodes[f"{layer.name}/{feature}"]
            assert (node["layer"], node["feature"]) == (layer.name, feature)
            assert node["importance"] == layer.importance[feature]
            assert node["community"] == graph.membership(layer.name)[feature]
            assert (node["r"], node["g"], node["b"]) == module_colour(node["community"])
            if layer.labels is not None:
                assert node["label"] == f"{layer.name}/{feature}  {layer.labels[feature].text}"
                assert node["concept"] == "15"

    expected = {}
    for (source, target), matrix in graph.edges.items():
        kept = graph.kept_edges((source, target))
        for j, i in zip(kept.outputs, kept.inputs, strict=True):
            expected[f"{source}/{i}", f"{target}/{j}"] = matrix[j, i]
    assert {(a, b): data["interaction"] for a, b, data in read.edges(data=True)} == expected
    clustered = graph.weights()["ln1.0", "blocks.3.<&>"]
    for a, b, data in read.edges(data=True):
        assert data["weight"] > 0
        if not b.startswith("output"):
            i, j = int(a.rsplit("/")[-1]), int(b.rsplit("/")[-1])
            floor = 0.01 if epsilon else 0
            assert data["weight"] == pytest.approx(max(clustered[j, i], floor), rel=1e-12)


def test_positions_and_sizes_suit_gephi(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"l{k}" for k in range(13)]
    layers = tuple(LayerFeatures(name, np.exp(rng.normal(0, 9, 300))) for name in names)
    write_graphml(InteractionGraph(layers, {}), tmp_path / "graph.graphml")
    nodes = networkx.read_graphml(tmp_path / "graph.graphml").nodes(data=True)
    x, y, size = (np.array([data[key] for _, data in nodes]) for key in ("x", "y", "size"))
    assert np.abs([x, y]).max() <= 5000
    assert abs(x.mean()) < 1e-6
    assert size.max() / size.min() == pytest.approx(25)
    assert 0 < size.min() < size.max() <= 100
    assert len({*zip(x, y, strict=True)}) == len(x)
    columns = [{data["x"] for _, data in nodes if data["layer"] == name} for name in names]
    assert all(len(column) == 1 for column in columns)
    assert columns == sorted(columns, key=min)


@pytest.mark.parametrize(("layers", "features"), [(3, 40), (13, 300), (75, 120)])
def test_nodes_do_not_overlap(tmp_path, layers, features):
    rng = np.random.default_rng(0)
    names = [f"l{k}" for k in range(layers)]
    columns = tuple(LayerFeatures(name, np.exp(rng.normal(0, 3, features))) for name in names)
    edges = {pair: np.exp(rng.normal(0, 3, (features, features))) for pair in pairwise(names)}
    graph = InteractionGraph(columns, edges, dict.fromkeys(edges, 1e4))
    write_graphml(graph, tmp_path / "graph.graphml")
    read = networkx.read_graphml(tmp_path / "graph.graphml")
    nodes = [data for _, data in read.nodes(data=True)]
    x, y, size = (np.array([node[key] for node in nodes]) for key in ("x", "y", "size"))
    assert np.abs([x, y]).max() <= 5000
    for name in names:
        column = np.flatnonzero([node["layer"] == name for node in nodes])
        column = column[np.argsort(y[column])]
        # Sizes are radii.
        assert (np.diff(y[column]) > size[column][1:] + size[column][:-1]).all()
    assert 2 * size.max() < np.diff(np.unique(x)).min()


def test_features_without_an_edge_stand_apart_or_are_left_out(tmp_path):
    layers = tuple(LayerFeatures(name, np.exp(-np.arange(9.0)), isolated=0) for name in "ab")
    matrix = np.zeros((9, 9))
    matrix[:4, :4] = 1
    graph = InteractionGraph(layers, {("a", "b"): matrix})
    write_graphml(graph, tmp_path / "all.graphml")
    nodes = networkx.read_graphml(tmp_path / "all.graphml").nodes
    heights = np.array([nodes[f"a/{k}"]["y"] for k in range(9)])
    gaps = -np.diff(np.sort(heights)[::-1])
    assert heights[:4].min() > heights[4:].max()
    assert gaps.argmax() == 3
    assert gaps[3] > 3 * np.delete(gaps, 3).max()
    write_graphml(graph, tmp_path / "some.graphml", connected=True)
    read = networkx.read_graphml(tmp_path / "some.graphml")
    assert set(read) == {f"{layer}/{k}" for layer in "ab" for k in range(4)}
    assert read.number_of_edges() == 16


def test_igraph_reads_it_too(tmp_path):
    graph = example()
    write_graphml(graph, tmp_path / "graph.graphml")
    read = igraph.Graph.Read_GraphML(str(tmp_path / "graph.graphml"))
    assert read.vcount() == 28
    assert read.ecount() == sum(len(graph.kept_edges(pair).inputs) for pair in graph.edges)
    assert set(read.vs["layer"]) == {"ln1.0", "blocks.3.<&>", "output"}


def test_modules_stand_together(tmp_path):
    graph = example()
    write_graphml(graph, tmp_path / "graph.graphml")
    nodes = [data for _, data in networkx.read_graphml(tmp_path / "graph.graphml").nodes(data=True)]
    column = sorted((n for n in nodes if n["layer"] == "ln1.0"), key=lambda n: -n["y"])
    modules = [n["community"] for n in column]
    assert modules == sorted(modules, key=lambda m: (m < 0, m))


def test_edges_above_sort_a_column_without_crossings(tmp_path):
    # A permutation has an order without crossings: the barycentre method finds it.
    permutation = np.random.default_rng(1).permutation(8)
    layers = tuple(LayerFeatures(name, np.ones(8), isolated=0) for name in "ab")
    graph = InteractionGraph(layers, {("a", "b"): np.eye(8)[permutation]})
    write_graphml(graph, tmp_path / "graph.graphml")
    read = networkx.read_graphml(tmp_path / "graph.graphml")
    assert all(read.nodes[a]["y"] == read.nodes[b]["y"] for a, b in read.edges)


def test_importance_scale():
    importance = np.array([1e9, 100.0, 1.0, 1e-9, 0.0, -1.0])
    np.testing.assert_allclose(relative_importance(importance, 1), [0, 1, 0.5, 0, 0, 0])
    assert relative_importance(np.zeros(2), 0).tolist() == [0, 0]


def test_colours_of_many_modules_differ():
    colours = [module_colour(k) for k in range(-1, 60)]
    assert len(set(colours)) == len(colours)
    assert all(0 <= channel <= 255 for colour in colours for channel in colour)


def test_same_bytes_every_time_and_no_rest(tmp_path):
    for name in ("one", "two"):
        write_graphml(example(), tmp_path / f"{name}.graphml")
        write_graph(example(), tmp_path / f"{name}.json")
    for kind in ("graphml", "json"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("bad", ["\x00", "\x1b", "\ud800", "\uffff"])
def test_what_xml_cannot_hold_is_escaped(tmp_path, bad):
    path, escaped = tmp_path / "graph.graphml", bad.encode("unicode-escape", "surrogatepass")
    shown = escaped.decode()
    label = FeatureLabel(f"x{bad}", {bad: 1.0})
    layers = (
        LayerFeatures(f"a{bad}", np.ones(1), 0, labels=(label,)),
        LayerFeatures("b", np.ones(1), 0),
    )
    graph = InteractionGraph(layers, {(f"a{bad}", "b"): np.ones((1, 1))})
    write_graphml(graph, path)
    read = networkx.read_graphml(path)
    node = read.nodes[f"a{shown}/0"]
    assert (node["layer"], node["concept"]) == (f"a{shown}", shown)
    assert node["label"] == f"a{shown}/0  x{shown}"
    assert list(read.edges) == [(f"a{shown}/0", "b/0")]
    # JSON has the very text.
    write_graph(graph, tmp_path / "graph.json")
    same(graph, read_graph(tmp_path / "graph.json"))
    twice = (*layers, LayerFeatures(f"a{shown}", np.ones(1)))
    with pytest.raises(DataError, match="rename one of them"):
        write_graphml(InteractionGraph(twice, {}), path)


def test_a_place_that_is_not_there(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UsageError, match="choose another place"):
        write_graphml(example(), file / "graph.graphml")


def same(first, second):
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    for a, b in zip(first.layers, second.layers, strict=True):
        np.testing.assert_array_equal(a.importance, b.importance)
        assert (a.isolated, a.rotated, a.labels) == (b.isolated, b.rotated, b.labels)
    assert first.epsilon == second.epsilon
    for pair in first.edges:
        for column, other in zip(first.kept_edges(pair), second.kept_edges(pair), strict=True):
            np.testing.assert_array_equal(column, other)


@pytest.mark.parametrize("epsilon", [True, False])
def test_json_comes_back_exactly(tmp_path, epsilon):
    graph = example(epsilon=epsilon)
    write_graph(graph, tmp_path / "graph.json")
    read = read_graph(tmp_path / "graph.json")
    same(graph, read)
    assert read.communities == graph.communities
    assert read.partition.agreement == graph.partition.agreement
    write_graph(read, tmp_path / "again.json")
    write_graphml(read, tmp_path / "again.graphml")
    write_graphml(graph, tmp_path / "graph.graphml")
    for kind in ("json", "graphml"):
        again = (tmp_path / f"again.{kind}").read_bytes()
        assert again == (tmp_path / f"graph.{kind}").read_bytes()


@given(
    matrix=arrays(np.float64, (6, 5), elements=st.floats(0, 1e300)),
    epsilon=st.none() | st.floats(1e-300, 1e300),
    name=st.text(st.characters(codec="utf-8"), min_size=1),
)
@settings(deadline=None, max_examples=40)
def test_json_round_trip_of_anything(tmp_path_factory, matrix, epsilon, name):
    layers = (LayerFeatures("a", np.ones(5)), LayerFeatures(f"b{name}", np.ones(6)))
    pair = ("a", f"b{name}")
    graph = InteractionGraph(layers, {pair: matrix}, {} if epsilon is None else {pair: epsilon})
    path = tmp_path_factory.mktemp("json") / "graph.json"
    write_graph(graph, path)
    same(graph, read_graph(path))


def test_json_is_readable_by_others(tmp_path):
    graph = example()
    write_graph(graph, tmp_path / "graph.json")
    document = json.loads((tmp_path / "graph.json").read_text())
    assert document["schema"] == 1
    (first, _) = document["edges"]
    matrix = graph.edges["ln1.0", "blocks.3.<&>"]
    assert [matrix[j, i] for j, i in zip(first["out"], first["in"], strict=True)] == first[
        "interaction"
    ]
    assert len(first["interaction"]) == (matrix[1:, 1:] >= 1).sum()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema": 2}', '{"schema": 1}', '{"schema": 1, "layers": 3}', None]
)
def test_broken_json_is_refused(tmp_path, text):
    path = tmp_path / "graph.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=r"graph\.json"):
        read_graph(path)


def test_the_page_on_gephi_names_what_is_in_the_file():
    """As Gephi calls them, which writes Id, Label and Weight for the first of each."""
    page = (Path(__file__).parents[2] / "docs" / "gephi.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = {name.lower() for row in rows for name in re.findall(r"`(\w+)`", row)}
    places_and_looks = {"x", "y", "size", "r", "g", "b"}
    assert named == {"id", *NODE_KEYS, *EDGE_KEYS} - places_and_looks
