"""MLPs through the command: the default, rows of one's own, and mistakes in one sentence each."""

import json

import numpy as np
import pytest
import torch
from helpers.commands import fails
from helpers.numbers import normal, seeded
from safetensors.torch import save_file
from torch import nn

from libgraph.errors import BackendError, DataError, UsageError
from libgraph.report.reading import read_graph
from libgraph_backends.mlp.backend import MLP


@pytest.fixture
def own(tmp_path):
    """A state dict, and rows for it."""
    save_file({"0.weight": torch.ones(2, 3)}, tmp_path / "own.safetensors")
    np.save(tmp_path / "rows.npy", normal(seeded(0), 30, 3).numpy())
    return tmp_path


def command(run, *options, out="out"):
    flags = [part for option in options for part in ("-o", option)]
    return run("analyze", "mlp", *flags, "--no-ablation", "--out", out, "--quiet")


def test_the_default_runs_and_writes_the_truth(run, tmp_path):
    code, out, err = run("analyze", "mlp", "-o", "samples=3000", "--out", tmp_path / "run")
    assert code == 0, err
    assert "relative error" in out
    assert "homogeneity" in out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["modules"]["homogeneity"] > 0.85
    assert "adjusted_rand_index" in metrics["bases"]["pca"]["modules"]
    graph = read_graph(tmp_path / "run" / "graph.json")
    assert {label.concept for label in graph.layer("hidden1").labels} == {None, "0", "1"}


def test_rows_of_ones_own(run, own):
    model = f"model={own / 'own.safetensors'}"
    assert command(run, "task=own", model, f"data={own / 'rows.npy'}")[0] == 0
    assert command(run, "task=own", model, "samples=50", out="more")[0] == 0


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (
            ["task=mnist"],
            2,
            "needs the folder with the files of MNIST: -o data=DIR, or -o download",
        ),
        (["task=mnist", "data=.", "download=true"], 2, "two places to have MNIST from"),
        (["task=mnist", "download=true"], 2, "needs a model: -o model=FILE"),
        (["task=digits", "download=true"], 2, "download=true fetches MNIST: use it with task=mn"),
        (["download=true"], 2, "download=true fetches MNIST"),
        (["task=mnist", "download=perhaps"], 2, "'download'"),
        (["task=mnist", "data=."], 2, "needs a model: -o model=FILE"),
        (["task=own"], 2, "needs the state dict"),
        (["task=else"], 2, "'task'"),
        (["data=."], 2, "task=modular makes its own"),
        (["model=x.pt"], 2, "task=modular makes its own"),
        (["strengths=1,2,3"], 2, "3 strengths do not fit 2 blocks"),
        (["strengths=1,-2"], 2, "'strengths'"),
        (["strengths=1,x"], 2, "'strengths"),
        (["interaction=-1"], 2, "'interaction'"),
        (["correlation=2"], 2, "'correlation'"),
        (["blocks=0"], 2, "'blocks'"),
        (["sizes=784"], 2, "at least two positive"),
        (["activation=cos"], 2, "'activation'"),
        (["task=own", "model=none.pt"], 3, "no weights file 'none.pt'"),
        (["task=own", "model={own}", "sizes=4,2"], 3, "'0.weight' should be 2 × 4, not 2 × 3"),
        (["task=digits", "model={own}"], 3, "takes 3 inputs, but the data have 64"),
        (["task=digits", "model={narrow}"], 3, "has 2 outputs, but the train split has class 9"),
        (["task=digits", "sizes=64,10"], 3, "2 sizes need 1 weights, not 3"),
        (["task=own", "model={own}", "data={wide}"], 3, "takes 3 inputs, but the data have 4"),
        (["task=own", "model={own}", "data={flat}"], 4, "inputs are all the same"),
        (["task=own", "model={own}", "data={nan}"], 4, "NaN or infinite"),
        (["task=own", "model={own}", "data={few}"], 4, "2 samples are too few"),
        (["task=own", "model={own}", "data={row}"], 4, "a row for each sample"),
        (["task=own", "model={own}", "data={own}"], 4, "no .npy file"),
        (["task=own", "model={own}", "data=none.npy"], 4, "'none.npy' cannot be read"),
        (["task=own", "model={dead}"], 4, "outputs are all the same"),
        (["task=mnist", "data=.", "model={own}"], 4, "no 'train-images-idx3-ubyte'"),
    ],
)
def test_mistakes_are_one_sentence(run, own, options, code, said):
    arrays = {
        "wide": np.random.default_rng(0).normal(size=(9, 4)),
        "flat": np.ones((9, 3)),
        "nan": np.full((9, 3), np.nan),
        "few": np.eye(3)[:2],
        "row": np.ones(9),
    }
    for name, array in arrays.items():
        np.save(own / f"{name}.npy", array)
    save_file({"0.weight": torch.ones(2, 64)}, own / "narrow.safetensors")
    save_file({"0.weight": torch.zeros(2, 3)}, own / "dead.safetensors")
    places = {name: own / f"{name}.npy" for name in arrays}
    places |= {name: own / f"{name}.safetensors" for name in ("own", "narrow", "dead")}
    fails(command(run, *(option.format(**places) for option in options)), code, said)


def test_training_mistakes(run):
    fails(run("train", "mlp", "-o", "task=mnist", "--out", "x"), 2, "needs the folder", "download=")
    fails(run("train", "mlp", "-o", "download=true", "--out", "x"), 2, "use it with task=mnist")
    both = ("-o", "task=mnist", "-o", "data=.", "-o", "download=true")
    fails(run("train", "mlp", *both, "--out", "x"), 2, "two places to have MNIST from")
    fails(
        run("train", "mlp", "-o", "hidden=0", "--out", "x"), 2, "hidden.0", "it has to be above 0"
    )
    fails(run("train", "mlp", "-o", "task=modular", "--out", "x"), 2, "'task'")
    data = ("-o", "task=mnist", "-o", "data=nowhere")
    fails(run("train", "mlp", *data, "--out", "x"), 4, "no 'train-images-idx3-ubyte'")


def test_wrong_uses_in_python():
    with pytest.raises(UsageError, match="for a module of your own"):
        MLP(inputs=torch.ones(4, 2))
    module = nn.Sequential(nn.Linear(2, 3))
    rows = torch.randn(20, 2, generator=seeded(0))
    for targets, said in (
        (torch.arange(19) % 3, "20 inputs, but targets of shape"),
        (torch.ones(20), "whole numbers"),
        (torch.arange(20) % 3 - 1, "whole numbers"),
    ):
        with pytest.raises(DataError, match=said):
            MLP(module=module, inputs=rows, targets=targets).samples("train")
    with pytest.raises(BackendError, match="3 outputs, but the train split has class 3"):
        MLP(module=module, inputs=rows, targets=torch.arange(20) % 4).samples("train")
