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
from libgraph.errors import DamagedFile, UsageError
from libgraph.files.manifest import signed
from libgraph.modules.communities import find_communities
from libgraph.runs.computed_run import ComputedRun
from libgraph.runs.saved_run import SavedRun, as_run, open_run
from libgraph_backends.modular_addition.backend import ModularAddition

MISTAKES = {
    "run.json": "{}",
    "metrics.json": '{"schema": 1}',
    "graph.json": '{"schema": 1, "layers": [{}]}',
    "ablation.json": '{"lib": {"nodes": {}}}',
}


@pytest.fixture(scope="module")
def computed(weights, tmp_path_factory) -> ComputedRun:
    out = tmp_path_factory.mktemp("saved") / "run"
    return lg.analyze(ModularAddition(weights=weights), out=out, seed=3, seeds=4)


@pytest.fixture
def path(computed, tmp_path) -> Path:
    return shutil.copytree(computed.directory, tmp_path / "run")


def test_everything_comes_back(computed, path):
    saved = open_run(str(path))
    assert saved.metrics == computed.metrics
    assert saved.metrics.text() == computed.metrics.text()
    assert saved.basis_names == computed.basis_names == ("lib", "pca")
    assert saved.basis == computed.basis == "lib"
    assert saved.concept == computed.concept == "frequency"
    assert saved.layers == computed.layers == tuple(computed.bases())
    assert saved.pairs == computed.pairs == tuple(computed.edges("pca"))
    assert saved.sparsity == computed.sparsity
    assert not saved.modules_known
    assert not computed.modules_known
    assert (saved.title, saved.directory) == (str(path), path)
    assert computed.title == str(computed.directory)
    assert saved.record["options"]["seeds"] == 4
    for name in saved.basis_names:
        assert saved.ablation(name) == computed.ablation(name)
        assert saved.errors(name) == computed.errors(name) == {}
        for layer, basis in saved.bases(name).items():
            other = computed.bases(name)[layer]
            assert (basis.isolated, basis.rotated) == (other.isolated, other.rotated)
            for part in ("encoder", "decoder", "importance"):
                assert torch.equal(getattr(basis, part), getattr(other, part))
        for pair, matrix in saved.edges(name).items():
            assert torch.equal(matrix, computed.edges(name)[pair])


@pytest.mark.parametrize("name", ["lib", "pca"])
def test_graphs_are_those_of_the_analysis(computed, path, name):
    graph, other = open_run(path).graph(name), computed.graph(name)
    assert graph.epsilon == other.epsilon
    assert list(graph.edges) == list(other.edges)
    for pair, matrix in graph.edges.items():
        np.testing.assert_array_equal(matrix, other.edges[pair])
    for layer, original in zip(graph.layers, other.layers, strict=True):
        np.testing.assert_array_equal(layer.importance, original.importance)
        assert (layer.name, layer.isolated, layer.rotated) == (
            original.name, original.isolated, original.rotated
        )  # fmt: skip
        assert layer.labels == (original.labels if name == "lib" else None)
    again = find_communities(graph, seed=3, seeds=4)
    partition = other.partition
    for layer_name, members in partition.membership.items():
        np.testing.assert_array_equal(again.membership[layer_name], members)
    assert (again.quality, again.agreement) == (partition.quality, partition.agreement)
    if name == "lib":
        assert graph.communities == other.communities
        assert (graph.partition.seed, graph.partition.seeds) == (3, 4)
    else:
        assert graph.partition is None


def test_the_main_basis_is_that_by_default(computed, path):
    for run in (computed, open_run(path)):
        assert run.ablation() == run.ablation("lib")
        assert run.errors() == {}
        np.testing.assert_array_equal(
            run.partition.membership["ln2.0"], computed.graph("lib").partition.membership["ln2.0"]
        )
        for pair, matrix in run.graph().edges.items():
            np.testing.assert_array_equal(matrix, run.edges("lib")[pair].numpy())
            assert torch.equal(run.edges()[pair], run.edges("lib")[pair])
        for layer, basis in run.bases().items():
            assert torch.equal(basis.encoder, run.bases("lib")[layer].encoder)


