"""`libgraph compare`: what it prints, what it writes, and what people get wrong."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.commands import fails
from helpers.metrics import metrics_of
from rich.console import Console
from safetensors.torch import load_file, save_file

import libgraph as lg
from libgraph.comparison.rows import Column, Row, Style, comparison_rows
from libgraph.comparison.side_by_side import Comparison, print_comparison
from libgraph.runs.saved_run import open_run
from libgraph_backends.modular_addition.backend import ModularAddition

ADDED_LATER = {"curves", "area", "sparsity_total"}


@pytest.fixture(scope="module")
def finished(weights, tmp_path_factory) -> Path:
    """Three runs: `one` with two bases and all measures, `other/one` of LIB, `other/two` of PCA."""
    path = tmp_path_factory.mktemp("compare")
    model = ModularAddition(weights=weights)
    both = {"draws": 2, "halves": True, "curves": True, "tolerances": (0.001, 0.05)}
    lg.analyze(model, out=path / "one", seeds=2, beside=("neuron",), **both)
    lg.analyze(model, out=path / "other" / "one", seeds=2, ablate=False)
    lg.analyze(model, out=path / "other" / "two", seeds=2, basis="pca", beside=())
    return path


@pytest.fixture
def runs(finished, tmp_path, run) -> Path:
    for name in ("one", "other"):
        shutil.copytree(finished / name, tmp_path / name)
    return tmp_path


def change(path: Path, edit) -> None:
    metrics = json.loads((path / "metrics.json").read_text())
    edit(metrics)
    (path / "metrics.json").write_text(json.dumps(metrics))
    # What is not what was written would be refused; earlier versions kept no checksums.
    record = json.loads((path / "run.json").read_text())
    for key in ("files", "sha256"):
        record.pop(key, None)
    (path / "run.json").write_text(json.dumps(record))


def table(out: str) -> dict[tuple[str, str], list[str]]:
    """Cells by measure, which stands in the first of its rows, and place."""
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("measure"))
    where = lines[start].index("where")
    cells: dict[tuple[str, str], list[str]] = {("", "where"): lines[start].split()[2:]}
    measure = ""
    for line in lines[start + 1 :]:
        if not line.strip():
            break
        measure = line[:where].strip() or measure
        place, *values = re.split(r"\s{2,}", line[where:].strip())
        cells[measure, place.replace(" → ", "->")] = values
    return cells


def test_bases_of_one_run(run, runs):
    code, out, err = run("compare", "one")
    assert code == 0, err
    assert out.startswith("modular-addition: bases side by side")
    metrics = json.loads((runs / "one" / "metrics.json").read_text())
    bases = [metrics["bases"][name] for name in ("lib", "neuron")]
    cells = table(out)
    assert cells["", "where"] == ["lib", "neuron"]
    pair, layer = "ln1.0->ln2.0", "ln2.0"
    for basis, column in zip(bases, (0, 1), strict=True):
        modules = basis["modules"]
        expected = {
            ("test accuracy", "total"): f"{metrics['score']['test']:.4f}",
            ("features kept", layer): str(basis["features"][layer]),
            ("features kept", "total"): str(sum(basis["features"].values())),
            ("effective edges", pair): f"{basis['sparsity'][pair]['participation_ratio']:.1f}",
            ("Hoyer", "total"): f"{basis['sparsity_total']['hoyer']:.3f}",
            ("Gini", pair): f"{basis['sparsity'][pair]['gini']:.4f}",
            ("top 1 % share", "total"): f"{basis['sparsity_total']['top_share']:.3f}",
            ("area, features", layer): f"{basis['area']['nodes'][layer]:.3f}",
            ("area, edges", pair): f"{basis['area']['edges'][pair]:.3f}",
            ("modules", "total"): str(modules["count"]),
            ("modularity", "total"): f"{modules['modularity']:.3f}",
            ("seeds agree", "total"): f"{modules['agreement']:.2f}",
            ("halves agree", "total"): f"{modules['halves']:.2f}",
            ("within one frequency", "total"): f"{modules['within_concept']:.0%}",
        }
        needed = [by["0.001"] for by in basis["features_required"].values()]
        assert None not in needed
        expected["features needed, Δ 0.001", "total"] = str(sum(needed))
        for delta in ("0.001", "0.05"):
            found = {each: by[delta] for each, by in basis["edges_required"].items()}
            expected[f"edges needed, Δ {delta}", pair] = str(found[pair])
            expected[f"edges needed, Δ {delta}", "total"] = str(sum(found.values()))
        for place, text in expected.items():
            assert cells[place][column] == text, place
    significance = bases[0]["modules"]["significance"]
    assert cells["more than chance, z", "total"] == [f"{significance['z']:.1f}", "-"]
    assert cells["more than chance, p", "total"] == [f"{significance['p']:.2g}", "-"]
    assert ("features needed, Δ 0.05", "total") not in cells
    assert not (runs / "one" / "comparison.png").exists()


def test_json_has_the_numbers_of_the_table(run, runs):
    printed = table(run("compare", "one")[1])
    found = json.loads(run("compare", "one", "--json")[1])
    assert list(found["columns"]) == ["lib", "neuron"]
    column = found["columns"]["neuron"]
    assert (column["run"], column["basis"], column["backend"]) == (
        "one", "neuron", "modular-addition"
    )  # fmt: skip
    assert column["score"]["name"] == "accuracy"
    assert [(row["measure"], row["where"]) for row in found["rows"]] == list(printed)[1:]
    values = {(row["measure"], row["where"]): row["values"] for row in found["rows"]}
    metrics = json.loads((runs / "one" / "metrics.json").read_text())["bases"]
    assert values["Hoyer", "total"] == {
        name: metrics[name]["sparsity_total"]["hoyer"] for name in ("lib", "neuron")
    }
    assert list(values["more than chance, p", "total"]) == ["lib"]
    better = {row["measure"]: row["better"] for row in found["rows"]}
    assert (better["Gini"], better["features kept"]) == ("higher", "lower")
    assert better["modularity"] is None


def test_several_runs(run, runs, monkeypatch):
    # Wide enough for names of folders, which fold otherwise.
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = run("compare", "one", "other/one", "other/two")
    assert code == 0, err
    assert "runs side by side" in out
    names = [f"{runs.name}/one lib", "other/one lib", "other/two pca"]
    assert " ".join(table(out)["", "where"]) == " ".join(names)
    found = json.loads(run("compare", "one", "other/one", "other/two", "--json")[1])
    assert list(found["columns"]) == names
    values = {(row["measure"], row["where"]): row["values"] for row in found["rows"]}
    assert list(values["edges needed, Δ 0.001", "total"]) == [names[0], names[2]]
    assert list(values["edges needed, Δ 0.05", "total"]) == [names[0]]
    assert len(values["test accuracy", "total"]) == 3


def test_a_basis_of_several_runs(run, runs):
    found = json.loads(run("compare", "other/one", "other/two", "--basis", "pca", "--json")[1])
    assert list(found["columns"]) == ["one", "two"]
    assert {column["basis"] for column in found["columns"].values()} == {"pca"}
    assert "runs side by side, lib basis" in run("compare", "one", "other/one", "--basis", "lib")[1]
    assert table(run("compare", "one", "--basis", "neuron")[1])["", "where"] == ["neuron"]


def test_a_run_of_an_earlier_version(run, runs):
    def strip(metrics):
        metrics.pop("concept")
        for basis in metrics["bases"].values():
            for name in ADDED_LATER:
                del basis[name]
            for name in ("halves", "significance"):
                basis["modules"].pop(name, None)

    change(runs / "one", strip)
    code, out, err = run("compare", "one", "--figure", "old.png")
    assert code == 0, err
    cells = table(out)
    assert ("Hoyer", "ln1.0->ln2.0") in cells
    assert ("Hoyer", "total") not in cells
    measures = {measure for measure, _ in cells}
    assert "modularity" in measures
    assert not measures & {"area, features", "area, edges", "halves agree", "more than chance, p"}
    both = table(run("compare", "one", "other/two")[1])
    assert both["area, features", "ln1.0"][0] == "-"


def test_edges_that_are_never_enough_or_all_zero(run, runs):
    def spoil(metrics):
        lib = metrics["bases"]["lib"]
        lib["edges_required"]["ln1.0->ln2.0"]["0.001"] = None
        lib["sparsity"]["ln1.0->ln2.0"] = None

    change(runs / "one", spoil)
    cells = table(run("compare", "one")[1])
    assert cells["edges needed, Δ 0.001", "ln1.0->ln2.0"][0] == "more"
    assert cells["edges needed, Δ 0.001", "total"][0] == "more"
    assert cells["edges needed, Δ 0.001", "total"][1].isdigit()
    assert cells["Gini", "ln1.0->ln2.0"][0] == "-"
    rows = json.loads(run("compare", "one", "--json")[1])["rows"]
    row = next(row for row in rows if row["measure"] == "edges needed, Δ 0.001")
    assert row["values"]["lib"] is None


def test_the_best_value_of_a_row_is_the_one_that_reads_best():
    def best(better, form="{:.2f}", **values):
        return Row("m", "total", values, Style(form, better)).best

    assert best(-1, a=1.0, b=2.0) == {"a"}
    assert best(1, a=1.0, b=2.0) == {"b"}
    assert best(0, a=1.0, b=2.0) == set()
    assert best(1, a=1.001, b=1.002, c=0.5) == {"a", "b"}
    assert best(1, a=1.001, b=1.002) == set()
    assert best(1, a=1.0) == set()
    assert best(-1, a=None, b=2.0) == {"b"}
    assert best(-1, a=None, b=None) == set()


def beside(columns: list[Column]) -> Comparison:
    return Comparison("toy", (), tuple(columns), tuple(comparison_rows(columns)))


def test_bold_on_terminals_alone(monkeypatch, capsys):
    metrics = metrics_of({"lib": {"features": {"a": 3}}, "pca": {"features": {"a": 12}}})
    comparison = beside([Column(name, name, metrics) for name in metrics.bases])
    for forced in ("", "1"):
        monkeypatch.setenv("FORCE_COLOR", forced)
        print_comparison(Console(), comparison)
        out = capsys.readouterr().out
        assert ("\x1b[1m" in out) == bool(forced)
    assert re.search(r"\x1b\[1m *3\x1b", out)
    assert not re.search(r"\x1b\[1m *12\x1b", out)


def test_a_table_of_five_bases_fits_a_hundred_columns(run, runs):
    def widen(metrics):
        lib = metrics["bases"]["lib"]
        metrics["bases"] = dict.fromkeys(["neuron", "pca", "random", "global", "lib"], lib)
        for basis in metrics["bases"].values():
            basis["sparsity"]["unembed->output"]["participation_ratio"] = 12345.678

    change(runs / "one", widen)
    out = run("compare", "one")[1]
    assert "12345.7" in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("width", [20, 60, 100])
def test_terminals_fold_names_and_no_numbers(monkeypatch, capsys, width):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    pair = "a.long.name.of.a.layer->another.long.name.of.a.layer"
    metrics = metrics_of({"lib": {"edges_required": {pair: {"0.001": 1234567}}}})
    columns = [Column(f"a-run-with-a-long-name-{i}", "lib", metrics) for i in range(3)]
    print_comparison(Console(), beside(columns))
    lines = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
    assert sum(line.count("1234567") for line in lines) == 3
    assert max(map(len, lines)) <= max(width, 90)


def test_losses_are_better_lower_whether_a_run_says_so_or_not():
    def score_row(**score):
        metrics = metrics_of({"lib": {}}, score={"test": 1.0, **score})
        return comparison_rows([Column("lib", "lib", metrics)])[0].style.better

    assert score_row(name="accuracy") == 1
    assert score_row(name="cross-entropy") == -1
    assert score_row(name="of my own", higher_is_better=False) == -1


def test_a_figure_where_it_is_asked_for(run, runs):
    pytest.importorskip("matplotlib")
    code, out, err = run("compare", "one", "--figure", "a.png")
    assert code == 0, err
    assert "Drawn to a.png." in out
    assert run("compare", "one", "--figure", "b.png", "--json")[0] == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_a_backend_is_analysed_once_with_all_bases(run, model, weights, tmp_path):
    save_file({"ln2.0/decoder": torch.eye(8)[:4]}, tmp_path / "mine.safetensors")
    what = ("compare", "modular-addition", "-o", f"weights={model}", "--out", "r", "--seed", 3)
    code, out, err = run(*what, "--bases", "pca, lib,mine.safetensors", "--draws", 2)
    assert code == 0, err
    cells = table(out)
    assert cells["", "where"] == ["pca", "lib", "mine"]
    assert cells["more than chance, p", "total"][1] != "-"
    assert "halves agree" in out
    assert "Drawn to" in out
    assert (tmp_path / "r" / "comparison.png").is_file()
    saved = open_run(tmp_path / "r")
    assert (saved.basis, saved.basis_names) == ("lib", ("lib", "pca", "mine"))
    options = saved.record["options"]
    assert (options["draws"], options["halves"], options["curves"]) == (2, True, True)
    assert options["seed"] == 3
    assert saved.metrics.modules.seed == 3
    # The bases are those of an analysis of their own: the data are the same.
    lg.analyze(ModularAddition(weights=weights), out=tmp_path / "alone", seed=3)
    first, second = (load_file(tmp_path / name / "bases.safetensors") for name in ("r", "alone"))
    assert all(torch.equal(first[name], second[name]) for name in second)
    again = json.loads(run("compare", "r", "--json")[1])
    assert set(again["columns"]) == {"pca", "lib", "mine"}


def test_the_first_basis_is_the_main_one_where_lib_is_not_asked_for(run, model, tmp_path):
    what = ("compare", "modular-addition", "-o", f"weights={model}", "--out", "r", "--no-ablation")
    code, out, err = run(*what, "--bases", "random,neuron", "--draws", 0, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert list(found["columns"]) == ["random", "neuron"]
    assert open_run(tmp_path / "r").basis == "random"
    assert not any(row["measure"].startswith("edges needed") for row in found["rows"])


def test_dry_run(run, model, tmp_path):
    code, out, err = run("compare", "modular-addition", "-o", f"weights={model}", "--dry-run")
    assert code == 0, err
    assert "about" in out
    assert not (tmp_path / "runs").exists()


def test_halves_of_one_sample(run, model):
    backend = ("modular-addition", "-o", f"weights={model}")
    fails(run("compare", *backend, "--limit", 1, "--draws", 0), 2, "at least two samples")


@pytest.mark.parametrize(
    ("option", "name"),
    [
        (("--seed", 1), "--seed"),
        (("--out", "x"), "--out"),
        (("--no-ablation",), "--no-ablation"),
        (("--tolerance", 0.1), "--tolerance"),
        (("--bases", "lib"), "--bases"),
        (("--draws", 3), "--draws"),
        (("-o", "weights=w"), "--option"),
        (("--config", "seed.toml"), "--seed"),
        (("--config", "option.toml"), "--option"),
    ],
)
def test_options_of_an_analysis_with_runs(run, runs, option, name):
    Path("seed.toml").write_text("seed = 1")
    Path("option.toml").write_text("[option]\nweights = 'w'")
    fails(run("compare", "one", "other/two", *option), 2, f"{name} is for a backend")


def test_a_session_with_settings_of_its_own_compares_runs_all_the_same(run, runs, monkeypatch):
    monkeypatch.setenv("LIBGRAPH_COMPARE_SEED", "1")
    assert run("compare", "one")[0] == 0


def test_a_run_that_has_the_name_of_a_backend(run, runs):
    shutil.copytree("one", "modular-addition")
    code, out, err = run("compare", "modular-addition", "--json")
    assert code == 0, err
    assert list(json.loads(out)["columns"]) == ["lib", "neuron"]


def test_mistakes(run, runs):
    fails(run("compare"), 2, "BACKEND")
    fails(run("compare", "modular-adition"), 2, "neither a run nor a backend", "'modular-addition'")
    fails(run("compare", "one", "three"), 2, "There is no run 'three'")
    fails(run("compare", "one", "other/../one"), 2, "given twice")
    fails(run("compare", "one", "other/two", "--basis", "lib"), 2, "other/two", "no basis 'lib'")
    fails(run("compare", "modular-addition", "--basis", "pca"), 2, "--bases pca")
    fails(run("compare", "modular-addition", "--bases", ","), 2, "--bases", "no basis")
    fails(run("compare", "modular-addition", "--bases", "nonesuch"), 2, "'nonesuch'", "pca")
    fails(run("compare", "modular-addition", "--draws", "-1"), 2, "--draws")
    fails(run("compare", "one", "--figure", "figure.gif"), 2, "'figure.gif'", ".png")
    fails(run("compare", "modular-addition", "--figure", "figure.gif"), 2, "'figure.gif'")
    Path("file").write_text("")
    fails(run("compare", "one", "--figure", "file/figure.png"), 2, "Cannot write")
    fails(run("compare", "file"), 2, "'file' is no run")
    Path("one").rename("one.partial")
    fails(run("compare", "one"), 2, "not finished")


def test_help_loads_no_torch():
    code = (
        "import sys; from libgraph_cli.main import cli\n"
        "try: cli(['compare', '--help'], prog_name='libgraph')\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'igraph') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--bases" in done.stdout
    assert "--integration" in done.stdout
    assert done.stdout.strip().endswith("[]")


@pytest.fixture(scope="module")
def published(reference) -> tuple[Path, dict]:
    """The authors' model of modular addition, and their results on it."""
    folder = reference / "modular_addition_seed0"
    return folder / "model.pt", json.loads((folder / "expected.json").read_text())


