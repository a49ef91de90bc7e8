"""Finished runs read back: what they hold, and directories that are none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import libgraph as lg
from libgraph.errors import UsageError
from libgraph.modules.communities import find_communities
from libgraph.runs.saved_run import SavedRun
from libgraph_backends.modular_addition.backend import ModularAddition

MISTAKES = {
    "run.json": "{}",
    "metrics.json": '{"schema": 1}',
    "graph.json": '{"schema": 1, "layers": [{}]}',
    "ablation.json": '{"lib": {"nodes": {}}}',
}


@pytest.fixture(scope="module")
def computed(weights, tmp_path_factory) -> lg.Run:
    out = tmp_path_factory.mktemp("saved") / "run"
    return lg.analyze(ModularAddition(weights=weights), out=out, seed=3, seeds=4)


@pytest.fixture
def path(computed, tmp_path) -> Path:
    return shutil.copytree(computed.directory, tmp_path / "run")


def test_everything_comes_back(computed, path):
    saved = SavedRun(str(path))
    assert saved.metrics == computed.metrics
    assert saved.basis_names == ("lib", "pca")
    assert (saved.basis, saved.backend, saved.concept) == ("lib", "modular-addition", "frequency")
    assert not saved.modules_known
    assert list(saved.layers) == computed.metrics["node_layers"]
    assert saved.record["options"]["seeds"] == 4
    for name in saved.basis_names:
        assert saved.pairs == tuple(computed.edges[name])
        assert saved.ablation(name) == computed.ablation[name]
        assert saved.errors(name) == {}
        for layer, basis in saved.bases(name).items():
            other = computed.bases[name][layer]
            assert (basis.isolated, basis.rotated) == (other.isolated, other.rotated)
            for part in ("encoder", "decoder", "importance"):
                assert torch.equal(getattr(basis, part), getattr(other, part))
        for pair, matrix in saved.edges(name).items():
            assert torch.equal(matrix, computed.edges[name][pair])


@pytest.mark.parametrize("name", ["lib", "pca"])
def test_graphs_are_those_of_the_analysis(computed, path, name):
    graph, other = SavedRun(path).graph(name), computed.graphs[name]
    assert graph.epsilon == other.epsilon
    assert list(graph.edges) == list(other.edges)
    for pair, matrix in graph.edges.items():
        np.testing.assert_array_equal(matrix, other.edges[pair])
    for layer, known in zip(graph.layers, other.layers, strict=True):
        np.testing.assert_array_equal(layer.importance, known.importance)
        assert (layer.name, layer.isolated, layer.rotated) == (
            known.name, known.isolated, known.rotated
        )  # fmt: skip
        assert layer.labels == (known.labels if name == "lib" else None)
    again = find_communities(graph, seed=3, seeds=4)
    saved = other.partition
    for layer_name, members in saved.membership.items():
        np.testing.assert_array_equal(again.membership[layer_name], members)
    assert (again.quality, again.agreement) == (saved.quality, saved.agreement)
    if name == "lib":
        assert graph.communities == other.communities
        assert (graph.partition.seed, graph.partition.seeds) == (3, 4)
    else:
        assert graph.partition is None


def test_the_graph_is_of_the_basis_asked_for_by_default(path):
    saved = SavedRun(path)
    for pair, matrix in saved.graph().edges.items():
        np.testing.assert_array_equal(matrix, saved.edges("lib")[pair].numpy())


def test_a_run_without_ablation_has_no_epsilon(weights, tmp_path):
    computed = lg.analyze(
        ModularAddition(weights=weights), out=tmp_path / "r", ablate=False, signs=2, basis="pca"
    )
    saved = SavedRun(tmp_path / "r")
    assert saved.basis_names == ("pca",)
    assert saved.ablation("pca") is None
    assert saved.graph().epsilon == {}
    assert saved.errors("pca").keys() == computed.errors["pca"].keys()
    for pair, error in saved.errors("pca").items():
        assert torch.equal(error, computed.errors["pca"][pair])


def refuses(path, *parts, call=lambda saved: saved.graph()):
    with pytest.raises(UsageError) as raised:
        call(SavedRun(path))
    for part in parts:
        assert part in str(raised.value)
    assert str(raised.value).endswith((".", "first.", "force=True."))


def test_directories_that_are_no_finished_run(path, tmp_path):
    refuses(tmp_path / "none", "There is no run", "none")
    (tmp_path / "none.partial").mkdir()
    refuses(tmp_path / "none", "not finished", "again first")
    refuses(tmp_path, "is no run")
    refuses(path / "metrics.json", "is no run")
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**record, "complete": False}))
    refuses(path, "not finished", "again first")


def test_another_schema(path):
    metrics = json.loads((path / "metrics.json").read_text())
    (path / "metrics.json").write_text(json.dumps({**metrics, "schema": 7}))
    refuses(path, "metrics.json", "schema 7", "force=True")


def test_an_unknown_basis(path):
    calls = (SavedRun.graph, SavedRun.edges, SavedRun.bases, SavedRun.errors, SavedRun.ablation)
    for call in calls[:3] + calls[4:]:
        refuses(
            path, "no basis 'ica'", "choose one of lib, pca",
            call=lambda saved, call=call: call(saved, "ica"),
        )  # fmt: skip


@pytest.mark.parametrize("file", ["run.json", "metrics.json", "graph.json", "ablation.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "list", "other"])
def test_damaged_json(path, file, damage):
    text = (path / file).read_text()
    if damage == "missing":
        (path / file).unlink()
    else:
        other = {"cut": text[: len(text) // 2], "list": "[1]", "other": MISTAKES[file]}
        (path / file).write_text(other[damage])
    named = "run" if file == "run.json" else file
    refuses(path, named)


@pytest.mark.parametrize("file", ["bases.safetensors", "edges.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "other", "shape"])
def test_damaged_tensors(path, file, damage):
    tensors = load_file(path / file)
    data = (path / file).read_bytes()
    if damage == "missing":
        (path / file).unlink()
    elif damage in {"cut", "empty"}:
        (path / file).write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    elif damage == "other":
        save_file({"x": torch.ones(2)}, path / file)
    else:
        save_file({name: each[1:].contiguous() for name, each in tensors.items()}, path / file)
    refuses(path, "do not belong together" if damage == "shape" else file, "force=True")


def test_runs_of_earlier_versions_read_too(path):
    """Before they said what concepts are called, and whether a partition is a consensus."""
    metrics = json.loads((path / "metrics.json").read_text())
    del metrics["concept"]
    (path / "metrics.json").write_text(json.dumps(metrics))
    graph = json.loads((path / "graph.json").read_text())
    del graph["partition"]["consensus"]
    (path / "graph.json").write_text(json.dumps(graph))
    saved = SavedRun(path)
    assert saved.concept == "concept"
    assert saved.graph().partition.consensus is False
