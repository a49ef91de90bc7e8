"""The command, a tiny model for it, and where the references are."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from libgraph_backends.modular_addition.options import TrainingOptions
from libgraph_backends.modular_addition.training import initial_weights
from libgraph_cli.main import main


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference results that lies beside the repository."""
    path = Path(__file__).resolve().parents[2] / "shared" / "reference"
    if not path.is_dir():
        pytest.skip(f"the reference results are not at '{path}'")
    return path


TINY = TrainingOptions(modulus=7, d_model=8, heads=2, d_mlp=12)


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in initial_weights(TINY).items()}


@pytest.fixture
def model(tmp_path, weights) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_file(weights, path)
    return path


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command in this process: `(exit code, stdout, stderr)`."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["libgraph", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def analyze(run, model, tmp_path):
    def call(*arguments: object, out: Path | None = None) -> tuple[int, str, str]:
        where = ("--out", out or tmp_path / "run")
        return run("analyze", "modular-addition", "-o", f"weights={model}", *where, *arguments)

    return call