@pytest.mark.slow
def test_published_numbers(run, published):
    """Edges needed give or take two, and ablation curves within three test samples."""
    weights, expected = published
    code, out, _ = run(
        "compare", "modular-addition", "-o", f"weights={weights}", "--bases", "pca,lib", "--draws",
        0, "--truncate", "abs:1e-15", "--json", "--out", "authors", "-q",
    )  # fmt: skip
    assert code == 0
    values = {(row["measure"], row["where"]): row["values"] for row in json.loads(out)["rows"]}
    metrics = json.loads(Path("authors/metrics.json").read_text())
    few = pytest.approx(0, abs=3 / 8939)
    for basis in ("lib", "pca"):
        curves = metrics["bases"][basis]["curves"]
        needed = expected[basis]["edges_required_at_0.001_accuracy"]
        for place, found in curves["edges"].items():
            source = place.partition("->")[0]
            assert values["edges needed, Δ 0.001", place][basis] == pytest.approx(
                needed[source], abs=2
            )
            curve = expected[basis]["edge_ablation_accuracy_by_edges_kept"][source]
            assert len(common := set(found) & set(curve)) >= 8
            assert all(found[kept] - curve[kept] == few for kept in common)
        for layer, curve in expected[basis]["node_ablation_accuracy_by_nodes_kept"].items():
            found = curves["nodes"][layer]
            assert len(common := set(found) & set(curve)) >= 10
            assert all(found[kept] - curve[kept] == few for kept in common)
