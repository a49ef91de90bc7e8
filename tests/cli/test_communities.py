"""`libgraph communities`: what it prints, what it leaves alone, what it replaces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import fails

from libgraph.modules.communities import find_communities
from libgraph.runs.saved_run import open_run

CHANGED = {
    "graph.graphml", "graph.json", "graph.png", "metrics.json", "modules.png", "report.html",
}  # fmt: skip


@pytest.fixture
def path(finished) -> Path:
    """The weights are random: planted modules would be found at any γ, and here γ matters."""
    return finished


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_the_modules_of_the_run_are_found_again(run, path):
    before = files(path)
    code, out, err = run("communities", path)
    assert code == 0, err
    assert "Modules, LIB: modularity" in out
    assert "frequency" in out
    assert "Written" not in out
    metrics = json.loads(before["metrics.json"])
    code, out, _ = run("communities", path, "--json")
    printed = json.loads(out)
    assert printed["partition"] == metrics["modules"]["partition"]
    assert {name: printed[name] for name in metrics["bases"]["lib"]["modules"]} == (
        metrics["bases"]["lib"]["modules"]
    )
    assert files(path) == before


def test_the_table_is_that_of_analyze(run, analyzed):
    start = analyzed.out.index("Modules, LIB")
    expected = analyzed.out[start : analyzed.out.index("Modules, PCA")]
    assert run("communities", analyzed.path)[1] == expected


def test_options_reach_leiden(run, path):
    graph = open_run(path).graph()
    code, out, _ = run(
        "communities", path, "--resolution", 2.5, "--seed", 7, "--seeds", 2, "--json"
    )
    assert code == 0
    printed = json.loads(out)
    expected = graph.with_partition(find_communities(graph, 2.5, 7, 2))
    assert printed["partition"] == expected.communities
    assert (printed["resolution"], printed["seed"], printed["seeds"]) == (2.5, 7, 2)
    assert printed["agreement"] == expected.partition.agreement
    assert printed["partition"] != graph.communities


def test_another_basis(run, path):
    code, out, _ = run("communities", path, "--basis", "pca", "--json")
    assert code == 0
    printed = json.loads(out)
    saved = open_run(path)
    of_the_run = saved.metrics.as_dict()["bases"]["pca"]["modules"]
    for name in ("count", "modularity", "agreement"):
        assert printed[name] == of_the_run[name]
    assert [row["size"] for row in printed["table"]] == [row["size"] for row in of_the_run["table"]]
    assert run("communities", path, "--basis", "pca")[1].startswith("Modules, PCA")
    fails(run("communities", path, "--basis", "pca", "--write"), 2, "lib basis", "--basis pca")


def test_write_replaces_the_modules_and_nothing_else(run, path):
    before = files(path)
    code, out, err = run("communities", path, "--resolution", 3, "--write")
    assert code == 0, err
    assert f"Written to {path}: the modules in its files." in " ".join(out.split())
    after = files(path)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == CHANGED | {"run.json"}
    # The record of the run says which files these are, and else what it said.
    records = [json.loads(each["run.json"]) for each in (before, after)]
    for record in records:
        del record["files"], record["sha256"]
    assert records[0] == records[1]
    saved = open_run(path)
    metrics = json.loads(saved.metrics.text())
    assert saved.graph().partition.resolution == metrics["modules"]["resolution"] == 3
    assert saved.graph().communities == metrics["modules"]["partition"]
    untouched = json.loads(before["metrics.json"])
    for figures in (metrics, untouched):
        figures["bases"]["lib"]["modules"] = figures["modules"] = None
    assert metrics == untouched
    # What was written is what is used by default from then on, and γ = 1 leads back.
    assert json.loads(run("communities", path, "--json")[1])["resolution"] == 3
    assert run("communities", path, "--resolution", 1, "--write", "-q")[0] == 0
    assert files(path) == before


def test_written_files_are_those_of_an_analysis(run, analyze, path):
    # The page has the modules of the other basis too, which an analysis finds at the same γ.
    names = ("graph.graphml", "graph.json", "graph.png", "modules.png")
    assert run("communities", path, "--resolution", 2, "--write")[0] == 0
    written = {name: (path / name).read_bytes() for name in names}
    assert analyze("--force", "--resolution", 2)[0] == 0
    assert {name: (path / name).read_bytes() for name in names} == written


def test_consensus(run, path):
    code, out, _ = run("communities", path, "--consensus", "--seeds", 6, "--json", "--write")
    assert code == 0
    assert json.loads(out)["consensus"] is True
    assert open_run(path).graph().partition.consensus
    assert json.loads((path / "metrics.json").read_text())["modules"]["consensus"] is True


def test_sweep_draws_and_prints(run, path):
    pytest.importorskip("matplotlib")
    before = files(path)
    code, out, err = run("communities", path, "--sweep", "--seeds", 1)
    assert code == 0, err
    assert "resolutions: " in err
    assert "Modules over resolutions, LIB" in out
    assert "Modules, LIB" in out
    assert len([line for line in out.splitlines() if line.startswith(("0.", "1", "2", "3"))]) >= 20
    after = files(path)
    assert after.pop("resolution.png")[:4] == b"\x89PNG"
    del after["run.json"], before["run.json"]
    assert after == before
    code, out, err = run("communities", path, "--sweep", "--basis", "pca", "--json", "-q")
    assert (code, err) == (0, "")
    printed = json.loads(out)["resolutions"]
    assert (printed["seed"], printed["seeds"], len(printed["rows"])) == (0, 5, 25)
    assert (path / "resolution-pca.png").exists()
    assert files(path)["resolution.png"][:4] == b"\x89PNG"


def test_a_sweep_that_is_written_is_in_the_metrics(run, path):
    code, out, _ = run("communities", path, "--sweep", "--seeds", 1, "--write", "--json")
    assert code == 0
    swept = json.loads(out)["resolutions"]
    # It stays, as its figure does, when other modules are chosen.
    for _ in range(2):
        metrics = json.loads((path / "metrics.json").read_text())
        assert metrics["bases"]["lib"]["modules"]["resolutions"] == swept
        assert run("communities", path, "--resolution", 2, "--write")[0] == 0


def test_without_matplotlib(run, path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    before = files(path)
    result = run("communities", path, "--sweep", "--seeds", 1)
    fails(result, 2, "[report]'")
    assert "Modules over resolutions" in result[1]
    fails(run("communities", path, "--write", "--resolution", 2), 2, "[report]'")
    assert files(path) == before
    # A run that was made without pictures gets none.
    for name in ("graph.png", "modules.png"):
        (path / name).unlink()
    assert run("communities", path, "--write", "--resolution", 2)[0] == 0
    assert files(path).keys() == before.keys() - {"graph.png", "modules.png"}


def test_a_full_disk_leaves_the_run_as_it_was(run, path, monkeypatch):
    before = files(path)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    for place in ("libgraph.files.figures.write_json", "libgraph.files.atomic.os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            fails(run("communities", path, "--write", "--resolution", 2), 2, "No space left")
        assert files(path) == before


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--resolution", 0), "positive"),
        (("--resolution", "nan"), "positive"),
        (("--resolution", "inf"), "positive"),
        (("--resolution", "many"), "many"),
        (("--seeds", 0), "--seeds"),
        (("--seed", -1), "--seed"),
        (("--seed", 10**30), "--seed"),
        (("--basis", "ica"), "choose one of lib, pca"),
        (("--bassis", "lib"), "--basis"),
    ],
)
def test_bad_values(run, path, arguments, part):
    before = files(path)
    fails(run("communities", path, *arguments), 2, part)
    fails(run("communities", path, *arguments, "--sweep", "--consensus", "--write"), 2, part)
    assert files(path) == before


def test_directories_that_are_no_run(run, path, tmp_path):
    fails(run("communities", tmp_path / "none"), 2, "There is no run")
    fails(run("communities", tmp_path), 2, "is no run")
    (tmp_path / "other.partial").mkdir()
    fails(run("communities", tmp_path / "other"), 2, "not finished")
    fails(run("communities"), 2, "RUN")


@pytest.mark.parametrize("file", ["edges.safetensors", "ablation.json", "graph.json"])
def test_a_damaged_run(run, path, file):
    data = (path / file).read_bytes()
    (path / file).write_bytes(data[: len(data) // 2])
    fails(run("communities", path, "--write"), 2, file, "analyse again", "force")


def test_true_modules_that_are_known_are_scored(run, tmp_path):
    options = ("-o", "samples=500", "-o", "layers=2", "-o", "width=6")
    code, _, err = run("analyze", "mlp", "--out", "m", "--no-ablation", *options)
    assert code == 0, err
    metrics = json.loads((tmp_path / "m" / "metrics.json").read_text())
    printed = json.loads(run("communities", "m", "--json")[1])
    for name in ("homogeneity", "adjusted_rand_index", "coverage"):
        assert printed[name] == metrics["modules"][name]
    assert "homogeneity" in run("communities", "m")[1]
    assert "block" in run("communities", "m")[1]
    assert "homogeneity" not in json.loads(run("communities", "m", "--basis", "pca", "--json")[1])


def test_modules_found_again_do_not_depend_on_the_process(run, path):
    """Another process, another hash seed, another global random state."""
    here = run("communities", path, "--json")[1]
    command = [sys.executable, "-m", "libgraph_cli", "communities", str(path), "--json", "-q"]
    there = subprocess.run(
        command,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert there == here
    assert np.isfinite(json.loads(there)["modularity"])


def test_the_graph_is_drawn_to_a_file_of_ones_own(run, path, tmp_path):
    pytest.importorskip("matplotlib")
    before = files(path)
    drawn = tmp_path / "mine.pdf"
    code, out, err = run("communities", path, "--figure", drawn, "--max-features", 3)
    assert code == 0, err
    assert f"Drawn to {drawn}." in " ".join(out.split())
    assert drawn.read_bytes().startswith(b"%PDF")
    assert files(path) == before
    fails(run("communities", path, "--figure", tmp_path / "mine.gif"), 2, ".png, .svg or .pdf")
    fails(run("communities", path, "--max-features", 3), 2, "--max-features is for --figure")


def test_the_objective_of_a_run_is_kept_and_can_be_another(run, path):
    assert json.loads(run("communities", path, "--json")[1])["objective"] == "layered"
    code, out, _ = run("communities", path, "--objective", "modularity", "--json", "--write")
    assert (code, json.loads(out)["objective"]) == (0, "modularity")
    assert open_run(path).graph().partition.objective == "modularity"
    # It is what is used from then on.
    assert json.loads(run("communities", path, "--json")[1])["objective"] == "modularity"
    fails(
        run("communities", path, "--objective", "surprise", "--resolution", 2), 2, "no resolution"
    )
    assert run("communities", path, "--objective", "surprise", "--resolution", 1)[0] == 0


def test_the_exact_profile_is_of_modularity(run, path):
    sweep = ("communities", path, "--sweep", "--exact", "--seeds", 1, "-q")
    fails(run(*sweep), 2, "no exact profile of the objective 'layered'")
    code, _, err = run(*sweep, "--objective", "modularity")
    assert (code, err) == (0, "")
    fails(run("communities", path, "--exact"), 2, "--exact is for --sweep")


def test_features_without_an_edge_can_be_left_out_for_gephi(run, path):
    fails(run("communities", path, "--connected"), 2, "--connected is for --write")
    everything = (path / "graph.graphml").read_text().count("<node ")
    assert run("communities", path, "--connected", "--write")[0] == 0
    graph = open_run(path).graph()
    ends = {
        (layer, feature)
        for (source, target) in graph.edges
        for layer, column in (
            (source, graph.kept_edges((source, target)).inputs),
            (target, graph.kept_edges((source, target)).outputs),
        )
        for feature in column.tolist()
    }
    assert (path / "graph.graphml").read_text().count("<node ") == len(ends) < everything
