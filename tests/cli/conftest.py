"""One finished analysis for all tests of commands: they read it, or take a copy."""

from __future__ import annotations

import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import save_file

from libgraph_cli.main import main


class Finished(NamedTuple):
    """What a command wrote and printed."""

    path: Path
    out: str
    err: str


@pytest.fixture(scope="session")
def model(tmp_path_factory, weights) -> Path:
    """The tiny model, in one place: stages of one analysis of it serve another."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_file(weights, path)
    return path


@pytest.fixture(scope="session")
def analyzed(model, tmp_path_factory) -> Finished:
    """`libgraph analyze` of the tiny model, with all defaults."""
    path = tmp_path_factory.mktemp("analyzed") / "run"
    arguments = ["analyze", "modular-addition", "-o", f"weights={model}", "--out", str(path)]
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as err,
    ):
        patch.setattr(sys, "argv", ["libgraph", *arguments])
        main()
    return Finished(path, out.getvalue(), err.getvalue())


@pytest.fixture
def finished(analyzed, tmp_path) -> Path:
    """A copy of it, where `analyze` writes: with --force its stages are used again."""
    return shutil.copytree(analyzed.path, tmp_path / "run")
