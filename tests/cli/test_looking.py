"""`libgraph show`, `export`, `view`, and `communities` of graph files."""

from __future__ import annotations

import json
import webbrowser

import pytest
from helpers.commands import fails
from helpers.graphs import planted

from libgraph.report.attribution import Titles, write_attribution
from libgraph.report.reading import read_graph
from libgraph.runs.saved_run import open_run


def test_a_feature_is_shown_with_what_feeds_it(run, finished):
    code, out, err = run("show", finished, "ln2.0/2")
    assert code == 0, err
    feature = open_run(finished).feature("ln2.0/2")
    assert feature.label.text.split(" | ")[0] in out
    for link in (*feature.inputs(10), *feature.outputs(10)):
        assert link.feature in out
    assert "Examples" in out
    printed = json.loads(run("show", finished, "ln2.0/2", "--json", "--top", 3)[1])
    assert [link["feature"] for link in printed["inputs"]] == [
        link.feature for link in feature.inputs(3)
    ]
    assert len(printed["examples"]) == len(feature.examples())


def test_modules_layers_and_searches_are_shown(run, finished):
    saved = open_run(finished)
    code, out, _ = run("show", finished, "module:0")
    assert code == 0
    assert all(name in out for name in saved.module(0).members[:10])
    assert json.loads(run("show", finished, "module 0", "--json")[1])["module"] == 0
    assert "ln2.0/3" in run("show", finished, "ln2.0")[1]
    assert len(json.loads(run("show", finished, "ln2.0", "--json")[1])["features"]) == (
        saved.graph().layer("ln2.0").size
    )
    code, out, _ = run("show", finished, "sum 3")
    assert code == 0
    assert "output/3" in out
    assert "ln1.0/1" in run("show", finished, "ln1.0/1", "--basis", "pca")[1]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("ln2.0/999", "the last is ln2.0/"),
        ("nothing", "no feature"),
        ("module:99", "no module 99"),
        ("module:-1", "no module -1 of the lib basis: it has"),
    ],
)
def test_what_is_not_there(run, finished, what, message):
    fails(run("show", finished, what), 2, message)


@pytest.mark.parametrize("form", ["graphml", "gexf", "json", "csv", "neuronpedia", "eap", "svg"])
def test_exports(run, finished, form, tmp_path):
    out = tmp_path / f"part-{form}.{ {'neuronpedia': 'json', 'eap': 'json'}.get(form, form) }"
    code, said, err = run(
        "export", finished, "--format", form, "--out", out, "--layers", "ln1.0:unembed",
        "--top-edges", 3,
    )  # fmt: skip
    assert code == 0, err
    assert "3 edges" in said
    assert out.stat().st_size > 0
    if form in ("graphml", "gexf", "json", "neuronpedia"):
        graph = read_graph(out)
        assert [layer.name for layer in graph.layers] == ["ln1.0", "ln2.0", "unembed"]
        assert sum(int((matrix > 0).sum()) for matrix in graph.edges.values()) == 3
    fails(run("export", finished, "--format", form, "--out", out), 2, "--force")


def test_an_export_needs_a_format(run, finished, tmp_path):
    fails(run("export", finished), 2, "--format")
    assert run("export", finished, "--out", tmp_path / "g.gexf", "--module", 0)[0] == 0
    graph = read_graph(tmp_path / "g.gexf")
    assert set(graph.communities.values()) == {0}
    assert run("export", tmp_path / "g.gexf", "--out", tmp_path / "g.graphml")[0] == 0
    assert read_graph(tmp_path / "g.graphml").communities == graph.communities


def test_an_export_counts_what_is_in_the_file(run, finished, tmp_path):
    for form in ("graphml", "gexf"):
        out = tmp_path / f"part.{form}"
        code, said, err = run("export", finished, "--out", out, "--top-edges", 3, "--connected")
        assert code == 0, err
        nodes = out.read_text(encoding="utf-8").count("<node ")
        assert nodes <= 6
        assert f": {nodes} features, 3 edges." in said


def test_supernodes_of_an_attribution_graph(run, tmp_path):
    graph, truth = planted(noise=0.0)
    path = tmp_path / "circuit.json"
    write_attribution(graph, path, Titles("circuit", "m", "p"))
    before = path.read_bytes()
    code, out, err = run("communities", path)
    assert code == 0, err
    assert "Modules, GRAPH" in out
    assert "p = 0.01" in out
    assert path.read_bytes() == before
    assert run("communities", path, "--write")[0] == 0
    groups = json.loads(path.read_text())["qParams"]["supernodes"]
    assert len(groups) == 3
    members = [
        {truth[name.split("/")[0]][int(name.split("/")[1])] for name in group[1:]}
        for group in groups
    ]
    assert sorted(map(sorted, members)) == [[0], [1], [2]]
    figures = json.loads(run("communities", path, "--json")[1])
    assert figures["significance"]["draws"] == 99
    fails(run("communities", path, "--sweep"), 2, "graph file")


def test_the_page_is_opened_where_it_is_asked_for(run, finished, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    assert (finished / "report.html").is_file()
    before = (finished / "report.html").read_bytes()
    assert run("view", finished, "--feature", "ln2.0/2")[0] == 0
    assert opened[0].startswith("file:///")
    assert opened[0].endswith("report.html#ln2.0/2")
    (finished / "report.html").unlink()
    code, out, _ = run("view", finished, "--no-open")
    assert code == 0
    assert "Open file:///" in out
    page = (finished / "report.html").read_bytes()
    assert run("view", finished, "--fresh", "--no-open")[0] == 0
    assert (finished / "report.html").read_bytes() == page
    assert len(opened) == 1
    assert page == before
    fails(run("view", finished, "--feature", "ln2.0/999"), 2, "no feature")


def test_a_graph_file_has_a_page(run, tmp_path):
    graph, _ = planted()
    write_attribution(graph, tmp_path / "circuit.json", Titles("circuit", "m", "p"))
    assert run("view", tmp_path / "circuit.json", "--no-open")[0] == 0
    assert "l1/3" not in (tmp_path / "circuit.html").read_text()[:1000]
    assert (tmp_path / "circuit.html").stat().st_size > 1_000_000


def test_new_modules_are_on_the_page(run, finished):
    before = (finished / "report.html").read_bytes()
    assert run("communities", finished, "--resolution", 3.0, "--write")[0] == 0
    assert (finished / "report.html").read_bytes() != before
