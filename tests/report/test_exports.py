"""Graphs for other programs and back: GEXF, GraphML, attribution graphs, circuits, tables."""

from __future__ import annotations

import csv
import itertools
import json
import os
import resource
import shutil
import subprocess
import time
import tracemalloc
from pathlib import Path

import igraph
import networkx
import numpy as np
import pytest
from helpers.graphs import planted

from libgraph.errors import DataError
from libgraph.graph.features import FeatureLabel, LayerFeatures, feature_ids
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.communities import find_communities
from libgraph.report.attribution import Titles, with_supernodes, write_attribution
from libgraph.report.circuit import circuit
from libgraph.report.gexf import write_gexf
from libgraph.report.graph_files import write_graph
from libgraph.report.graphml import write_graphml
from libgraph.report.reading import read_graph
from libgraph.report.tables import write_csv

TITLES = Titles("small", "a model", "no prompt")

HOSTILE = '<a href="x">\'&\n\t\x00\x1b\u202e👩 ]]> --> </data>'

WRITERS = {"graphml": write_graphml, "gexf": write_gexf, "json": write_graph}


@pytest.fixture(scope="module")
def graph() -> InteractionGraph:
    made, _ = planted()
    return made.with_partition(find_communities(made, seeds=2))


def assert_same(graph: InteractionGraph, other: InteractionGraph) -> None:
    for layer, again in zip(graph.layers, other.layers, strict=True):
        assert (layer.name, layer.isolated, layer.rotated) == (
            again.name, again.isolated, again.rotated
        )  # fmt: skip
        assert feature_ids(layer) == feature_ids(again)
        np.testing.assert_array_equal(layer.importance, again.importance)
        assert [label.text for label in layer.labels] == [label.text for label in again.labels]
        assert [label.concept for label in layer.labels] == [x.concept for x in again.labels]
        np.testing.assert_array_equal(graph.membership(layer.name), other.membership(layer.name))
    assert graph.epsilon == other.epsilon
    assert list(graph.edges) == list(other.edges)
    for pair in graph.edges:
        for column, again in zip(graph.kept_edges(pair), other.kept_edges(pair), strict=True):
            np.testing.assert_array_equal(column, again)


@pytest.mark.parametrize("form", WRITERS)
def test_a_graph_comes_back(graph, form, tmp_path):
    path = tmp_path / f"graph.{form}"
    WRITERS[form](graph, path)
    assert_same(graph, read_graph(path))
    assert graph.partition.modularity == read_graph(path).partition.modularity


@pytest.mark.parametrize("form", WRITERS)
def test_a_part_of_a_graph_comes_back(graph, form, tmp_path):
    path = tmp_path / f"graph.{form}"
    part = graph.subgraph(["l0/0", "l0/3", "l1/4", "l1/7", "l2"])
    WRITERS[form](part, path)
    assert_same(part, read_graph(path))


@pytest.mark.parametrize("form", ["graphml", "gexf"])
def test_networkx_and_igraph_read_the_same(graph, form, tmp_path):
    path = tmp_path / f"graph.{form}"
    WRITERS[form](graph, path)
    ours = graph.to_networkx()
    theirs = getattr(networkx, f"read_{form}")(path)
    assert set(theirs.nodes) == set(ours.nodes)
    read = {(a, b): w for a, b, w in theirs.edges(data="weight")}
    assert read == {(a, b): w for a, b, w in ours.edges(data="weight")}
    if form == "graphml":
        other = igraph.Graph.Read_GraphML(str(path))
        assert other.vcount() == ours.number_of_nodes()
        assert sorted(other.es["weight"]) == sorted(w for *_, w in ours.edges(data="weight"))


GRAPHOLOGY = ("graphology", "graphology-gexf", "graphology-graphml")

