"""`libgraph faithfulness`: tables, JSON, figure, and what people get wrong."""

from __future__ import annotations

import json

import pytest
from helpers.commands import fails

import libgraph as lg


@pytest.fixture(scope="session")
def planted(made_once):
    """A run whose network does better than nothing, unlike that of the others."""

    def make(path):
        backend = lg.load_backend("mlp", blocks=2, width=2, layers=1, samples=60)
        lg.analyze(backend, out=path, ablate=False)

    return made_once("faithful", make)


def test_tables_and_figure(run, planted, tmp_path):
    figure = tmp_path / "f.png"
    few = ("--share", 0.05, "--share", 1, "--draws", 1)
    code, out, err = run("faithfulness", planted, *few, "--restore", 2, "--figure", figure)
    assert code == 0, err
    assert "LIB" in out
    assert "PCA" in out
    assert "10 % of the edges, and 2 random subsets" in out
    assert f"Written to {figure}" in " ".join(out.split())
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "circuits, LIB" in err


def test_a_network_that_has_learned_nothing(run, finished, tmp_path):
    few = ("--share", 0.5, "--draws", 1, "--limit", 20, "--figure", tmp_path / "f.png")
    code, out, err = run("faithfulness", finished, *few)
    assert "the whole network scores as it does without edges" in out
    fails((code, out, err), 2, "There is nothing to draw")


def test_json(run, finished):
    code, out, err = run(
        "faithfulness", finished, "--basis", "pca", "--draws", 0, "--share", 0.5, "--limit", 20,
        "--baseline", "resample", "--order", "share", "--json", "-q",
    )  # fmt: skip
    assert (code, err) == (0, "")
    values = json.loads(out)
    assert list(values["bases"]) == ["pca"]
    assert values["samples"] == 20
    assert values["options"]["baseline"] == "resample"
    assert values["bases"]["pca"]["shares"] == [0.5]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--basis", "ica"], "no basis 'ica'"),
        (["--share", "1.5"], "1 at most"),
        (["--baseline", "median"], "--baseline"),
        (["--figure", "f.txt"], ".png"),
        (["--restore", "-1"], "--restore"),
    ],
)
def test_mistakes(run, finished, arguments, said):
    fails(run("faithfulness", finished, *arguments), 2, said)


def test_a_run_that_is_none(run, tmp_path):
    fails(run("faithfulness", tmp_path / "nothing"), 2, "nothing")