def test_a_run_that_was_not_written_has_the_name_of_its_backend(weights):
    computed = lg.analyze(ModularAddition(weights=weights), ablate=False, beside=(), seeds=1)
    assert computed.directory is None
    assert computed.title == "modular-addition"
    assert computed.ablation() is None
    assert computed.sparsity["lib"].edges_required == {}
    assert computed.sparsity["lib"].measures == computed.metrics.bases["lib"].sparsity


def test_a_run_without_ablation_has_no_epsilon(weights, tmp_path):
    computed = lg.analyze(
        ModularAddition(weights=weights), out=tmp_path / "r", ablate=False, signs=2, basis="pca"
    )
    saved = open_run(tmp_path / "r")
    assert saved.basis_names == ("pca",)
    assert saved.ablation("pca") is None
    assert saved.graph().epsilon == {}
    assert saved.errors("pca").keys() == computed.errors("pca").keys()
    for pair, error in saved.errors("pca").items():
        assert torch.equal(error, computed.errors("pca")[pair])


def test_a_path_or_a_run_is_a_run(computed, path):
    assert as_run(computed) is computed
    for directory in (path, str(path)):
        assert repr(as_run(directory)) == repr(SavedRun(path)) == f"SavedRun('{path}')"


def refuses(path, *parts, call=SavedRun.graph):
    with pytest.raises(UsageError) as raised:
        call(open_run(path))
    for part in parts:
        assert part in str(raised.value)
    assert str(raised.value).endswith((".", "first."))
    assert "--" not in str(raised.value)


def test_directories_that_are_no_finished_run(path, tmp_path):
    refuses(tmp_path / "none", "There is no run", "none")
    (tmp_path / "none.partial").mkdir()
    refuses(tmp_path / "none", "not finished", "again first")
    refuses(tmp_path, "is no run")
    refuses(path / "metrics.json", "is no run")
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(signed({**record, "complete": False})))
    refuses(path, "not finished", "again first")


def test_an_unknown_basis(computed, path):
    for method in ("graph", "edges", "bases", "errors", "ablation"):
        call = lambda run, method=method: getattr(run, method)("ica")  # noqa: E731
        refuses(path, "no basis 'ica'", "choose one of lib, pca", call=call)
        with pytest.raises(UsageError, match="no basis 'ica': choose one of lib, pca"):
            call(computed)


def without_checksums(path: Path) -> None:
    """As runs of earlier versions are: what is wrong with a file its content has to tell."""
    record = json.loads((path / "run.json").read_text())
    del record["files"], record["sha256"]
    (path / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize("file", ["run.json", "metrics.json", "graph.json", "ablation.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "list", "other"])
@pytest.mark.parametrize("checksums", [True, False])
def test_damaged_json(path, file, damage, checksums):
    if not checksums:
        without_checksums(path)
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
    without_checksums(path)
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
    without_checksums(path)
    metrics = json.loads((path / "metrics.json").read_text())
    del metrics["concept"]
    (path / "metrics.json").write_text(json.dumps(metrics))
    graph = json.loads((path / "graph.json").read_text())
    del graph["partition"]["consensus"]
    (path / "graph.json").write_text(json.dumps(graph))
    saved = open_run(path)
    assert saved.concept == "concept"
    assert saved.graph().partition.consensus is False


@pytest.mark.parametrize(
    ("file", "call"),
    [
        ("metrics.json", open_run),
        ("graph.json", lambda path: open_run(path).graph()),
        ("bases.safetensors", lambda path: open_run(path).bases()),
        ("edges.safetensors", lambda path: open_run(path).edges()),
        ("ablation.json", lambda path: open_run(path).ablation()),
        ("examples.safetensors", lambda path: open_run(path).all_examples()),
    ],
)
def test_one_flipped_bit_is_found_wherever_a_file_is_read(path, file, call):
    call(path)
    content = bytearray((path / file).read_bytes())
    content[len(content) * 2 // 3] ^= 1
    (path / file).write_bytes(content)
    with pytest.raises(DamagedFile, match=rf"{file}' cannot be read.*force=True"):
        call(path)
