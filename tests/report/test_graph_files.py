"""The files of a graph in a run directory, with and without a picture."""

import errno
import logging
import sys

import numpy as np
import pytest
from helpers.graphs import planted

import libgraph as lg
from libgraph.errors import MissingExtra, TooLarge, UsageError
from libgraph.modules.communities import find_communities
from libgraph.report.graph_files import write_graph_files
from libgraph.report.reading import read_graph
from libgraph_backends.modular_addition.backend import ModularAddition

pytest.importorskip("matplotlib")


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def graph():
    graph, _ = planted()
    return graph.with_partition(find_communities(graph, seeds=1))


@pytest.fixture
def full_disk(monkeypatch):
    def full(*arguments, **how):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)


def test_a_graph_has_four_files_or_two(graph, tmp_path):
    write_graph_files(graph, tmp_path / "two", title="t", concept="c", picture=False)
    assert names(tmp_path / "two") == ["graph.graphml", "graph.json"]
    write_graph_files(graph, tmp_path / "four", title="t", concept="c")
    assert names(tmp_path / "four") == ["graph.graphml", "graph.json", "graph.png", "modules.png"]
    assert read_graph(tmp_path / "four" / "graph.json").communities == graph.communities


def test_without_matplotlib_the_others_are_written(graph, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"install .*\[report\]'"):
        write_graph_files(graph, tmp_path, title="t", concept="c")
    assert names(tmp_path) == ["graph.graphml", "graph.json"]


def analyse(weights, path):
    return lg.analyze(ModularAddition(weights=weights), out=path, ablate=False, limit=20)


def test_an_analysis_goes_on_without_matplotlib(weights, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    analyse(weights, tmp_path / "run")
    assert "graph.json" in names(tmp_path / "run")
    assert "graph.png" not in names(tmp_path / "run")
    assert "graph.png was not drawn: Pictures need matplotlib" in caplog.text


def test_an_analysis_goes_on_without_a_picture_that_is_too_large(
    weights, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("libgraph.report.graph_picture.MOST_DOTS", 100)
    with pytest.raises(TooLarge):
        lg.draw(planted()[0])
    analyse(weights, tmp_path / "run")
    assert "graph.png" not in names(tmp_path / "run")
    assert "graph.png was not drawn: The picture would be" in caplog.text


def test_a_full_disk_ends_an_analysis(weights, tmp_path, full_disk, caplog):
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(UsageError, match=r"modules\.png.*No space left on device.*free some space"),
    ):
        analyse(weights, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert "not drawn" not in caplog.text


def test_a_page_with_pictures_says_that_it_needs_bokeh(monkeypatch):
    from libgraph.report.page.packed import strip_of

    pictures = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    assert strip_of(pictures)["columns"] == 2
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"needs Bokeh: run .*\[report\]'"):
        strip_of(pictures)
