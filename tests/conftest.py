"""The command, a tiny model for it, what all workers share, and where the references are."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

# Before torch is imported, and for the processes that tests start: as many workers as cores run
# side by side, and threads that wait for each other would spin. What is set outside is kept.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from filelock import FileLock
from helpers.examples import PROFILE
from hypothesis import settings
from safetensors.torch import save_file

from libgraph_backends.modular_addition.options import TrainingOptions
from libgraph_backends.modular_addition.training import initial_weights
from libgraph_cli.main import main

settings.load_profile(PROFILE)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference results that lies beside the repository."""
    path = Path(__file__).resolve().parents[2] / "shared" / "reference"
    if not path.is_dir():
        pytest.skip(f"the reference results are not at '{path}'")
    return path


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`made_once(name, make)`: a folder or file that all workers share, by the first to need it.

    `make` gets a path where nothing is yet. What is there is not to be changed: take a copy.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    root = root / "made-once"
    root.mkdir(exist_ok=True)

    def path_of(name: str, make: Callable[[Path], object]) -> Path:
        path = root / name
        with FileLock(root / f"{name}.lock"):
            if not path.exists():
                # Under its own name only when it is whole.
                partial = Path(mkdtemp(dir=root)) / name
                make(partial)
                partial.rename(path)
        return path

    return path_of


TINY = TrainingOptions(modulus=7, d_model=8, heads=2, d_mlp=12)


@pytest.fixture(scope="session")
def weights() -> dict[str, torch.Tensor]:
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