THERE_AND_BACK = """
const [form, path, back] = process.argv.slice(1), fs = require("fs");
const graph = require(`graphology-${form}`).parse(
  require("graphology").DirectedGraph, fs.readFileSync(path, "utf8"));
const edges = graph.mapEdges((_, found, a, b) => [a, b, found.weight]);
if (form === "gexf") fs.writeFileSync(back, require("graphology-gexf").write(graph));
console.log(JSON.stringify({nodes: graph.nodes(), edges}));
"""


@pytest.fixture(scope="module")
def graphology():
    """Runs a script where graphology is, the library behind sigma.js and Gephi Lite."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("there is no Node.js to run graphology in")
    root = subprocess.run([npm, "root", "--global"], capture_output=True, text=True).stdout.strip()
    if not all((Path(root) / name).is_dir() for name in GRAPHOLOGY):
        pytest.skip(f"there is no graphology: npm install --global {' '.join(GRAPHOLOGY)}")

    def run(script, *arguments):
        command = [node, "--eval", script, *map(str, arguments)]
        environment = os.environ | {"NODE_PATH": root}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("form", ["graphml", "gexf"])
def test_graphology_reads_the_same_and_is_read(graph, form, tmp_path, graphology):
    path, back = tmp_path / f"graph.{form}", tmp_path / "back.gexf"
    WRITERS[form](graph, path)
    read = graphology(THERE_AND_BACK, form, path, back)
    ours = graph.to_networkx()
    assert read["nodes"] == list(ours.nodes)
    assert {(a, b): w for a, b, w in read["edges"]} == {
        (a, b): w for a, b, w in ours.edges(data="weight")
    }
    if form == "gexf":
        again = read_graph(back)
        assert [feature_ids(layer) for layer in again.layers] == [
            feature_ids(layer) for layer in graph.layers
        ]
        assert {pair: len(again.kept_edges(pair).weight) for pair in again.edges} == {
            pair: len(graph.kept_edges(pair).weight) for pair in graph.edges
        }


@pytest.mark.parametrize("form", ["graphml", "gexf"])
def test_what_networkx_writes_is_read(graph, form, tmp_path):
    path = tmp_path / f"theirs.{form}"
    directed = networkx.DiGraph()
    directed.add_weighted_edges_from([("a", "b", 2.0), ("a", "c", -1.0), ("b", "c", 0.5)])
    getattr(networkx, f"write_{form}")(directed, path)
    read = read_graph(path)
    assert [feature_ids(layer) for layer in read.layers] == [["a"], ["b"], ["c"]]
    found = {pair: matrix.item() for pair, matrix in read.edges.items()}
    assert found == {("step 0", "step 1"): 2, ("step 0", "step 2"): 1, ("step 1", "step 2"): 0.5}
    directed.add_edge("c", "a", weight=1.0)
    getattr(networkx, f"write_{form}")(directed, path)
    with pytest.raises(DataError, match="circle"):
        read_graph(path)


@pytest.mark.parametrize("form", WRITERS)
def test_hostile_names_and_labels_stay_text(form, tmp_path):
    layers = tuple(
        LayerFeatures(name, np.ones(2), 0, labels=(FeatureLabel(HOSTILE, {HOSTILE: 1.0}),) * 2)
        for name in (f"{HOSTILE} 1", f"{HOSTILE} 2")
    )
    edges = {(layers[0].name, layers[1].name): np.ones((2, 2))}
    path = tmp_path / f"graph.{form}"
    WRITERS[form](InteractionGraph(layers, edges), path)
    read = read_graph(path)
    assert sum(len(read.kept_edges(pair).weight) for pair in read.edges) == 4
    text = read.layers[0].labels[0].text
    # XML holds neither control characters nor, in attributes, line ends as they are.
    assert text.replace("\\x00", "\x00").replace("\\x1b", "\x1b") == HOSTILE


def test_attribution_graphs_fit_their_schema(graph, reference, tmp_path):
    schema = json.loads((reference / "attribution-graph-schema.json").read_text())
    jsonschema = pytest.importorskip("jsonschema")
    write_attribution(graph, tmp_path / "small.json", TITLES)
    jsonschema.validate(json.loads((tmp_path / "small.json").read_text()), schema)


def test_attribution_graphs_have_what_front_ends_ask_for(graph, tmp_path):
    write_attribution(graph, tmp_path / "other.json", Titles("other", "m", "p"))
    write_attribution(graph, tmp_path / "small.json", TITLES)
    write_attribution(graph, tmp_path / "small.json", TITLES)
    listed = json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"]
    assert [entry["slug"] for entry in listed] == ["other", "small"]
    document = json.loads((tmp_path / "small.json").read_text())
    for key in ("slug", "scan", "prompt_tokens", "prompt"):
        assert document["metadata"][key]
    positions = len(document["metadata"]["prompt_tokens"])
    assert positions >= 2
    keys = {node["node_id"] for node in document["nodes"]}
    assert len(keys) == len(document["nodes"])
    for node in document["nodes"]:
        assert 0 <= node["ctx_idx"] < positions
        layer, feature = (int(part) for part in node["node_id"].split("_")[:2])
        assert node["feature"] == (layer + feature) * (layer + feature + 1) // 2 + feature
        assert 0 <= node["influence"] <= 1
    assert all({link["source"], link["target"]} <= keys for link in document["links"])
    members = [set(keys) for _, *keys in document["qParams"]["supernodes"]]
    assert [len(m) for m in members] == np.bincount(list(graph.communities.values())).tolist()
    again = read_graph(tmp_path / "small.json")
    for layer, other in zip(graph.layers, again.layers, strict=True):
        assert (layer.name, layer.isolated) == (other.name, other.isolated)
        assert feature_ids(layer) == feature_ids(other)
        np.testing.assert_array_equal(layer.importance, other.importance)
    for pair in graph.edges:
        kept = graph.kept_edges(pair)
        np.testing.assert_array_equal(
            again.edges[pair][kept.outputs, kept.inputs], kept.interaction
        )


def circuit_tracer() -> dict[str, object]:
    """A small graph as circuit-tracer writes it: two groups that hardly speak to each other."""
    kinds = {"E": "embedding", "1": "cross layer transcoder", "2": "cross layer transcoder"}
    nodes, links = [], []
    for layer, kind in kinds.items():
        for number in range(6):
            nodes.append(
                {
                    "node_id": f"{layer}_{number}_{number % 3}", "feature": number, "layer": layer,
                    "ctx_idx": number % 3, "feature_type": kind, "jsNodeId": f"{layer}_{number}-0",
                    "clerp": f"about {number % 2}", "activation": 1.0 + number,
                }
            )  # fmt: skip
    nodes.append(
        {**nodes[-1], "node_id": "0_2_1", "layer": "2", "feature_type": "mlp reconstruction error"}
    )
    for source, target in (("E", "1"), ("1", "2"), ("E", "2")):
        for i in range(6):
            for j in range(6):
                weight = (4.0 if i % 2 == j % 2 else 0.01) * (-1) ** i
                ends = {"source": f"{source}_{i}_{i % 3}", "target": f"{target}_{j}_{j % 3}"}
                links.append({**ends, "weight": weight})
    links.append({"source": "0_2_1", "target": "2_0_0", "weight": 3.0})
    links[-1]["source"], links[-1]["target"] = "1_0_0", "0_2_1"
    metadata = {
        "slug": "x",
        "scan": "gemma-2-2b",
        "prompt_tokens": ["a", "b", "c"],
        "prompt": "abc",
    }
    return {"metadata": metadata, "qParams": {"linkType": "both"}, "nodes": nodes, "links": links}


def test_supernodes_of_a_graph_of_circuit_tracer(tmp_path):
    document = circuit_tracer()
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(document))
    graph = read_graph(path)
    assert [layer.name for layer in graph.layers] == ["embedding", "layer 1", "layer 2"]
    assert graph.layer("layer 2").isolated == 1
    assert graph.layer("layer 2").ids[0] == "0_2_1"
    graph = graph.with_partition(find_communities(graph, seeds=2))
    written = with_supernodes(document, graph)
    groups = [set(keys) for _, *keys in written["qParams"]["supernodes"]]
    parities = [{int(key.split("_")[1]) % 2 for key in group} for group in groups]
    assert sorted(map(sorted, parities)) == [[0], [1]]
    assert written["qParams"]["linkType"] == "both"
    assert {**written, "qParams": 0} == {**document, "qParams": 0}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"links": [{"source": "E_0_0", "target": "9_9_9", "weight": 1.0}]}, "not nodes"),
        ({"links": [{"source": "2_0_0", "target": "E_0_0", "weight": 1.0}]}, "earlier layer"),
        ({"links": [{"source": "E_0_0"}]}, "complete"),
        ({"links": [
            {"source": "1_0_0", "target": "1_1_1", "weight": 1.0},
            {"source": "1_1_1", "target": "1_0_0", "weight": 1.0},
        ]}, "circle"),
    ],
)  # fmt: skip
def test_attribution_graphs_that_contradict_themselves(change, what, tmp_path):
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(circuit_tracer() | change))
    with pytest.raises(DataError, match=what):
        read_graph(path)


def test_circuits_are_sums_of_edges(graph):
    names = ("ln1.0", "ln2.0", "unembed")
    renamed = InteractionGraph(
        tuple(
            LayerFeatures(name, layer.importance)
            for name, layer in zip(names, graph.layers, strict=True)
        ),
        dict(zip(itertools.pairwise(names), graph.edges.values(), strict=True)),
        {},
    )
    document = circuit(renamed)
    kept = renamed.kept_edges(("ln1.0", "ln2.0")).interaction.sum()
    assert document["edges"]["input->a0.h0<v>"] == {"score": kept, "in_graph": True}
    assert set(document["edges"]) == {"input->a0.h0<v>", "a0.h0->m0", "m0->logits"}
    assert document["cfg"]["n_layers"] == 1


def test_tables_have_a_row_for_each(graph, tmp_path):
    nodes = write_csv(graph, tmp_path / "edges.csv")
    with (tmp_path / "edges.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["source"], row["target"]): float(row["weight"]) for row in rows} == {
        (a, b): w for a, b, w in graph.to_networkx().edges(data="weight")
    }
    with nodes.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(graph.to_pandas().nodes)


def test_what_is_no_graph_is_refused(tmp_path):
    for name, text in {
        "a.graphml": "<graphml", "b.gexf": "nothing", "c.json": "[1]", "d.json": '{"schema": 9}'
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=name):
            read_graph(tmp_path / name)
        with pytest.raises(DataError, match="cannot be read"):
            read_graph(tmp_path / f"missing.{name}")


@pytest.mark.parametrize("form", ["graphml", "gexf"])
def test_edges_take_no_memory(form, tmp_path):
    """Of four times as many edges, and as many nodes, no more than the arrays of their ends."""
    peaks = []
    for size in (60_000, 240_000):
        layers = tuple(LayerFeatures(name, np.ones(500), 0) for name in "ab")
        matrix = np.random.default_rng(0).random((500, 500))
        epsilon = float(np.sort(matrix, axis=None)[-size])
        graph = InteractionGraph(layers, {("a", "b"): matrix}, {("a", "b"): epsilon})
        graph.kept_edges(("a", "b"))
        tracemalloc.start()
        WRITERS[form](graph, tmp_path / f"graph.{form}")
        peaks.append(tracemalloc.get_traced_memory()[1] - 48 * size)
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 60 * 180_000


@pytest.mark.slow
def test_a_million_edges_take_seconds(tmp_path):
    layers = tuple(LayerFeatures(f"layer {n}", np.ones(1000), 0) for n in range(2))
    pair = (layers[0].name, layers[1].name)
    graph = InteractionGraph(layers, {pair: np.ones((1000, 1000))}, {pair: 0.5})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    write_graphml(graph, tmp_path / "graph.graphml")
    assert time.process_time() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
