"""`libgraph diff`: what it prints of two runs and of several, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import fails
from helpers.runs import forget_checksums

import libgraph as lg
from libgraph.comparison.difference import diff
from libgraph_backends.modular_addition.backend import ModularAddition


@pytest.fixture(scope="module")
def finished(weights, tmp_path_factory) -> Path:
    """Three runs, `step-1` to `step-3`: the same weights, those moved a little, other weights."""
    out = tmp_path_factory.mktemp("diff")
    moved = {name: each + 0.05 * each.std() * noise(each, 1) for name, each in weights.items()}
    other = {name: each.std() * noise(each, 2) for name, each in weights.items()}
    for step, each in enumerate((weights, moved, other), start=1):
        lg.analyze(ModularAddition(weights=each), out=out / f"step-{step}", seeds=2)
    return out


def noise(like, seed: int):
    import torch

    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)


@pytest.fixture
def paths(finished, tmp_path) -> list[Path]:
    return [shutil.copytree(finished / f"step-{i}", tmp_path / f"step-{i}") for i in (1, 2, 3)]


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_a_run_and_itself(run, paths):
    before = files(paths[0])
    code, out, err = run("diff", paths[0], paths[0])
    assert (code, err) == (0, "")
    assert out.startswith(f"A: {paths[0]}, LIB\nB: {paths[0]}, LIB\n")
    for heading in ("Features, A / B", "Overlap of the leading", "Kept edges", "Modules of A in B"):
        assert heading in out
    assert "agreement 1.00" in out
    assert "0 lost, 0 gained" in out
    assert "Not compared" not in out
    assert "Written" not in out
    assert files(paths[0]) == before
    found = json.loads(run("diff", paths[0], paths[0], "--json")[1])
    (difference,) = found["differences"]
    assert found["runs"] == [{"run": str(paths[0]), "basis": "lib"}] * 2
    assert difference["others"] == {}
    for layer in difference["layers"].values():
        assert layer["share_matched"] == 1
        assert layer["matches"]["a"] == layer["matches"]["b"]
        np.testing.assert_allclose(layer["matches"]["cosine"], 1)
    for pair in difference["pairs"].values():
        assert (pair["lost"], pair["gained"], pair["jaccard"]) == (0, 0, 1)
    assert difference["modules"]["agreement"] == pytest.approx(1)


def test_two_runs(run, paths):
    code, out, _ = run("diff", *paths[:2], "--json")
    assert code == 0
    expected = diff(*paths[:2]).as_dict()
    assert json.loads(out)["differences"] == json.loads(json.dumps([expected]))
    assert sum(layer["matched"] for layer in expected["layers"].values()) > 0
    assert run("diff", *paths[:2])[1] != run("diff", paths[0], paths[2])[1]


def test_threshold_and_basis_reach_the_comparison(run, paths):
    def matched(*arguments: object) -> int:
        out = run("diff", paths[0], paths[2], "--json", *arguments)[1]
        (difference,) = json.loads(out)["differences"]
        return sum(each["matched"] for each in difference["layers"].values() if each["rotated"])

    counts = [matched("--threshold", each) for each in (0, 0.5, 0.9, 1)]
    assert counts[0] > counts[1] > counts[2] >= counts[3] == 0
    assert matched() == counts[2]
    found = json.loads(run("diff", *paths[:2], "--json", "--basis", "pca")[1])
    assert [each["basis"] for each in found["runs"]] == ["pca", "pca"]
    found = json.loads(run("diff", *paths[:2], "--json", "--basis-b", "pca")[1])
    assert [each["basis"] for each in found["runs"]] == ["lib", "pca"]
    assert "|cosine| at least 0.25" in run("diff", *paths[:2], "--threshold", 0.25)[1]


def test_two_bases_of_one_run(run, paths):
    once = run("diff", paths[0], "--basis-b", "pca")
    twice = run("diff", paths[0], paths[0], "--basis", "lib", "--basis-b", "pca")
    assert once[0] == 0
    assert once == twice
    assert f"B: {paths[0]}, PCA" in once[1]


def test_several_runs(run, paths):
    code, out, err = run("diff", *paths)
    assert (code, err) == (0, "")
    assert "Each and the one before it" in out
    assert [line.split()[0] for line in out.splitlines() if line.startswith("step-")] == [
        "step-1", "step-2", "step-3", "step-2", "step-3"
    ]  # fmt: skip
    found = json.loads(run("diff", *paths, "--json")[1])
    for path, row in zip(paths, found["runs"], strict=True):
        metrics = json.loads((path / "metrics.json").read_text())
        assert row["run"] == str(path)
        assert row["score"] == metrics["score"]["test"]
        assert row["modularity"] == metrics["bases"]["lib"]["modules"]["modularity"]
    assert found["runs"][2]["overlap_last"] == pytest.approx(1)
    for index in (0, 1):
        pair = run("diff", *paths[index : index + 2], "--json")[1]
        assert json.loads(pair)["differences"][0] == found["differences"][index]


def test_a_figure(run, paths, tmp_path):
    pytest.importorskip("matplotlib")
    code, out, err = run("diff", *paths, "--figure", "a.png")
    assert code == 0, err
    assert out.endswith("Written to a.png.\n")
    assert run("diff", *paths, "--figure", "deep/b.png", "--json")[0] == 0
    drawn = (tmp_path / "a.png").read_bytes()
    assert drawn[:4] == b"\x89PNG"
    assert (tmp_path / "deep" / "b.png").read_bytes() == drawn
    # Two runs in detail may be drawn as well, and runs by name where names have no numbers.
    assert run("diff", *paths[:2], "--figure", "c.png")[0] == 0
    (tmp_path / "step-1").rename(tmp_path / "first")
    assert run("diff", "first", *paths[1:], "--figure", "d.png")[0] == 0
    images = {(tmp_path / name).read_bytes() for name in ("a.png", "c.png", "d.png")}
    assert len(images) == 3
    fails(run("diff", *paths[1:], "--figure", "a.png/b.png"), 2, "Cannot write")


def test_runs_without_ablation(run, weights, paths, tmp_path):
    pytest.importorskip("matplotlib")
    lg.analyze(ModularAddition(weights=weights), out=tmp_path / "bare", ablate=False, seeds=2)
    code, out, err = run("diff", "bare", "bare", "bare", "--figure", "bare.png")
    assert code == 0, err
    row = next(line for line in out.splitlines() if line.startswith("bare"))
    assert row.split()[2] == "-"
    code, _, err = run("diff", paths[0], "bare")
    assert code == 0, err


def test_networks_that_differ(run, paths):
    options = ("-o", "samples=200", "--no-ablation", "-q")
    for name, width, layers in (("m", 6, 2), ("wider", 8, 2), ("deeper", 6, 3)):
        shape = ("-o", f"width={width}", "-o", f"layers={layers}")
        assert run("analyze", "mlp", "--out", name, *options, *shape)[0] == 0
    fails(run("diff", paths[0], "m"), 2, "no node layer", "ln1.0 of", "same network.")
    fails(run("diff", "m", "wider"), 2, "no node layer", "input of 13", "input of 17")
    code, out, err = run("diff", "m", "deeper")
    assert code == 0, err
    assert "Not compared: hidden3 (no such layer in A, 13 coordinates in B)" in out
    found = json.loads(run("diff", "deeper", "m", "--json")[1])["differences"][0]
    assert found["others"] == {"hidden3": [13, None]}
    # A layer pair that one of them does not have is not compared either.
    assert list(found["pairs"]) == ["input->hidden1", "hidden1->hidden2"]


def test_without_matplotlib(run, paths, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("diff", *paths, "--figure", "a.png")
    fails(result, 2, "[report]'")
    assert "Each and the one before it" in result[1]
    assert run("diff", *paths)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--threshold", 1.5), "--threshold"),
        (("--threshold", -0.1), "--threshold"),
        (("--threshold", "nan"), "threshold"),
        (("--threshold", "much"), "much"),
        (("--basis", "ica"), "choose one of lib, pca"),
        (("--basis-b", "ica"), "choose one of lib, pca"),
        (("--figure", "a.gif"), ".png"),
        (("--bassis", "lib"), "--basis"),
    ],
)
def test_bad_values(run, paths, arguments, part):
    result = run("diff", *paths[:2], *arguments)
    fails(result, 2, part)
    # Said before anything is computed.
    assert result[1] == ""


def test_wrong_numbers_of_runs(run, paths):
    fails(run("diff"), 2, "RUN")
    fails(run("diff", paths[0]), 2, "one run only", "--basis-b")
    fails(run("diff", paths[0], "--basis", "lib"), 2, "one run only")
    fails(run("diff", *paths, "--basis-b", "pca"), 2, "--basis-b is for two runs")


def test_directories_that_are_no_run(run, paths, tmp_path):
    fails(run("diff", paths[0], tmp_path / "none"), 2, "There is no run")
    fails(run("diff", tmp_path, paths[0]), 2, "is no run")
    (tmp_path / "other.partial").mkdir()
    fails(run("diff", paths[0], tmp_path / "other"), 2, "not finished")


@pytest.mark.parametrize("file", ["edges.safetensors", "bases.safetensors", "graph.json"])
def test_a_damaged_run(run, paths, file):
    data = (paths[1] / file).read_bytes()
    (paths[1] / file).write_bytes(data[: len(data) // 2])
    fails(run("diff", *paths[:2]), 2, file, "analyse again", "force")


@pytest.mark.parametrize("key", ["sparsity", "edges_required", "modules"])
def test_metrics_that_are_damaged(run, paths, key):
    metrics = json.loads((paths[1] / "metrics.json").read_text())
    del metrics["bases"]["lib"][key]
    (paths[1] / "metrics.json").write_text(json.dumps(metrics))
    fails(run("diff", *paths), 2, "metrics.json", "analyse again", "force")
    forget_checksums(paths[1])
    fails(run("diff", *paths), 2, "metrics.json", f"lib.{key} is missing", "analyse again", "force")


def test_a_config_file(run, paths, tmp_path):
    (tmp_path / "c.toml").write_text('threshold = 0.25\nbasis = "pca"\n')
    out = run("diff", *paths[:2], "--config", tmp_path / "c.toml")[1]
    assert "|cosine| at least 0.25" in out
    assert "PCA" in out


def test_help_loads_no_torch():
    code = (
        "import sys; from libgraph_cli.main import cli\n"
        "try: cli(['diff', '--help'], prog_name='libgraph')\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'scipy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--basis-b" in done.stdout
    assert done.stdout.strip().endswith("[]")


def test_coordinates_of_a_linear_basis(run, paths):
    """Directions are compared where a basis of the first run says; the others have no word."""
    plain, within = (
        json.loads(run("diff", *paths[:2], "--json", *more)[1])["differences"][0]["layers"]
        for more in ((), ("--coordinates", "lib"))
    )
    assert any(plain[name]["closest"] != pytest.approx(within[name]["closest"]) for name in plain)
    assert all(0 < each["closest_by_chance"][0] <= 1 for each in within.values())
    fails(run("diff", *paths[:2], "--coordinates", "sparse"), 2, "has no basis 'sparse'")
